"""Other networks out of a PyTorch network."""
