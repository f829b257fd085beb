"""What the Keras family is made of; imported only where a Keras network is at hand."""
