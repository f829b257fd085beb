"""Readers for each form of source (pairs of arrays, tables, folders), and conversion of labels to targets."""
