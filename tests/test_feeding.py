"""recipes/benchmarks/feeding.py: what every loader delivers, and what is made of it."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "recipes" / "benchmarks"
NEEDS = {"speechssl fairseq2": "fairseq2", "fairseq2 by hand": "fairseq2", "lhotse": "lhotse", "datasets": "datasets"}
SLOW = {"lhotse", "datasets"}  # to import


@pytest.fixture
def feeding(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    script = importlib.import_module("feeding")
    monkeypatch.setattr(script, "SETTLING_S", 0.0)
    monkeypatch.setattr(script, "set_allocator", lambda **_: None)
    return script


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in ("speechssl torch", "speechssl fairseq2", "fairseq2 by hand", "lhotse", "datasets", "plain")
    ],
)
@pytest.mark.filterwarnings("ignore")  # others' own
def test_each_loader_delivers_all_the_speech_before_it_repeats_itself(feeding, tmp_path, make_corpus, name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    corpus = make_corpus(tmp_path / "corpus", range(16_000, 26_000, 1_000))
    (tmp_path / "all").mkdir()
    listed = feeding.gather([corpus], tmp_path / "all", as_flac=name == "plain")
    speech = feeding.Speech(manifest=listed, seconds=5.0, workers=1, seed=0)
    feed = feeding.LOADERS[name](speech)
    total, batches = 0.0, []
    while total < 0.99 * sum(range(16_000, 26_000, 1_000)) / 16_000:
        batches.append(next(feed))
        total += batches[-1]
    feed.close()
    assert all(0 < seconds <= 5.01 or name in ("datasets", "plain", "fairseq2 by hand") for seconds in batches)
    if name != "fairseq2 by hand":  # its buckets mix one round with the next
        assert total == pytest.approx(12.8125, rel=0.3)


def test_a_turn_takes_what_is_asked_for_and_medians_are_compared_repeat_by_repeat(feeding):
    fed = feeding.turn("plain", iter([2.0] * 10), 5.0)
    assert (fed.audio_s, fed.loader) == (6.0, "plain")
    turns = [
        feeding.Fed(loader=loader, audio_s=100.0, cpu_s=cpu, wall_s=wall)
        for cpus in [(1.0, 2.0, 4.0), (2.0, 3.0, 2.0), (1.0, 10.0, 5.0)]
        for loader, cpu, wall in zip(("speechssl torch", "plain", "lhotse"), cpus, (1.0, 2.0, 4.0), strict=True)
    ]
    rows = feeding.summary(turns)
    assert rows["speechssl torch"] == {
        "audio_s_per_cpu_s": 100.0,
        "audio_s_per_s": 100.0,
        "cpu_of_best_other": 2.0,  # of 2, 1 and 5
        "wall_of_best_other": 2.0,
    }
    assert rows["plain"]["audio_s_per_cpu_s"] == pytest.approx(100 / 3)
    assert "| speechssl torch | 100 | 100 | 2.00 | 2.00 |" in feeding.table(rows)


def test_processor_time_is_that_of_the_children_too(feeding):
    before = feeding.processor_s()
    busy = "import time; [0 for _ in iter(lambda: time.process_time() < 0.3, False)]; print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    spent = feeding.processor_s() - before
    child.kill()
    child.communicate()
    assert 0.25 <= spent <= 1.0
