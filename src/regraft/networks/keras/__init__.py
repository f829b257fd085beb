"""The Keras family: bodies, edits and files; imported only where a Keras network is at hand."""
