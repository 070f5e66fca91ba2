"""Attention of rows: speechssl.model.fast.attention."""

import contextlib

import pytest
import torch
from torch.nn import functional

from speechssl.model import fast
from speechssl.model.attention import SelfAttention
from speechssl.model.fast.attention import RowAttention, attend_rows
from speechssl.model.frames import within
from speechssl.model.packing import Packing
from tests.model.tiny import distance, noise

CPU = torch.device("cpu")

COUNTS = [(7, 7, 7), (7, 3, 3), (1, 7, 4), (0, 7, 2)]


@pytest.mark.parametrize("counts", COUNTS)
def test_rows_attend_to_their_own_frames_as_torchs_attention(counts: tuple[int, ...]) -> None:
    ours, theirs = (noise(3, 7, 3, 2, 4).double().requires_grad_() for _ in range(2))
    is_attended = within(torch.tensor(counts), 7)
    found = attend_rows(ours, is_attended, 0.0)
    cotangent = noise(*found.shape, seed=1).double() * is_attended[..., None, None]
    found.backward(cotangent)
    for row, count in enumerate(counts):
        query, key, value = theirs[row, :count].permute(1, 2, 0, 3)
        expected = functional.scaled_dot_product_attention(query, key, value).transpose(0, 1)
        torch.testing.assert_close(found[row, :count], expected)
        assert not found[row, count:].any()
        expected.backward(cotangent[row, :count])
    torch.testing.assert_close(ours.grad, theirs.grad if theirs.grad is not None else torch.zeros_like(ours))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_pass_the_numerical_check(dropout: float) -> None:
    def same_draws(merged: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return RowAttention.apply(merged, [(0, 2, 4, 4), (8, 1, 4, 2), (12, 1, 3, 3)], dropout)

    assert torch.autograd.gradcheck(same_draws, noise(15, 3, 2, 3).double().requires_grad_())


def test_dropout_drops_weights_and_scales_the_others() -> None:
    torch.manual_seed(0)
    frames = 16
    merged = noise(1, frames, 3, 1, frames)
    merged[0, :, 2, 0] = torch.eye(frames)  # the values show the weights
    weights = attend_rows(merged, None, 0.0)[0, :, 0]
    dropped = torch.stack([attend_rows(merged, None, 0.25)[0, :, 0] for _ in range(200)])
    is_kept = dropped != 0
    torch.testing.assert_close(dropped[is_kept], (weights / 0.75).expand_as(dropped)[is_kept])
    assert abs(float(is_kept.float().mean()) - 0.75) < 0.01
    torch.testing.assert_close(dropped.mean(0), weights, rtol=0.3, atol=0.02)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("counts", [None, *COUNTS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # the latter: a model that is in it altogether
def test_self_attention_equals_its_plain_form(
    dtype: torch.dtype, counts: tuple[int, ...] | None, is_training: bool
) -> None:
    attention = SelfAttention(32, 4, dropout=0.0).train(is_training).to(dtype)
    x = noise(3, 7, 32).to(dtype).requires_grad_()
    is_valid = within(torch.tensor(counts or (7, 7, 7)), 7)
    found = []
    for switch in (contextlib.nullcontext(), fast.plain_only()):
        with switch:
            out = attention(x, None if counts is None else is_valid)[is_valid]
        found.append((out, *torch.autograd.grad(out, (x, *attention.parameters()), noise(*out.shape).to(dtype))))
    for ours, plain in zip(*found, strict=True):
        assert distance(ours, plain) < (1e-5 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("counts", [(7, 7, 7), (7, 3, 3), (1, 7, 4)])
def test_packed_attention_equals_its_plain_form(counts: tuple[int, ...]) -> None:
    attention, packing = SelfAttention(32, 4, dropout=0.0), Packing(within(torch.tensor(counts), 7), CPU)
    x = noise(sum(counts), 32).requires_grad_()
    found = []
    for switch in (contextlib.nullcontext(), fast.plain_only()):
        with switch:
            out = attention(x, packing)
        found.append((out, *torch.autograd.grad(out, (x, *attention.parameters()), noise(*out.shape))))
    for ours, plain in zip(*found, strict=True):
        assert distance(ours, plain) < 1e-5
