"""The planner: finds cheaper configurations of a network and safe paths to them (PyTorch, desktop)."""
