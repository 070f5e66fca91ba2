"""The input of the first Transformer layer: projected frames with positions, counted as layer 0 of a model."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from speechssl.model.transformer import Transformer

__all__ = ["first_inputs"]


@contextmanager
def first_inputs(transformer: Transformer) -> Iterator[list[Tensor]]:
    """Collect the input of the first layer of every forward pass in the block.

    It is the first of the hidden states of transformers and s3prl. It is taken before frames are packed or grouped, so
    its shape is that of the layers' outputs.

    Yields:
        A list to which each pass appends (batch, frames, dim), with gradient if the pass has one.
    """
    inputs: list[Tensor] = []
    hook = transformer.dropout.register_forward_hook(lambda _module, _given, output: inputs.append(output))
    try:
        yield inputs
    finally:
        hook.remove()
