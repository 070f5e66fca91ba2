"""Convolutions as matrix products: speechssl.model.fast.convolution."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional

from speechssl.model import fast
from speechssl.model.conv import ConvFeatureExtractor, convolve
from speechssl.model.fast import convolution, products
from speechssl.model.fast.convolution import ShiftedProducts
from speechssl.model.frames import frame_count, within
from tests.model.tiny import TINY_STACK, distance, noise, randomise

KERNELS = [(10, 5), (3, 2), (2, 2), (4, 2), (4, 4), (3, 3), (1, 1), (5, 1), (7, 3), (2, 3), (1, 4)]  # (kernel, stride)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), KERNELS)
def test_strided_convolution_equals_conv1d_with_zeros_after_the_end(kernel: int, stride: int, has_bias: bool) -> None:
    steps = 6 * stride
    ours = [noise(1, steps, 3).requires_grad_(), noise(4, 3, kernel, seed=1).requires_grad_()]
    if has_bias:
        ours.append(noise(4, seed=2).requires_grad_())
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    cotangent = noise(1, 6, 4, seed=3)

    found = convolution.convolve(ours[0], ours[1], ours[2] if has_bias else None, stride)
    found.backward(cotangent)
    padded = functional.pad(theirs[0].mT, (0, max(kernel - stride, 0)))
    expected = functional.conv1d(padded, theirs[1], theirs[2] if has_bias else None, stride).mT
    expected.backward(cotangent)

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("steps", "number"), [(5, 2), (5, 3), (5, 4), (5, 6), (5, 8), (2, 9), (1, 6)])
def test_shifted_products_pass_the_numerical_gradient_check(steps: int, number: int) -> None:
    rows = noise(steps, 3).double().requires_grad_()
    taps = noise(number, 2, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(ShiftedProducts.apply, (rows, taps))


def test_shifted_products_give_no_gradient_to_rows_that_need_none() -> None:
    rows, taps = noise(5, 3), noise(6, 2, seed=1).requires_grad_()
    ShiftedProducts.apply(rows, taps).sum().backward()
    assert rows.grad is None
    assert taps.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), KERNELS)
def test_a_batch_is_convolved_as_by_conv1d(kernel: int, stride: int, has_bias: bool, dtype: torch.dtype) -> None:
    conv = nn.Conv1d(3, 4, kernel, stride, bias=has_bias)
    randomise(conv)
    x = noise(3, 12 * stride, 3).requires_grad_()
    leaves = (x, *conv.parameters())
    found = []
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        for switch in (contextlib.nullcontext(), fast.plain_only()):
            with switch:
                out = convolve(x, conv)[:, : (12 * stride - kernel) // stride + 1]  # what no kernel's end is missing of
            found.append((out, *torch.autograd.grad(out, leaves, noise(*out.shape, seed=1).to(dtype))))
    assert found[0][0].dtype == dtype
    for ours, plain in zip(*found, strict=True):
        assert distance(ours, plain) < (1e-5 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("lengths", [(163, 163), (163, 77), (150, 20)])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_extractor_equals_its_plain_form(
    norm: str, lengths: tuple[int, ...], learns: bool, dtype: torch.dtype
) -> None:
    extractor = ConvFeatureExtractor(TINY_STACK, norm, True)
    randomise(extractor)
    num_samples = torch.tensor(lengths)
    is_valid = within(frame_count(num_samples, TINY_STACK), int(frame_count(max(lengths), TINY_STACK)))
    found = []
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16), torch.set_grad_enabled(learns):
        for switch in (contextlib.nullcontext(), fast.plain_only()):
            with switch:
                frames = extractor(noise(2, max(lengths)), num_samples)[is_valid]
            cotangent = noise(*frames.shape, seed=1).to(dtype)
            gradients = torch.autograd.grad(frames, [*extractor.parameters()], cotangent) if learns else ()
            found.append((frames, *gradients))
    for ours, plain in zip(*found, strict=True):
        assert ours.dtype == plain.dtype
        assert distance(ours, plain) < (1e-4 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), KERNELS)
def test_without_gradients_a_batch_is_convolved_as_by_conv1d(
    kernel: int, stride: int, has_bias: bool, gelu: bool
) -> None:
    conv = nn.Conv1d(3, 4, kernel, stride, bias=has_bias)
    randomise(conv)
    x = noise(3, 12 * stride + 1, 3)
    with torch.no_grad():
        found = convolution.convolve_for_inference(x, conv.weight, conv.bias, stride, gelu=gelu)
        expected = conv(x.mT).mT
    torch.testing.assert_close(found, functional.gelu(expected) if gelu else expected, rtol=1e-5, atol=1e-5)


def test_with_gradients_products_are_taken_and_without_onednn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nn.Conv1d(32, 4, 3)
    assert not convolution.suits_onednn(noise(3), conv)
    with torch.no_grad():
        assert convolution.suits_onednn(noise(3), conv)
        assert not convolution.suits_onednn(noise(3).double(), conv)
        monkeypatch.setattr(products, "has_onednn", lambda: False)
        assert not convolution.suits_onednn(noise(3), conv)


@pytest.mark.parametrize("switch", [contextlib.nullcontext, fast.plain_only])
@pytest.mark.parametrize("in_channels", [4, 8, 12, 16, 24, 31, 32])
@pytest.mark.parametrize(("kernel", "stride"), [(4, 4), (8, 3), (16, 1), (8, 8)])
def test_narrow_convolutions_are_right_in_16_bits(switch, in_channels: int, kernel: int, stride: int) -> None:
    conv = nn.Conv1d(in_channels, 16, kernel, stride)
    x = noise(1, 50 * stride, in_channels)
    with torch.no_grad(), switch():
        expected = convolve(x, conv)
        with torch.autocast("cpu", torch.bfloat16):
            found = convolve(x, conv)
    valid = (50 * stride - kernel) // stride + 1
    assert found.dtype == torch.bfloat16
    assert distance(found[:, :valid], expected[:, :valid]) < 0.01
