"""What every network is made of, whatever its family."""
