"""Language models of words or letters: n-grams built from text, read from ARPA files, and lexicons."""
