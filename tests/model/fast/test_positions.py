"""Convolution in the frequency domain: speechssl.model.fast.positions."""

import contextlib

import pytest
import torch
from torch.nn import functional

from speechssl.model import fast
from speechssl.model.fast.positions import correlate
from speechssl.model.positions import PositionalConv
from tests.model.tiny import distance, noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [1, 2, 5, 8])
@pytest.mark.parametrize("frames", [1, 3, 8, 31, 32, 33, 100])  # one block, several, and ends that are no whole ones
def test_correlation_equals_conv1d_with_its_gradients(frames: int, kernel: int, dtype: torch.dtype) -> None:
    x, weight = noise(2, frames, 12).to(dtype).requires_grad_(), noise(12, 3, kernel, seed=1).to(dtype).requires_grad_()
    found = correlate(x, weight, 4)
    expected = functional.conv1d(x.mT, weight, padding=kernel // 2, groups=4).mT[:, :frames]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    cotangent = noise(*found.shape, seed=2).to(dtype)
    for one, other in zip(
        torch.autograd.grad(found, (x, weight), cotangent),
        torch.autograd.grad(expected, (x, weight), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_base_is_within_float32_of_double_precision() -> None:
    x, weight = noise(1, 780, 96), noise(96, 48, 128, seed=1)
    exact = correlate(x.double(), weight.double(), 2)
    error = (correlate(x, weight, 2) - exact).abs().max() / exact.abs().max()
    assert float(error) < 3e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("frames", [5, 40, 100])
@pytest.mark.parametrize(("dim", "kernel", "groups"), [(32, 6, 2), (192, 32, 16), (24, 5, 3)])
def test_the_positions_equal_their_plain_form(
    dim: int, kernel: int, groups: int, frames: int, learns: bool, dtype: torch.dtype
) -> None:
    layer, x = PositionalConv(dim, kernel, groups), noise(2, frames, dim).requires_grad_()
    found = []
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16), torch.set_grad_enabled(learns):
        for switch in (contextlib.nullcontext(), fast.plain_only()):
            with switch:
                out = layer(x)
            leaves = (x, *layer.parameters())
            found.append((out, *(torch.autograd.grad(out.sum(), leaves) if learns else ())))
    for ours, plain in zip(*found, strict=True):
        assert distance(ours, plain) < (1e-5 if dtype == torch.float32 else 0.02)
