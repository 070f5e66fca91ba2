"""Greedy decoding: speechssl.asr.decoding.hypothesis."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from speechssl.asr.decoding.hypothesis import greedy_decode
from tests.oracles.ctc import oracle_collapse


@given(rows=st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4), data=st.data())
def test_greedy_decoding_merges_repeats_then_removes_blanks(rows: list[list[int]], data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 6), min_size=len(rows), max_size=len(rows)))
    logits = torch.nn.functional.one_hot(torch.tensor(rows), 4).float()
    expected = [oracle_collapse(row[:count]) for row, count in zip(rows, counts, strict=True)]
    assert greedy_decode(logits, torch.tensor(counts)) == expected


def test_greedy_decoding_takes_the_best_token_of_each_frame() -> None:
    logits = torch.tensor([[[0.1, 0.3, 0.2], [-1.0, -3.0, -2.0], [-5.0, -4.0, -3.0]]])
    assert greedy_decode(logits, torch.tensor([3])) == [[1, 2]]
