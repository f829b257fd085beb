"""Preprocessing from raw examples to network inputs: one file for each kind."""
