"""Networks in the formats of other tools, run directly."""
