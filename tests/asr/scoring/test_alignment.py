"""Alignments of words: speechssl.asr.scoring.alignment."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.asr.scoring.alignment import Method, Step, align

TOKENS = st.lists(st.sampled_from("abc"), max_size=6)
SCLITE = shutil.which("sclite", path="/usr/lib/sctk/bin:/usr/bin:/usr/local/bin")


def counts(steps: Sequence[Step]) -> tuple[int, ...]:
    found = Counter(step.kind for step in steps)
    return found["hit"], found["substitution"], found["deletion"], found["insertion"]


def cheapest(reference: Sequence[str], hypothesis: Sequence[str], substitution: int, gap: int) -> int:
    """Weigh every alignment there is."""
    if not reference or not hypothesis:
        return gap * (len(reference) + len(hypothesis))
    return min(
        cheapest(reference[1:], hypothesis[1:], substitution, gap) + substitution * (reference[0] != hypothesis[0]),
        cheapest(reference[1:], hypothesis, substitution, gap) + gap,
        cheapest(reference, hypothesis[1:], substitution, gap) + gap,
    )


@pytest.mark.parametrize(("method", "substitution", "gap"), [("levenshtein", 1, 1), ("nist", 4, 3)])
@settings(max_examples=60, deadline=None)
@given(reference=TOKENS, hypothesis=TOKENS)
def test_no_alignment_is_cheaper(
    method: Method, substitution: int, gap: int, reference: list[str], hypothesis: list[str]
) -> None:
    (steps,) = align([reference], [hypothesis], method)
    hits, wrong, lost, added = counts(steps)
    assert substitution * wrong + gap * (lost + added) == cheapest(reference, hypothesis, substitution, gap)
    assert [step.reference for step in steps if step.reference is not None] == reference
    assert [step.hypothesis for step in steps if step.hypothesis is not None] == hypothesis
    assert hits == sum(step.reference == step.hypothesis for step in steps)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(TOKENS.filter(bool), TOKENS), min_size=1, max_size=4))
def test_totals_are_those_of_jiwer(rows: list[tuple[list[str], list[str]]]) -> None:
    references, hypotheses = ([" ".join(row[side]) for row in rows] for side in (0, 1))
    theirs = jiwer.process_words(references, hypotheses)
    ours = [
        sum(column)
        for column in zip(*(counts(steps) for steps in align(*zip(*rows, strict=True), "levenshtein")), strict=True)
    ]  # type: ignore[arg-type]
    assert ours == [theirs.hits, theirs.substitutions, theirs.deletions, theirs.insertions]


def test_sclites_weights_prefer_a_hit_to_fewer_errors() -> None:
    reference, hypothesis = ["a", "b", "c", "d"], ["d", "x", "y", "z"]
    assert counts(align([reference], [hypothesis], "levenshtein")[0]) == (0, 4, 0, 0)
    reference, hypothesis = ["a", "b"], ["b", "c"]
    assert counts(align([reference], [hypothesis], "nist")[0]) == (1, 0, 1, 1)


@pytest.mark.skipif(SCLITE is None, reason="compares with sclite (Debian's package sctk)")
def test_counts_are_those_of_sclite(tmp_path: Path) -> None:
    texts = ["".join(letters) for size in (1, 2, 3, 4) for letters in product("ab", repeat=size)]
    pairs = [(list(one), list(other)) for one in texts[::2] for other in ["", *texts[1::3]]]
    pairs += [(list("abcdefgabc"), list("bcdxefgcab")), (list("aabbccdd"), list("abcdabcd"))]
    for name, side in (("ref", 0), ("hyp", 1)):
        rows = [f"{' '.join(pair[side])} (s{i}-{i})\n" for i, pair in enumerate(pairs)]
        (tmp_path / f"{name}.trn").write_text("".join(rows))
    command = [str(SCLITE), "-r", "ref.trn", "trn", "-h", "hyp.trn", "trn", "-i", "rm", "-o", "pra", "stdout"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    pattern = r"id: \(s\d+-(\d+)\)\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)"
    theirs = {int(each[1]): tuple(map(int, each.groups()[1:])) for each in re.finditer(pattern, printed)}
    ours = align([pair[0] for pair in pairs], [pair[1] for pair in pairs], "nist")
    assert theirs == {i: counts(steps) for i, steps in enumerate(ours)}
