"""Hidden units of HuBERT: features, k-means of any size, and labels of frames."""
