"""One reader for each form of source: pairs of arrays, tables, folders; and labels to targets."""
