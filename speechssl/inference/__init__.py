"""Inference from Python: load a model by name and apply it to audio, as the commands do, without files in between."""
