"""Reads and writes features in files of several formats, with a description and an index."""
