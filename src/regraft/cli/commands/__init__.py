"""The commands, one module each. `add_to` registers a command."""
