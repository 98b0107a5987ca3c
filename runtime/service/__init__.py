"""The network service of a device. Nothing of it is loaded before ``geoshift serve``."""
