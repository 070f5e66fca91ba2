"""Reads audio from files, pipes and URLs: headers, decoding, resampling, and checks."""
