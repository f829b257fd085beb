"""Sources of networks: live objects, files, names and saved folders."""
