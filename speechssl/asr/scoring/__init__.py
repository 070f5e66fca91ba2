"""How good transcripts are: word and character errors with intervals, pages to look at."""
