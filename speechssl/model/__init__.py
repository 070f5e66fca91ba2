"""The shared encoder: a convolutional feature extractor and a Transformer, with span masks and LoRA adapters."""
