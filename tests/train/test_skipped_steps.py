"""Records of skipped steps, and the utterances that they suspect."""

import math

import pytest
import torch
from torch import nn

from speechssl.parallel import Ranks
from speechssl.train.learner import MicroBatch, Update
from speechssl.train.skipped_steps import note_skipped_step, read_skipped_step

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


def micro_batch(number: int, value: float, count: int, *ids: str) -> MicroBatch:
    return MicroBatch(
        number=number, epoch=1, index=number + 4, ids=ids, value=torch.tensor(value), count=torch.tensor(count)
    )


def test_losses_are_averages_over_what_is_predicted_and_the_broken_batch_is_suspected(tmp_path):
    batches = (micro_batch(1, math.nan, 2, "c"), micro_batch(0, 6.0, 4, "a", "b"), micro_batch(2, 3.0, 1, "d"))
    update = Update(
        loss=9.0, count=6, norm=math.inf, must_stop=False, micro_batches=batches, totals={}, counts={}, tallies={}
    )
    said = note_skipped_step(tmp_path, nn.Linear(2, 1), update, 7, ALONE)
    kept = read_skipped_step(tmp_path / "skipped_step_00000007")
    assert (kept.step, kept.loss, kept.norm) == (7, 1.5, math.inf)
    assert [(batch.number, batch.index, batch.ids) for batch in kept.batches] == [
        (0, 4, ("a", "b")),
        (1, 5, ("c",)),
        (2, 6, ("d",)),
    ]
    assert [batch.loss for batch in kept.batches] == pytest.approx([1.5, math.nan, 3.0], nan_ok=True)
    assert kept.suspects() == ["c"]
    assert "step 7: loss 1.5, gradient norm inf: not finite, nothing was updated; utterances: c; find the one" in said
