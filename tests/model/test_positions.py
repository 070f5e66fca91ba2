"""Convolutional positions: speechssl.model.positions."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch.nn import functional

from speechssl.model import fast
from speechssl.model.fast.positions import correlate
from speechssl.model.positions import PositionalConv
from tests.model.tiny import distance, noise


@pytest.mark.parametrize(
    ("dim", "kernel", "groups", "dtype"),
    [
        (64, 6, 2, torch.bfloat16),
        (8, 6, 2, torch.float32),
        (32, 16, 4, torch.float32),  # oneDNN's own convolution is wrong there where the processor has AMX
        (192, 32, 16, torch.float32),  # the positions of `EncoderConfig.small`
        (768, 128, 16, torch.bfloat16),  # BASE
    ],
)
def test_autocast_convolves_wide_groups_and_agrees(dim: int, kernel: int, groups: int, dtype: torch.dtype) -> None:
    positions, x = PositionalConv(dim, kernel, groups), noise(2, 40, dim)
    with torch.autocast("cpu", torch.bfloat16):
        found = positions(x)
    expected = positions(x)
    assert found.dtype == dtype
    assert float((found - expected).detach().norm() / expected.detach().norm()) < 0.01


@pytest.mark.parametrize(
    ("batch", "frames", "grad", "is_convolved"),
    [(1, 20, False, True), (1, 20, True, False), (2, 5, False, True), (2, 6, False, False), (1, 25, False, False)],
)
def test_what_is_short_is_convolved_without_gradients_and_agrees(
    batch: int, frames: int, grad: bool, is_convolved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = PositionalConv(8, 6, 2), noise(batch, frames, 8)
    expected = functional.gelu(correlate(x, layer.conv.weight, 2) + layer.conv.bias)
    calls = []
    forward = layer.conv.forward
    monkeypatch.setattr(layer.conv, "forward", lambda each: calls.append(1) or forward(each))
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    assert bool(calls) == is_convolved


@pytest.mark.parametrize("switch", [contextlib.nullcontext, fast.plain_only])
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("in_16_bits", ["autocast", "altogether"])
@pytest.mark.parametrize("batch", [1, 2])
def test_narrow_groups_are_right_in_16_bits_in_every_mode(
    batch: int, in_16_bits: str, learns: bool, switch: Callable[[], AbstractContextManager[None]]
) -> None:
    """A processor with AMX computes these wrongly in torch's own convolution, short ones without gradients, too."""
    positions, x = PositionalConv(192, 32, 16), noise(batch, 40, 192)
    expected = positions(x)
    if in_16_bits == "altogether":
        positions, x = positions.bfloat16(), x.bfloat16()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=in_16_bits == "autocast")
    with autocast, torch.set_grad_enabled(learns), switch():
        found = positions(x)
    assert distance(found, expected) < 0.02
