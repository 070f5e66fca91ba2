"""recipes/benchmarks/data.py: contenders do the same work, turns are fair, ratios are those of single repeats."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from speechssl.data.manifest import write_manifest
from speechssl.data.utterances import Utterance

FOLDER = Path(__file__).parents[1] / "recipes" / "benchmarks"


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("data")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for number in range(3):
        noise = np.random.default_rng(number).normal(0, 0.1, 40_000)
        soundfile.write(str(tmp_path / f"{number}.wav"), noise, 16_000)
        rows.append(Utterance(id=f"{number}", path=f"{number}.wav", num_samples=40_000, sample_rate=16_000, channels=1))
    write_manifest(tmp_path / "pool.tsv", rows)
    return tmp_path / "pool.tsv"


def test_ways_to_build_list_the_same_files_and_lengths(data, manifest, tmp_path):
    audio = tmp_path / "seconds"
    assert data.cut_to_seconds([manifest], audio, 100) == 6
    assert data.build_ours(audio, tmp_path) == data.build_as_people_do(audio, tmp_path) == data.touch(audio, tmp_path)
    ours = [line.split("\t") for line in (tmp_path / "ours.tsv").read_text().splitlines()[1:]]
    people = [line.split("\t") for line in (tmp_path / "people.tsv").read_text().splitlines()[1:]]
    assert sorted(row[1:3] for row in ours) == sorted(people)
    assert {row[2] for row in ours} == {"16000"}


def test_ways_to_check_go_through_the_same_files(data, manifest):
    assert data.check_ours(manifest, 1) == data.decode_bare(manifest) == 3


def test_contenders_begin_in_turn_and_the_first_round_does_not_count(data):
    done = []
    turns = {name: lambda name=name: done.append(name) or 1 for name in "ab"}
    spent = data.take_turns(turns, 2)
    assert "".join(done) == "baabba"
    assert "".join(turn.contender for turn in spent) == "abba"


def test_ratios_are_medians_of_single_repeats(data):
    walls = {data.OURS: (1.0, 2.0, 4.0), "peer": (2.0, 6.0, 4.0)}
    spent = [data.Spent(contender=name, files=1, wall_s=walls[name][i], cpu_s=1.0) for i in range(3) for name in walls]
    lines = data.summarise("data build flac", spent, 1.0)
    assert data.ratios(lines, "times_wall") == {"data build flac: peer": 2.0}
    assert data.ratios(lines, "times_cpu") == {"data build flac: peer": 1.0}
    assert "| data build flac | peer | 1 | 4.000 | 1.000 |" in data.table(lines)


def test_the_report_has_the_ratios_and_the_share_of_the_bound(data, manifest, tmp_path, monkeypatch):
    pytest.importorskip("lhotse")
    arguments = ["data.py", "--manifest", str(manifest), "--files", "4", "--hours", "0.001", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(tmp_path / "report.json")])
    data.main()
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"data build flac: glob + soundfile.info", "data check flac: one process decodes"} <= report["ratios"].keys()
    assert report["cpu_ratios"].keys() == report["ratios"].keys()
    assert report["share_of_bound"]["wall"] > 0
    assert data.TARGETS.keys() <= report["ratios"].keys()
    assert data.TARGETS.items() <= importlib.import_module("short").TARGETS.items()
