"""Dropout: speechssl.model.dropout."""

import pytest
import torch

from speechssl.errors import ConfigError
from speechssl.model.dropout import Dropout


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


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5])
def test_impossible_probabilities_are_refused(probability: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Dropout(probability)
