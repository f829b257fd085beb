"""The PyTorch family: bodies, edits and files."""
