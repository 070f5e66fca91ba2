"""recipes/benchmarks/extraction.py: contenders write the same features of the same speech; shares are what they say."""

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from speechssl.data.manifest import read_manifest

FOLDER = Path(__file__).parents[1] / "recipes" / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def tiny(script, tiny_encoder):
    """Give the small size with a tiny trunk."""
    return dataclasses.replace(script("sizes").SIZES["small"](), name="tiny", encoder=tiny_encoder)


def test_all_write_features_of_the_same_frames(script, tiny, make_corpus, tmp_path):
    pytest.importorskip("transformers")
    module = script("extraction")
    manifest = read_manifest(make_corpus(tmp_path / "corpus", [16_000, 20_000]))
    rows = [dataclasses.replace(row, path=str(manifest.audio_path(row))) for row in manifest.utterances]
    folder = tmp_path / "work"
    folder.mkdir()
    measured = module.measure(tiny, rows, folder, formats=["npy", "shards"], layer=2, repeats=2, seed=0)
    assert [row.contender for row in measured] == ["speechssl npy", "speechssl shards", module.ALONE, module.PEER]
    assert len({row.predicted for row in measured}) == 1
    assert {row.audio_s for row in measured} == {2.25}
    shares = module.shares(measured)
    assert len(shares) == 4
    npy, alone = measured[0], measured[2]
    ratio = float(np.median([a / b for a, b in zip(alone.walls, npy.walls, strict=True)]))
    assert shares["tiny features layer 2 speechssl npy: forward pass alone"] == pytest.approx(ratio, abs=0.001)


def test_features_that_differ_are_no_measurement(script, tiny, make_corpus, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    module = script("extraction")
    manifest = read_manifest(make_corpus(tmp_path / "corpus", [16_000]))
    rows = [dataclasses.replace(row, path=str(manifest.audio_path(row))) for row in manifest.utterances]
    monkeypatch.setattr(module, "TOLERANCE", 0.0)
    folder = tmp_path / "work"
    folder.mkdir()
    with pytest.raises(ValueError, match="u0000: features differ by"):
        module.measure(tiny, rows, folder, formats=["npy"], layer=2, repeats=1, seed=0)


def test_the_script_writes_what_it_prints(script, tiny, make_corpus, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    module = script("extraction")
    monkeypatch.setattr(module, "SIZES", {"small": lambda: tiny})
    manifest, out = make_corpus(tmp_path / "corpus", [40_000, 48_000]), tmp_path / "out.json"
    arguments = ["--manifest", str(manifest), "--seconds", "1", "--repeats", "1", "--format", "npy"]
    monkeypatch.setattr(sys, "argv", ["extraction.py", *arguments, "--threads", "1", "--out", str(out)])
    module.main()
    told = json.loads(out.read_text())
    assert {row["contender"] for row in told["rows"]} == {"speechssl npy", "forward pass alone", "transformers"}
    printed = capsys.readouterr().out
    assert all(f"{key}: {ratio:.2f}" in printed for key, ratio in told["shares"].items())
