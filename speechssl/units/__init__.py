"""Hidden units of HuBERT: features, k-means of any size, labels of frames, and how well they agree with phones."""
