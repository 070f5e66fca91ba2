"""Frame arithmetic: speechssl.model.frames."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from speechssl.model.frames import BASE_STACK, frame_count, hop_size, receptive_field, within

STACKS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(stack=STACKS, num_samples=st.integers(0, 300))
def test_frame_count_is_the_output_length_of_the_convolutions(stack: list[tuple[int, int]], num_samples: int) -> None:
    length = num_samples
    for kernel, stride in stack:
        if length >= kernel:
            length = functional.conv1d(torch.zeros(1, 1, length), torch.zeros(1, 1, kernel), stride=stride).shape[2]
        else:
            length = 0
    assert frame_count(torch.tensor([num_samples]), [(1, *layer) for layer in stack]).tolist() == [length]


@settings(max_examples=60, deadline=None)
@given(stack=STACKS)
def test_receptive_field_makes_the_first_frame_and_each_hop_one_more(stack: list[tuple[int, int]]) -> None:
    layers = [(1, *layer) for layer in stack]
    field, hop = receptive_field(layers), hop_size(layers)
    lengths = torch.tensor([field - 1, field, field + hop - 1, field + hop, field + 7 * hop])
    assert frame_count(lengths, layers).tolist() == [0, 1, 1, 2, 8]


def test_base_looks_at_400_samples_every_320() -> None:
    assert (receptive_field(BASE_STACK), hop_size(BASE_STACK)) == (400, 320)


def test_within_is_true_before_each_count() -> None:
    assert within(torch.tensor([0, 2, 3]), 3).tolist() == [[False] * 3, [True, True, False], [True] * 3]
