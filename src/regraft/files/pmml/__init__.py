"""PMML: the format of dense networks that are exchanged as XML."""
