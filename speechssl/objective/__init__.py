"""What is learned: the contrastive task of wav2vec 2.0, HuBERT's masked prediction, and CTC."""
