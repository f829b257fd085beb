"""What a PyTorch network is put together from: its linear layers, wrappers around it, and other input channels."""
