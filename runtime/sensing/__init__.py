"""What a device sees and tells the operating system: battery, temperature, meters, power commands."""
