"""Components of every network, independent of its family."""
