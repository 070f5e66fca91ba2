"""Blocks put together for a GPU, the part that needs none: speechssl.units.feeding. The rest is in test_fused."""

import itertools

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


def test_no_blocks_are_no_blocks_on_a_gpu_too():
    assert list(on_device([], torch.device("cuda", 0))) == []
