"""How a device is found on the local network."""
