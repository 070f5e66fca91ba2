"""Layer norm in 16 bits, norm over time: speechssl.model.norm."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model.frames import within
from speechssl.model.norm import ChannelNorm, LayerNorm, TimeNorm
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, distance, noise, randomise, tiny_encoder


def gradients(norm: torch.nn.LayerNorm, x: Tensor, cotangent: Tensor) -> list[Tensor]:
    norm.zero_grad()
    y = norm(x)
    y.backward(cotangent.to(y.dtype))
    return [norm.weight.grad.double(), norm.bias.grad.double()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_of_many_frames_in_16_bits_are_those_of_float64(dtype: torch.dtype, autocast: bool) -> None:
    x, cotangent = noise(30_000, 16).to(dtype), 0.1 * noise(30_000, 16, seed=1) + 0.02
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = gradients(LayerNorm(16), x, cotangent)
    expected = gradients(LayerNorm(16).double(), x.double(), cotangent.double())
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-3


def test_whole_numbers_of_bits_are_left_as_they_are() -> None:
    x, norm = noise(5, 16), LayerNorm(16)
    assert torch.equal(norm(x), functional.layer_norm(x, (16,), norm.weight, norm.bias))
    assert norm.double()(x.double()).dtype == torch.float64


def test_a_model_that_is_in_16_bits_altogether_stays_so() -> None:
    norm, x = LayerNorm(16).bfloat16(), noise(5, 16).bfloat16()
    assert torch.equal(norm(x), functional.layer_norm(x, (16,), norm.weight, norm.bias))


@pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
def test_the_trunk_has_no_other_layer_norm(config) -> None:
    encoder = tiny_encoder(config)
    plain = [name for name, module in encoder.named_modules() if type(module) is torch.nn.LayerNorm]
    assert plain == []


def test_norm_in_one_type_is_the_layer_norm_rounded() -> None:
    norm = ChannelNorm(64)
    randomise(norm)
    x = (3 * noise(50, 64) + 1).bfloat16().requires_grad_()
    found, expected = norm.in_one_type(x), norm(x.float())
    assert found.dtype == torch.bfloat16
    assert distance(found, expected) < 0.005
    cotangent = noise(50, 64, seed=1)
    leaves = (x, norm.weight, norm.bias)
    for one, other in zip(
        torch.autograd.grad(found, leaves, cotangent.bfloat16()),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        assert distance(one, other) < 0.02


def _norms() -> tuple[TimeNorm, nn.GroupNorm]:
    ours, theirs = TimeNorm(6), nn.GroupNorm(6, 6)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_time_norm_equals_group_norm_without_padding() -> None:
    ours, theirs = _norms()
    x = noise(3, 20, 6) * 5 + 2
    torch.testing.assert_close(ours(x, within(torch.full((3,), 20), 20)), theirs(x.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("count", [2, 3, 19])
def test_time_norm_takes_its_statistics_over_the_valid_steps(count: int) -> None:
    ours, theirs = _norms()
    x = noise(2, 20, 6) * 5 + 2
    expected: Tensor = theirs(x[:1, :count].transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours(x, within(torch.tensor([count, 20]), 20))[:1, :count], expected)


def test_time_norm_of_a_row_without_steps_is_finite() -> None:
    ours, _ = _norms()
    assert torch.isfinite(ours(noise(2, 20, 6), within(torch.tensor([0, 20]), 20))).all()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (3, 3), (2, 4)])
def test_a_norm_folded_into_a_convolution_is_the_norm_of_what_it_gives(
    kernel: int, stride: int, bias: bool, autocast: bool
) -> None:
    norm, conv = TimeNorm(6), nn.Conv1d(1, 6, kernel, stride, bias=bias)
    randomise(norm)
    randomise(conv)
    waveforms, steps = noise(3, 12 * stride) + 0.5, 12
    is_counted = within(torch.tensor([9, 5, 0]), steps)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = norm.folded_into(conv, waveforms, is_counted)(slice(None), slice(None))
    assert found.dtype == (torch.bfloat16 if autocast else torch.float32)
    expected = conv(functional.pad(waveforms, (0, max(kernel - stride, 0)))[:, None]).mT
    expected = norm(expected, is_counted)
    leaves, cotangent = [*norm.parameters(), *conv.parameters()], noise(3, steps, 6) * is_counted[..., None]
    torch.testing.assert_close(found[:2], expected[:2].to(found.dtype), rtol=0.01 if autocast else 1e-4, atol=1e-4)
    for one, other in zip(
        torch.autograd.grad(found, leaves, cotangent.to(found.dtype)),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 if autocast else 1e-3)


def test_some_rows_and_steps_of_a_folded_norm_are_those_of_all() -> None:
    norm, conv = TimeNorm(6), nn.Conv1d(1, 6, 4, 2)
    randomise(norm)
    part = norm.folded_into(conv, noise(3, 40), within(torch.tensor([20, 7, 9]), 20))
    whole = part(slice(None), slice(None))
    torch.testing.assert_close(part(slice(1, 3), slice(4, 9)), whole[1:, 4:9])
