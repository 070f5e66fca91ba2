"""Online clustering: speechssl.tasks.online_codebooks."""

import pytest
import torch
from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.tasks.online_codebooks import OnlineCodebookConfig, OnlineCodebooks
from tests.model.tiny import noise
from tests.oracles.teacher import oracle_moved, oracle_nearest

CONFIG = OnlineCodebookConfig(entries=4, decay=0.8)


def codebooks(layers: int = 2, config: OnlineCodebookConfig = CONFIG) -> OnlineCodebooks:
    torch.manual_seed(0)
    return OnlineCodebooks(config, layers, 3)


def test_impossible_settings_are_refused() -> None:
    for changes in ({"entries": 1}, {"decay": 1.0}, {"decay": -0.1}):
        with pytest.raises(ConfigError, match=r"objective\.codebooks must have entries of 2 or more and a decay"):
            OnlineCodebookConfig(**changes)  # type: ignore[arg-type]


def test_each_frame_gets_the_nearest_entry_of_its_layer() -> None:
    made, frames = codebooks(), noise(2, 9, 3)
    found = made.assign(frames)
    for layer in range(2):
        expected = [oracle_nearest(frame, made.entries[layer].tolist()) for frame in frames[layer].tolist()]
        assert found[layer].tolist() == expected
    assert made.count(found).tolist() == [torch.bincount(row, minlength=4).tolist() for row in found]


def test_an_update_over_two_batches_is_that_of_all_their_frames() -> None:
    made, frames = codebooks(), noise(2, 30, 3)
    entries, usage = made.entries.clone(), made.usage.clone()
    for part in frames.split((10, 20), dim=1):
        made.gather(part, made.assign(part), step=5)
    made.update(5)
    for layer in range(2):
        expected = oracle_moved(entries[layer].tolist(), usage[layer].tolist(), frames[layer].tolist(), 0.8)
        torch.testing.assert_close((made.entries[layer], made.usage[layer]), tuple(map(torch.tensor, expected)))


def test_without_frames_nothing_moves() -> None:
    made = codebooks()
    before = [buffer.clone() for buffer in made.buffers()]
    made.update(0)
    assert all(torch.equal(*pair) for pair in zip(made.buffers(), before, strict=True))


def test_frames_of_a_skipped_step_are_dropped() -> None:
    straight, skipping = codebooks(), codebooks()
    frames = noise(2, 30, 3)
    skipping.gather(frames + 7, skipping.assign(frames + 7), step=1)
    for each in (straight, skipping):
        each.gather(frames, each.assign(frames), step=2)
        each.update(2)
    assert all(torch.equal(*pair) for pair in zip(straight.buffers(), skipping.buffers(), strict=True))


def test_frames_of_another_step_are_not_taken() -> None:
    made, frames = codebooks(), noise(2, 30, 3)
    before = [buffer.clone() for buffer in made.buffers()]
    made.gather(frames, made.assign(frames), step=1)
    made.update(2)
    assert all(torch.equal(*pair) for pair in zip(made.buffers(), before, strict=True))


def learn(made: OnlineCodebooks, frames: Tensor, times: int) -> Tensor:
    for step in range(times):
        made.gather(frames, made.assign(frames), step)
        made.update(step)
    return made.count(made.assign(frames))


def test_unused_entries_come_back_beside_the_most_used() -> None:
    """Three clusters far from every entry: the nearest takes all frames, then it is split, again and again."""
    centres = 20 + 10 * torch.eye(3)
    frames = (centres.repeat_interleave(20, 0) + 0.1 * noise(60, 3))[None]
    made = codebooks(layers=1, config=OnlineCodebookConfig(entries=3, decay=0.5))
    first = learn(made, frames, 1)
    assert (first > 0).sum() == 1
    assert learn(made, frames, 60)[0].tolist() == [20.0, 20.0, 20.0]
    assert bool(made.usage.isfinite().all() and made.entries.isfinite().all())
