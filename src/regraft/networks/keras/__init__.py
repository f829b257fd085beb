"""The Keras family: bodies, edits and files. Import it only for Keras networks."""
