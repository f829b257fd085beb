"""Below the items: files and their kinds, pixels, and the threads that decode them."""
