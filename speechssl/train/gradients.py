"""Gradient norms of each part of a model, which show which parts learn."""

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from speechssl.model.encoder import Place
from speechssl.parallel import whole
from speechssl.train.groups import places_of

__all__ = ["gradient_norms"]


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradient norm of each part of a model, () float32 each, on its device.

    The parts are the extractor, the projection (with the mask vector and the norms outside of layers), the positions,
    the first, middle and last third of the layers, and the head (quantizer, label embeddings or CTC head). Parts
    without gradients are left out.
    """
    places = places_of(model)
    num_layers = len({place.layer for place in places.values() if place.part == "layer"})
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(_part(places.get(name), num_layers), []).append(parameter.grad)
    return {f"grad_norm_{part}": whole(get_total_norm(gradients)) for part, gradients in parts.items()}


def _part(place: Place | None, num_layers: int) -> str:
    match place:
        case None:
            return "head"
        case Place(part="layer", layer=int(number)):
            return ("first", "middle", "last")[number * 3 // num_layers] + "_layers"
        case _:
            return place.part
