"""Networks in the forms of other tools, run as they are."""
