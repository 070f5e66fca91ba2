"""Speech self-supervised representation learning: wav2vec 2.0 and HuBERT on one trunk, CTC fine-tuning, WER."""

__version__ = "0.2.0"
