"""The trunk that fine-tuning starts from: pretrained weights, all random ones, or random ones in the top layers."""

import copy

from speechssl.errors import ConfigError
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.saved import SavedModel
from speechssl.train.checkpoint import fill

__all__ = ["starting_encoder"]


def starting_encoder(
    start: SavedModel, config: EncoderConfig, *, reset_layers: int = 0, random_weights: bool = False
) -> SpeechEncoder:
    """Build a trunk; what is random in it comes from torch's default generator.

    Args:
        start: pretrained.
        config: of the trunk; its architecture is that of `start`.
        reset_layers: Transformer layers, from the last, that keep their random weights. The last ones know most of
            what they were pretrained to predict, and with few labels a fresh start may serve them better (Zhang et
            al., "Revisiting few-sample BERT fine-tuning", arXiv:2006.05987).
        random_weights: all keep them.

    Raises:
        ConfigError: more layers are to be reset than there are.
        CheckpointError: the parameters of `start` do not fit.
    """
    encoder = SpeechEncoder(config)
    layers = encoder.transformer.layers
    if reset_layers > len(layers):
        raise ConfigError(f"reset_layers is {reset_layers}, expected at most {len(layers)}, all layers of {start.name}")
    if random_weights:
        return encoder
    fresh = [copy.deepcopy(layer.state_dict()) for layer in layers[len(layers) - reset_layers :]]
    fill(encoder, start.tensors, prefix="encoder.", where=start.name)
    for layer, weights in zip(layers[len(layers) - reset_layers :], fresh, strict=True):
        layer.load_state_dict(weights)
    return encoder
