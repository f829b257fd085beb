"""Training below the heads: by layer selection or by a method of adaptation, with the old head as a teacher if wanted."""
