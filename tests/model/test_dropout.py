"""Dropout from 16 random bits an element: speechssl.model.dropout."""

import pytest
import torch

from speechssl.errors import ConfigError
from speechssl.model.dropout import Dropout, draw_kept, kept_scale

CPU = torch.device("cpu")


@pytest.mark.parametrize("chance", [0.05, 0.1, 0.5, 0.9])
def test_as_many_elements_are_dropped_as_asked_for(chance: float) -> None:
    torch.manual_seed(0)
    number = 400_000
    kept = draw_kept((number,), chance, CPU)
    deviation = (chance * (1 - chance) / number) ** 0.5
    assert abs(float(kept.double().mean()) - (1 - chance)) < 5 * deviation + 1 / 65_536
    neighbours = (kept[1:] == kept[:-1]).double().mean()  # four elements share a draw: are they independent?
    assert abs(float(neighbours) - (chance**2 + (1 - chance) ** 2)) < 6 * deviation


def test_scale_is_the_inverse_of_the_chance_that_is_drawn() -> None:
    every_draw = torch.arange(-32_768, 32_768, dtype=torch.int32)
    for chance in (0.1, 0.3, 1e-9, 1 - 1e-9):
        dropped = round(65_536 - 65_536 / kept_scale(chance))
        assert 1 <= dropped <= 65_535  # rare is not never
        assert int((every_draw > dropped - 1 - 32_768).sum()) * kept_scale(chance) == pytest.approx(65_536)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 4)])
def test_masks_have_any_shape(shape: tuple[int, ...]) -> None:
    kept = draw_kept(shape, 0.5, CPU)
    assert (kept.shape, kept.dtype) == (shape, torch.uint8)
    assert set(kept.flatten().tolist()) <= {0, 1}


def test_gradients_pass_where_values_do() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 40, requires_grad=True)
    found = Dropout(0.25)(x)
    found.sum().backward()
    is_kept = found != 0
    assert 0.6 < float(is_kept.float().mean()) < 0.9
    torch.testing.assert_close(found, torch.where(is_kept, x / 0.75, 0.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(x.grad, torch.where(is_kept, 1 / 0.75, 0.0), rtol=1e-4, atol=0)


def test_nothing_is_dropped_in_evaluation_or_at_chance_zero() -> None:
    x = torch.randn(100)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_the_same_seed_drops_the_same() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(draw_kept((1000,), 0.5, CPU))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("chance", [-0.1, 1.0, 1.5])
def test_impossible_chances_are_refused(chance: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Dropout(chance)
