"""Speech as training sees it: utterances, manifests, labels, and the batches made of them."""
