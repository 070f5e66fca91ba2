"""Convolutional positions by way of frequencies: speechssl.model.positions."""

import pytest
import torch
from torch.nn import functional

from speechssl.model.positions import PositionalConv, correlate
from tests.model.tiny import noise


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


@pytest.mark.parametrize(
    ("dim", "kernel", "groups", "dtype"),
    [
        (32, 6, 2, torch.bfloat16),
        (8, 6, 2, torch.float32),
        (32, 16, 4, torch.float32),  # oneDNN's own convolution is wrong there where the processor has AMX
        (192, 32, 16, torch.float32),  # the positions of `EncoderConfig.small`
        (768, 128, 16, torch.bfloat16),  # of BASE
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
