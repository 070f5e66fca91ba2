"""Parameter groups with layer-wise learning rates, and their description for the user.

The head learns at the full rate, each layer of the encoder `layer_decay` times as fast as the layer above it, and
everything before the layers slowest, as in the fine-tuning of BEiT (arXiv:2106.08254) and ELECTRA (arXiv:2003.10555).
The whole encoder, adapters included, may learn at `encoder_rate` times that.
"""

import itertools
from typing import Any

from torch import nn

from speechssl.model.encoder import Place
from speechssl.tasks.model import TaskModel

__all__ = ["describe_learning", "parameter_groups", "places_of"]


def parameter_groups(model: nn.Module, layer_decay: float, encoder_rate: float = 1.0) -> list[dict[str, Any]]:
    """List the trainable parameters in groups for an optimiser.

    Checkpoints number an optimiser's parameters in the order of the model. So a group holds consecutive parameters with
    equal rates, and two groups may have the same rate.

    Args:
        model: the model; with a factor other than 1 it has to be a `TaskModel`.
        layer_decay: factor of the learning rate from a layer to the one below it.
        encoder_rate: factor of the learning rate of the whole encoder. If both are 1, there is a single group.

    Returns:
        For each group `params`, and `lr_scale`, the factor of the learning rate.

    Raises:
        ValueError: a factor is not 1 for a model without an encoder.
    """
    for name, factor in (("layer_decay", layer_decay), ("encoder_rate", encoder_rate)):
        if factor != 1 and not isinstance(model, TaskModel):
            raise ValueError(f"a {type(model).__name__} has no encoder, expected a TaskModel; set {name} to 1")
    places = places_of(model)
    learning = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    scales = [_factor(places.get(name), layer_decay, encoder_rate) for name, _ in learning]
    return [
        {"params": [parameter for _, (_, parameter) in run], "lr_scale": scale}
        for scale, run in itertools.groupby(zip(scales, learning, strict=True), key=lambda pair: pair[0])
    ]


def describe_learning(model: TaskModel, layer_decay: float, encoder_rate: float = 1.0) -> list[str]:
    """Describe learning rates and frozen parts, one line for consecutive parts with the same rate."""
    rows: list[tuple[int, str, str, int]] = []  # position from the waveform up, part, learning rate, parameters
    places = places_of(model)
    for name, parameter in model.named_parameters():
        place = places.get(name)
        speed = f"x {_factor(place, layer_decay, encoder_rate):.3g}" if parameter.requires_grad else "frozen"
        rows.append((*_part(place), speed, parameter.numel()))
    lines = []
    for speed, run in itertools.groupby(sorted(rows), key=lambda row: row[2]):
        members = list(run)
        parts = list(dict.fromkeys(part for _, part, *_ in members))
        named = parts[0] if len(parts) == 1 else f"{parts[0]} to {parts[-1]}"
        lines.append(f"learning rate {speed:<8} {sum(number for *_, number in members):>12,} parameters: {named}")
    return lines


def places_of(model: nn.Module) -> dict[str, Place]:
    """Return the place of each encoder parameter, by its name in the model; empty for a model without an encoder."""
    if not isinstance(model, TaskModel):
        return {}
    return {f"encoder.{name}": place for name, place in model.encoder.places().items()}


def _factor(place: Place | None, layer_decay: float, encoder_rate: float) -> float:
    """Return the factor of a parameter's learning rate; 1 for the head."""
    return 1.0 if place is None else encoder_rate * layer_decay**place.layers_above


def _part(place: Place | None) -> tuple[int, str]:
    """Return the position of a parameter's part, counted from the waveform up, and the name of the part."""
    match place:
        case None:
            return 10**6 + 1, "head"
        case Place(is_adapter=True):
            return 10**6, "adapters"
        case Place(part="extractor"):
            return 0, "extractor"
        case Place(part="layer", layer=int(number)):
            return 2 + number, f"layer {number}"
        case _:
            return 1, "projection, positions, norms"
