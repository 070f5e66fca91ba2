"""Speech as training sees it: audio files, manifests, labels, texts, and the batches made of them."""
