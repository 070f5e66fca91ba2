"""Speech recognition around the model: transcripts, language models, decoding, scoring."""
