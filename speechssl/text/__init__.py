"""Text processing: normalisation, scripts, and tokens (letters, phones, word pieces)."""
