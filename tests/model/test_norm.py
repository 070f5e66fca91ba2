"""Layer norm in 16 bits: speechssl.model.norm."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from speechssl.model.norm import LayerNorm
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, tiny_encoder


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
def test_the_trunk_has_no_other_norm_over_its_width(config) -> None:
    encoder = tiny_encoder(config)
    plain = [name for name, module in encoder.named_modules() if type(module) is torch.nn.LayerNorm]
    assert all(name.startswith("conv.norms.") for name in plain)  # `conv.normalised` looks after these
