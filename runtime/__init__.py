"""The runtime: walks stored paths on a device while it answers inference (NumPy and ONNX Runtime, no torch)."""
