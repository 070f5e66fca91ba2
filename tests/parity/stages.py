"""Watch what leaves each stage of a trunk, ours or a reference's."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.model.encoder import SpeechEncoder

__all__ = ["Stages", "channels_last", "first", "our_stages", "watch"]

Stages = dict[
    str, tuple[nn.Module, Callable[[Any], Tensor]]
]  # module of each stage, and its output's (batch, frames, dim)


def first(output: Any) -> Tensor:
    """Return the tensor that a module returns, alone or at the head of a tuple."""
    return output if isinstance(output, Tensor) else output[0]


def channels_last(output: Tensor) -> Tensor:
    """Turn (batch, dim, frames) into (batch, frames, dim)."""
    return output.transpose(1, 2)


def our_stages(encoder: SpeechEncoder) -> Stages:
    """List our own stages, under the names that every reference's are given too."""
    layers = enumerate(encoder.transformer.layers)
    return {
        "extractor": (encoder.conv, first),
        "features": (encoder.norm, first),
        "projection": (encoder.project, first),
        "positions": (encoder.transformer.positions, first),
        **{f"layer {index}": (layer, first) for index, layer in layers},
        "final": (encoder.transformer, lambda layers: layers[-1]),
    }


def watch(stages: Stages, run: Callable[[], object]) -> dict[str, Tensor]:
    """Run a model without gradients and return what left each of its stages."""
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks, torch.no_grad():
        for name, (module, tensor_of) in stages.items():

            def keep(_module: nn.Module, _inputs: object, output: Any, name: str = name, of: Any = tensor_of) -> None:
                seen[name] = of(output).clone()  # references overwrite masked and padded frames in place

            hooks.enter_context(module.register_forward_hook(keep))
        run()
    assert seen.keys() == stages.keys()
    return seen
