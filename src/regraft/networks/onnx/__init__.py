"""ONNX files as networks. Modules here need no PyTorch unless they say so."""
