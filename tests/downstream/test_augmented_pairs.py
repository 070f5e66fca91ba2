"""Alignment and uniformity."""

import math

import numpy as np
import pytest

from speechssl.downstream import augmented_pairs
from speechssl.downstream.augmented_pairs import alignment, uniformity


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector.astype(float) / math.sqrt(float(vector @ vector))


def test_both_are_those_of_loops_over_pairs(monkeypatch):
    monkeypatch.setattr(augmented_pairs, "_AT_ONCE", 7)
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 20, 5)).astype(np.float32)
    squares = [float(((_unit(a) - _unit(b)) ** 2).sum()) for a, b in zip(one, other, strict=True)]
    assert alignment(one, other) == pytest.approx(np.mean(squares), abs=1e-6)
    potentials = [
        math.exp(-2 * float(((_unit(one[i]) - _unit(one[j])) ** 2).sum()))
        for i in range(20)
        for j in range(20)
        if i != j
    ]
    assert uniformity(one) == pytest.approx(math.log(np.mean(potentials)), abs=1e-6)


def test_the_ends_of_the_scales():
    frames = np.random.default_rng(1).normal(size=(50, 300)).astype(np.float32)
    assert alignment(frames, frames * 3) == pytest.approx(0, abs=1e-9)
    assert alignment(frames, -frames) == pytest.approx(4)
    assert uniformity(frames * 0 + 1) == pytest.approx(0, abs=1e-9)
    assert uniformity(frames) == pytest.approx(-4, abs=0.1)
    assert uniformity(np.array([[1, 0], [-1, 0]], np.float32)) == pytest.approx(-8)
