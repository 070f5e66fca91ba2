"""Self-attention: speechssl.model.attention."""

import pytest
import torch

from speechssl.model.attention import SelfAttention
from speechssl.model.frames import within
from tests.model.tiny import noise


@pytest.mark.parametrize("valid", [7, 4])
def test_training_and_evaluation_compute_the_same(valid: int) -> None:
    attention = SelfAttention(32, 4, dropout=0.0)
    x = noise(2, 7, 32)
    is_attended = within(torch.tensor([7, valid]), 7) if valid < 7 else None
    trained, evaluated = attention.train()(x, is_attended), attention.eval()(x, is_attended)
    torch.testing.assert_close(trained[0], evaluated[0])
    torch.testing.assert_close(trained[1, :valid], evaluated[1, :valid])
