"""Networks in Hugging Face format: which files are read, what of them reaches the library, and what the networks are run with."""
