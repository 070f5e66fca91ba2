"""CTC log-probabilities to text: greedy, beam search with language models and lexicons, flashlight."""
