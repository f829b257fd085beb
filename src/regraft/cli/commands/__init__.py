"""One module a command; each adds itself to the program."""
