"""Who is told of a training, besides its history."""
