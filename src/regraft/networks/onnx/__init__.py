"""ONNX files as networks. Nothing here needs PyTorch unless it says so."""
