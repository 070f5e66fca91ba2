"""How large the gradients of each part of a model are: which part learns, and which has stopped."""

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from speechssl.parallel import whole

__all__ = ["gradient_norms"]


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return the norm of the gradients of each part of a model, () float32 each, on its device.

    The parts are the extractor, the projection (with the mask vector and the norms outside of layers), the positions,
    the first, middle and last third of the layers, and the head (quantizer, label embeddings or CTC's); a part without
    gradients is left out.
    """
    named = list(model.named_parameters())
    numbers = {int(name.split(".")[3]) for name, _ in named if name.startswith("encoder.transformer.layers.")}
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in named:
        if parameter.grad is not None:
            parts.setdefault(_part(name, len(numbers)), []).append(parameter.grad)
    return {f"grad_norm_{part}": whole(get_total_norm(gradients)) for part, gradients in parts.items()}


def _part(name: str, num_layers: int) -> str:
    match name.split("."):
        case ["encoder", "conv", *_]:
            return "extractor"
        case ["encoder", "transformer", "layers", number, *_]:
            return ("first", "middle", "last")[int(number) * 3 // num_layers] + "_layers"
        case ["encoder", "transformer", "positions", *_]:
            return "positions"
        case ["encoder", *_]:
            return "projection"
        case _:
            return "head"
