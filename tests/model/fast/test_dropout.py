"""Dropout with 16 random bits per element: speechssl.model.fast.dropout."""

import pytest
import torch
from torch.nn import functional

from speechssl.model.fast.dropout import draw_kept, dropout, kept_scale
from tests.model.tiny import distance, noise

CPU = torch.device("cpu")


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5, 0.9])
def test_as_many_elements_are_dropped_as_asked_for(probability: float) -> None:
    torch.manual_seed(0)
    number = 400_000
    kept = draw_kept((number,), probability, CPU)
    deviation = (probability * (1 - probability) / number) ** 0.5
    assert abs(float(kept.double().mean()) - (1 - probability)) < 5 * deviation + 1 / 65_536
    neighbours = (kept[1:] == kept[:-1]).double().mean()  # four elements share a draw: are they independent?
    assert abs(float(neighbours) - (probability**2 + (1 - probability) ** 2)) < 6 * deviation


def test_scale_is_the_inverse_of_the_chance_that_is_drawn() -> None:
    every_draw = torch.arange(-32_768, 32_768, dtype=torch.int32)
    for probability in (0.1, 0.3, 1e-9, 1 - 1e-9):
        dropped = round(65_536 - 65_536 / kept_scale(probability))
        assert 1 <= dropped <= 65_535  # rare is not never
        assert int((every_draw > dropped - 1 - 32_768).sum()) * kept_scale(probability) == pytest.approx(65_536)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 4)])
def test_masks_have_any_shape(shape: tuple[int, ...]) -> None:
    kept = draw_kept(shape, 0.5, CPU)
    assert (kept.shape, kept.dtype) == (shape, torch.uint8)
    assert set(kept.flatten().tolist()) <= {0, 1}


def test_the_same_seed_drops_the_same() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(draw_kept((1000,), 0.5, CPU))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_is_the_product_with_its_mask_and_so_is_its_gradient(dtype: torch.dtype) -> None:
    x, cotangent = noise(30, 20).to(dtype).requires_grad_(), noise(30, 20, seed=1).to(dtype)
    torch.manual_seed(0)
    found = dropout(x, 0.25)
    torch.manual_seed(0)
    kept = draw_kept(x.shape, 0.25, CPU).to(dtype)
    assert torch.equal(found, x * kept * kept_scale(0.25))
    (gradient,) = torch.autograd.grad(found, x, cotangent)
    assert torch.equal(gradient, cotangent * kept * kept_scale(0.25))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_is_torchs_but_for_the_draw(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = noise(200, 100).to(dtype)
    ours, plain = dropout(x, 0.25), functional.dropout(x, 0.25)
    assert ours.dtype == plain.dtype
    both = (ours != 0) & (plain != 0)
    assert 0.5 < float(both.float().mean()) < 0.62  # 0.75 squared: the draws are independent
    assert distance(ours[both], plain[both]) < 0.005
