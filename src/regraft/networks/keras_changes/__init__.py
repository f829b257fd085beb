"""Other networks out of a Keras network."""
