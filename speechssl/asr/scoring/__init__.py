"""Scoring of transcripts: word and character error rates with intervals, summaries, HTML pages."""
