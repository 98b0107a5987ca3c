"""The plan on disk: its parts, its checks, its evidence."""
