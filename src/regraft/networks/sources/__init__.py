"""Where networks come from: live objects, files, names, saved folders."""
