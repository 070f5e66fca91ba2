"""Merging of blocks for a GPU, tested without one: speechssl.units.feeding. The rest is in test_fused."""

import itertools
from contextlib import nullcontext
from unittest.mock import MagicMock

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.units.feeding import merged, on_device


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 30))
def test_merged_blocks_depend_on_the_rows_only(sizes, rows):
    points = torch.arange(2.0 * sum(sizes)).view(-1, 2)
    lanes = itertools.cycle([torch.empty(rows, 2), torch.empty(rows, 2)])
    found = [block.clone() for block in merged(points.split(sizes), rows, lambda _: next(lanes))]
    assert [len(block) for block in found[:-1]] == [rows] * (len(found) - 1)
    assert torch.equal(torch.cat([points[:0], *found]), points)


def test_a_new_number_type_begins_a_new_block():
    blocks = [torch.ones(3, 2), torch.ones(2, 2).half(), torch.ones(1, 2).half(), torch.ones(1, 2)]
    found = [(len(block), block.dtype) for block in merged(blocks, 10, lambda dtype: torch.empty(10, 2, dtype=dtype))]
    assert found == [(3, torch.float32), (3, torch.float16), (1, torch.float32)]


def test_memory_is_asked_for_once_what_it_held_was_taken():
    asked: list[int] = []
    for number, _ in enumerate(merged([torch.ones(7, 1)], 2, lambda _: (asked.append(1), torch.empty(2, 1))[1])):
        assert len(asked) == number + 1


def test_every_block_arrives_in_order_and_is_worked_on_before_its_memory_is_used_again(monkeypatch):
    log: list[tuple[str, int]] = []
    events = itertools.count()

    class Event:
        def __init__(self) -> None:
            self.number = next(events)  # copied and used of the first lane, then of the second

        def synchronize(self) -> None:
            log.append(("host waits", self.number))

        def record(self, _: object) -> None:
            log.append(("record", self.number))

    stream = MagicMock(wait_event=lambda event: log.append(("GPU waits", event.number)))
    for name, fake in {"Event": Event, "Stream": lambda _: stream, "current_stream": lambda _: stream}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **given: empty(*shape, **given))
    monkeypatch.setattr("speechssl.units.feeding._BYTES", 4 * 2 * 10)
    points = torch.arange(70.0).view(35, 2)
    found = [block.clone() for block in on_device(points.split(4), torch.device("cpu"))]
    assert [len(block) for block in found] == [10, 10, 10, 5]
    assert torch.equal(torch.cat(found), points)
    turn = [[("host waits", 0), ("GPU waits", 1), ("record", 0), ("GPU waits", 0), ("record", 1)]]
    turn.append([(what, number + 2) for what, number in turn[0]])
    made = [("record", 1), ("record", 3)]
    assert [each for each in log if each not in made] == [each for each in turn[0] + turn[1] if each not in made] * 2
    assert log.index(("record", 1)) < log.index(("GPU waits", 1))


def test_no_blocks_are_no_blocks_on_a_gpu_too():
    assert list(on_device([], torch.device("cuda", 0))) == []
