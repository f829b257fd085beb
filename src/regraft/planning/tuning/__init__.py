"""Training below the heads: by the methods of adaptation, with what the old head says, and where the gradients point."""
