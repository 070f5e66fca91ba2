"""Speech data for training: utterances, manifests, labels, augmentation and batches."""
