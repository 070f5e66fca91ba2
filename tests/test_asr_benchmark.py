"""recipes/benchmarks/asr.py and decoders.py: contenders do the same work on the same speech, what is told is so."""

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from speechssl.asr.decoding.grammar import Weights
from speechssl.asr.decoding.hypothesis import GreedyDecoder
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Utterance

FOLDER = Path(__file__).parents[1] / "recipes" / "benchmarks"
TEXTS = ("the cat sat on the mat", "a dog sat", "the dog and a cat")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for number, text in enumerate(TEXTS):
        samples = 40_000 + 8_000 * number
        noise = np.random.default_rng(number).normal(0, 0.1, samples)
        soundfile.write(str(tmp_path / f"{number}.wav"), noise, 16_000)
        rows.append(
            Utterance(
                id=f"u{number}", path=f"{number}.wav", num_samples=samples, sample_rate=16_000, channels=1, text=text
            )
        )
    write_manifest(tmp_path / "pool.tsv", rows)
    return tmp_path / "pool.tsv"


def row(number: int, text: str | None, samples: int = 48_000) -> Utterance:
    return Utterance(
        id=f"u{number}", path=f"{number}.wav", num_samples=samples, sample_rate=16_000, channels=1, text=text
    )


def test_simulated_speech_lasts_as_long_as_its_audio_and_says_its_text(script):
    rows = [*(row(number, text) for number, text in enumerate(TEXTS)), row(7, None), row(8, "far too long " * 9)]
    heard = script("decoders").simulate(rows, seed=0)
    assert heard.log_probs.keys() == heard.references.keys() == {"u0", "u1", "u2"}
    assert heard.audio_s == 9.0
    assert all(len(each) == 150 for each in heard.log_probs.values())
    greedy = GreedyDecoder(heard.vocabulary)
    texts = {key: greedy.decode(each[None], torch.tensor([150]))[0][0].text for key, each in heard.log_probs.items()}
    cer, _ = script("decoders").error_rate(heard, texts)
    assert cer < 0.3


def test_searches_read_the_same_speech_and_flashlight_reads_alike_through_both(script, manifest, tmp_path):
    pytest.importorskip("flashlight")
    pytest.importorskip("kenlm")
    module = script("decoders")
    heard = module.simulate([row(number, text) for number, text in enumerate(TEXTS)], seed=0)
    language = module.build_language([manifest], heard.vocabulary, tmp_path)
    found = {}
    for name, decode in module.decoders(heard.vocabulary, language, Weights(), 20).items():
        texts = found.setdefault(name, {})
        assert module.turn(decode, heard, texts)().predicted == 3
        assert module.error_rate(heard, texts)[0] < 0.3
    assert found["speechssl"] == found["torchaudio"] == found[module.PURE]


def test_searches_that_are_not_installed_are_left_out_and_named(script, manifest, tmp_path, monkeypatch, capsys):
    module = script("decoders")
    find = module.importlib.util.find_spec
    absent = {"flashlight", "ctc_beam_decoder", "pyctcdecode"}
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    out = tmp_path / "report.json"
    given = ["--manifest", str(manifest), "--repeats", "1", "--threads", "1", "--beam", "10"]
    monkeypatch.setattr(sys, "argv", ["asr.py", "--task", "decode", *given, "--out", str(out)])
    script("asr").main()
    report = json.loads(out.read_text())
    assert [row["contender"] for row in report["rows"]] == [module.PURE]
    assert report["ratios"] == {}
    packages = {"speechssl": "flashlight-text", "torchaudio": "flashlight-text"}
    packages |= {"pyctcdecode": "pyctcdecode", "ctc-beam-decoder": "ctc-beam-decoder"}
    found = {key.rpartition(": ")[2]: value.split(", ")[0] for key, value in report["left_out"].items()}
    assert found == packages
    assert "| torchaudio | not installed: flashlight-text" in capsys.readouterr().out


def test_the_report_has_a_ratio_against_every_search(script, manifest, tmp_path, monkeypatch, capsys):
    pytest.importorskip("flashlight")
    pytest.importorskip("kenlm")
    out = tmp_path / "report.json"
    given = ["--manifest", str(manifest), "--repeats", "1", "--threads", "1", "--beam", "10", "--seconds", "9"]
    monkeypatch.setattr(sys, "argv", ["asr.py", "--task", "decode", *given, "--out", str(out)])
    script("asr").main()
    report = json.loads(out.read_text())
    work = "decode lexicon and 4-gram beam 10"
    assert {f"{work}: torchaudio", f"{work}: speechssl, no native package"} <= report["ratios"].keys()
    assert set(report["decode"]["beam 10"]) == {row["contender"] for row in report["rows"]}
    assert "| beam 10 | torchaudio |" in capsys.readouterr().out


def test_a_recogniser_is_measured_with_its_own_log_probabilities(script, manifest, tiny_encoder, tmp_path):
    size = dataclasses.replace(script("sizes").SIZES["small"](), encoder=tiny_encoder)
    script("recogniser").write_random(size, tmp_path / "model", seed=0)
    heard = script("asr").hear(tmp_path / "model", read_manifest(manifest))
    assert heard.references == {f"u{number}": text for number, text in enumerate(TEXTS)}
    assert heard.audio_s == pytest.approx(9.0)
    assert all(torch.allclose(each.exp().sum(-1), torch.ones(len(each))) for each in heard.log_probs.values())


@pytest.mark.slow
def test_transcription_gives_the_texts_of_the_pipeline_one_at_a_time(script, manifest, tiny_encoder):
    pytest.importorskip("transformers")
    size = dataclasses.replace(script("sizes").SIZES["small"](), encoder=tiny_encoder)
    module = script("asr")
    settings = module.Settings(manifests=(manifest,), seconds=60.0, repeats=1, seed=0)
    rows, facts = module.measure_transcribing(size, settings)
    assert [row.contender for row in rows][:2] == ["speechssl", "transformers"]
    assert [row.audio_s for row in rows] == pytest.approx([9.0] * len(rows))
    assert facts["equal_texts_by_batch"]["1"] == facts["utterances"] == 3
    assert facts["equal_texts_by_batch"][str(facts["best_batch_with_equal_texts"])] == 3


def test_targets_of_the_issue_are_those_of_make_bench(script):
    targets = script("short").TARGETS
    assert targets["base finetune same: transformers"] == 1.3
    assert targets["base transcribe mixed: transformers"] == 1.5
    assert targets["decode lexicon and 4-gram beam 50: torchaudio"] == 1.0
