"""Which parameters learn, and how fast: layer-wise learning rates, and what is said of them before the first step.

The head learns at the full rate, each layer of the trunk `layer_decay` times as fast as the one above it, what comes
before the layers slowest: as BEiT (arXiv:2106.08254) and ELECTRA (arXiv:2003.10555) are fine-tuned.
"""

import itertools
from typing import Any

from torch import nn

from speechssl.model.encoder import Place
from speechssl.tasks.model import TaskModel

__all__ = ["describe_learning", "parameter_groups", "places_of"]


def parameter_groups(model: nn.Module, layer_decay: float) -> list[dict[str, Any]]:
    """List the parameters that learn, as an optimiser takes them.

    Checkpoints count an optimiser's parameters in the order of the model. So a group is a run of neighbours that
    learn alike, and two groups may have the same rate.

    Args:
        model: of any kind without decay; else with a trunk.
        layer_decay: from a layer to the one below it; 1 makes a single group.

    Returns:
        For each group `params`, and `lr_scale`, which the learning rate is multiplied by.

    Raises:
        ValueError: the rates of a model without a trunk are to decay.
    """
    if layer_decay != 1 and not isinstance(model, TaskModel):
        raise ValueError(f"a {type(model).__name__} has no trunk whose layers could learn at rates of their own")
    places = places_of(model)
    learning = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    scales = [layer_decay ** _layers_above(places.get(name)) for name, _ in learning]
    return [
        {"params": [parameter for _, (_, parameter) in run], "lr_scale": scale}
        for scale, run in itertools.groupby(zip(scales, learning, strict=True), key=lambda pair: pair[0])
    ]


def describe_learning(model: TaskModel, layer_decay: float) -> list[str]:
    """Say what learns how fast and what is frozen, a line for each run of parts that are alike."""
    rows: list[tuple[int, str, str, int]] = []  # rank from the waveform up, part, how fast, parameters
    places = places_of(model)
    for name, parameter in model.named_parameters():
        place = places.get(name)
        speed = f"x {layer_decay ** _layers_above(place):.3g}" if parameter.requires_grad else "frozen"
        rows.append((*_part(place), speed, parameter.numel()))
    lines = []
    for speed, run in itertools.groupby(sorted(rows), key=lambda row: row[2]):
        members = list(run)
        parts = list(dict.fromkeys(part for _, part, *_ in members))
        named = parts[0] if len(parts) == 1 else f"{parts[0]} to {parts[-1]}"
        lines.append(f"learning rate {speed:<8} {sum(number for *_, number in members):>12,} parameters: {named}")
    return lines


def places_of(model: nn.Module) -> dict[str, Place]:
    """Return where each parameter of the trunk is, by its name in the model; nothing for a model without a trunk."""
    if not isinstance(model, TaskModel):
        return {}
    return {f"encoder.{name}": place for name, place in model.encoder.places().items()}


def _layers_above(place: Place | None) -> int:
    """Count what is above a parameter: none above the head, the head above the last layer, all before the first."""
    return 0 if place is None else place.layers_above


def _part(place: Place | None) -> tuple[int, str]:
    """Return the part of the model that a parameter is of, after its rank from the waveform up."""
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
