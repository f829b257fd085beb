"""From raw items to what a network takes: one file for each kind."""
