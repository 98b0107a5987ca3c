"""Device profiles: what a device can do, allows and is asked to do."""
