"""One table of layers that both families have: a Keras graph as a PyTorch module, and a PyTorch program as a Keras graph."""
