"""The trunk that all methods share: a convolutional feature extractor and a Transformer, with masks and adapters."""
