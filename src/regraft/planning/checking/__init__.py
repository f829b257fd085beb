"""What is told of a network and data before anything is trained."""
