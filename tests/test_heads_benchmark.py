"""recipes/benchmarks/heads.py: all ways make as many updates on the same utterances."""

import importlib
from dataclasses import replace
from pathlib import Path

import torch

from speechssl.audio.reading import AudioConfig
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.hub.saved import Description, SavedModel, build_model
from tests.model.tiny import BASE_LIKE

FOLDER = Path(__file__).parents[1] / "recipes" / "benchmarks"


def test_all_ways_make_as_many_updates_on_the_same_speech(monkeypatch, make_corpus, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("heads")
    corpus = make_corpus(tmp_path / "corpus", [9000 + 100 * number for number in range(8)])
    rows = [replace(row, language="ab"[number // 2 % 2]) for number, row in enumerate(read_manifest(corpus).utterances)]
    write_manifest(corpus, rows)
    torch.manual_seed(0)
    description = Description(encoder=BASE_LIKE, audio=AudioConfig())
    saved = SavedModel(description=description, tensors=build_model(description).state_dict(), name="made here")
    saved.write(tmp_path / "model")
    measured = module.measure(
        tmp_path / "model", corpus, column="language", utterances=8, epochs=2, seeds=[0, 1], repeats=1
    )
    assert [row.contender for row in measured] == ["speechssl", module.EVERY_EPOCH, module.EACH_ANEW]
    assert {row.predicted for row in measured} == {4}
    assert len({round(row.audio_s, 3) for row in measured}) == 1
