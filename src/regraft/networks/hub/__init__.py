"""Networks in Hugging Face format: the files that are read, the settings that reach the library, and sample inputs."""
