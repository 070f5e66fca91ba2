"""Labels on the way to a label file: speechssl.stages.cluster."""

import dataclasses

import numpy as np
import torch

from speechssl.data.labels import LabelSource
from speechssl.stages import cluster as module
from speechssl.stages.cluster import LabelParts

SOURCE = LabelSource(clusters=5, hop=160, window=400, features="mfcc", kmeans="0123", settings={"dim": 39})


def test_parts_of_all_processes_are_read_together(tmp_path):
    for rank in (0, 1):
        parts = LabelParts(tmp_path, SOURCE, rank=rank)
        parts.add(f"u{rank}", torch.tensor([1, 2]), is_last=False)
        parts.add(f"u{rank}", torch.tensor([rank]), is_last=True)
        parts.flush()
    found = parts.read()
    assert {key: units.tolist() for key, units in found.items()} == {"u0": [1, 2, 0], "u1": [1, 2, 1]}
    assert all(units.dtype == np.int16 for units in found.values())


def test_a_part_is_written_when_there_are_enough_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LABELS_A_PART", 4)
    parts = LabelParts(tmp_path, SOURCE, rank=0)
    for number in range(5):
        parts.add(f"u{number}", torch.tensor([0, 1]), is_last=True)
    assert sorted(parts.read()) == ["u0", "u1", "u2", "u3"]
    parts.flush()
    assert len(list(tmp_path.glob("*.tsv"))) == 3


def test_an_interrupted_process_does_not_write_over_its_earlier_parts(tmp_path):
    for name in ("first", "second"):
        parts = LabelParts(tmp_path, SOURCE, rank=0)
        parts.add(name, torch.tensor([0]), is_last=True)
        parts.flush()
    assert sorted(parts.read()) == ["first", "second"]


def test_parts_of_another_k_means_are_not_taken(tmp_path):
    parts = LabelParts(tmp_path, SOURCE, rank=0)
    parts.add("u", torch.tensor([0]), is_last=True)
    parts.flush()
    assert LabelParts(tmp_path, dataclasses.replace(SOURCE, kmeans="4567"), rank=0).read() == {}


def test_half_an_utterance_is_not_written(tmp_path):
    parts = LabelParts(tmp_path, SOURCE, rank=0)
    parts.add("u", torch.tensor([0]), is_last=False)
    parts.flush()
    assert parts.read() == {}
