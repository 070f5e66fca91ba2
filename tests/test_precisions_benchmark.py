"""recipes/benchmarks/precisions.py: all contenders read all speech; memory and labels are compared with float32's."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from speechssl.data.manifest import write_manifest
from speechssl.data.utterances import Utterance

FOLDER = Path(__file__).parents[1] / "recipes" / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def rows(script, tmp_path: Path) -> list[Utterance]:
    told = []
    for number, samples in enumerate((32_000, 40_000)):
        noise = np.random.default_rng(number).normal(0, 0.1, samples)
        soundfile.write(str(tmp_path / f"{number}.wav"), noise, 16_000)
        told.append(
            Utterance(id=f"u{number}", path=f"{number}.wav", num_samples=samples, sample_rate=16_000, channels=1)
        )
    write_manifest(tmp_path / "pool.tsv", told)
    return script("batches").draw_speech([tmp_path / "pool.tsv"], 60.0, seed=0)


@pytest.fixture
def ours(script, tiny_encoder, tmp_path):
    """Our own model alone."""
    size = dataclasses.replace(script("sizes").SIZES["small"](), encoder=tiny_encoder)
    script("recogniser").write_random(size, tmp_path / "ours", seed=0)
    nowhere = tmp_path / "nowhere"
    layers = tiny_encoder.transformer.num_layers
    return script("precisions").Models(
        name="tiny", ours=tmp_path / "ours", transformers=nowhere, onnx=nowhere, layer=layers, parameters=1
    )


@pytest.mark.slow  # it exports and loads a graph
def test_every_precision_has_a_ratio_against_every_peer(script, ours, rows, tmp_path):
    for package in ("transformers", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    module = script("precisions")
    models = module.prepare("tiny", ours.ours, tmp_path, seed=0)
    ratios, threads = script("measuring").ratios, torch.get_num_threads()
    suffix = "" if threads == 2 else f", threads {threads}"
    measured, facts = module.measure(models, rows, "transcribe", ("float32", "int8"), 1)
    assert {row.predicted for row in measured} == {2}
    works = [f"tiny transcribe {each}{suffix}" for each in ("float32", "int8")]
    assert ratios(measured).keys() == {f"{work}: {peer}" for work in works for peer in (module.PEER, module.ONNX)}
    assert facts["fastest_batch_of_the_pipeline"] in module.BATCH_SIZES
    assert facts["seconds_to_read_the_model"].keys() == {"float32", "int8", module.PEER, module.ONNX}
    measured, _ = module.measure(models, rows, "extract", ("float32",), 1)
    assert len({row.predicted for row in measured}) == 1  # as many frames for all
    assert [row.contender for row in measured] == ["speechssl", module.PEER, module.CUT]


def test_labels_in_float32_are_all_equal_and_int8_gives_a_share(script, ours, rows, monkeypatch):
    module = script("precisions")
    monkeypatch.setattr(module, "CLUSTERS", 5)
    found = module.equal_labels(ours, rows, ("float32", "int8"), seed=0)
    assert found["float32"] == 1.0
    assert 0.5 < found["int8"] <= 1.0


def test_memory_is_told_as_times_less_than_in_float32(script):
    found = {"transcribe float32": 100.0, "transcribe auto": 50.0, "transcribe int8": 50.0}
    assert script("precisions").memory_ratios("base", found) == {"base transcribe int8 memory: float32": 2.0}


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own(script, ours, rows, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FOLDER), prepend=":")
    found = script("precisions").peaks(ours, rows, ("float32",))
    assert found.keys() == {"transcribe float32", "extract float32"}
    assert all(peak > 1.0 for peak in found.values())
