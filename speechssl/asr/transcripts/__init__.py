"""Transcripts: tokens and words with times, file formats, and the matching of hypotheses to references."""
