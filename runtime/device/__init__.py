"""A device as a whole: its network, its switches, and what it says of itself."""
