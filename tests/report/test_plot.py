"""The pictures: an utterance with its units, and PNMI by layer."""

import dataclasses
import json

import numpy as np
import pytest

from speechssl.data.labels import FrameLabels, LabelSource, write_labels
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.errors import ConfigError, LabelError, ManifestError
from speechssl.report.plot import plot_shifts, plot_sweep, plot_units


@pytest.fixture
def corpus(write_wav, make_utterances, tmp_path):
    rows = make_utterances([16_000])
    write_wav(tmp_path / rows[0].path, 16_000)
    write_manifest(tmp_path / "all.tsv", rows)
    source = LabelSource(clusters=5, hop=160, window=400, features="mfcc", kmeans="0")
    units = np.arange(98, dtype=np.int16) // 10 % 5
    write_labels(tmp_path / "labels.tsv", FrameLabels(source=source, units={rows[0].id: units}))
    return tmp_path


def test_a_png_is_written_with_a_strip_for_each_label_file(corpus):
    manifest = read_manifest(corpus / "all.tsv")
    plot_units([corpus / "labels.tsv"], manifest, corpus / "one.png")
    plot_units([corpus / "labels.tsv"] * 2, manifest, corpus / "two.png")
    heights = [int.from_bytes((corpus / name).read_bytes()[20:24], "big") for name in ("one.png", "two.png")]
    assert (corpus / "one.png").read_bytes().startswith(b"\x89PNG")
    assert heights[1] > heights[0]


def test_an_utterance_that_is_not_listed_is_refused(corpus):
    with pytest.raises(ManifestError, match="lists no utterance 'nobody'"):
        plot_units([corpus / "labels.tsv"], read_manifest(corpus / "all.tsv"), corpus / "x.png", utterance_id="nobody")


def test_an_utterance_without_labels_is_refused(corpus):
    source = LabelSource(clusters=5, hop=160, window=400, features="mfcc", kmeans="0")
    write_labels(corpus / "other.tsv", FrameLabels(source=source, units={"z": np.zeros(3, dtype=np.int16)}))
    with pytest.raises(LabelError, match=r"other\.tsv: has no labels for u0000"):
        plot_units([corpus / "other.tsv"], read_manifest(corpus / "all.tsv"), corpus / "x.png")


def _figures(path, points):
    rows = [
        {"kind": kind, "source": source, "layer": layer, "clusters": clusters, "quality": {"pnmi": pnmi}}
        for kind, source, layer, clusters, pnmi in points
    ]
    path.write_text(json.dumps({"rows": rows}))
    return path


BASELINES = [("baseline", "mfcc", 0, 50, 0.3), ("baseline", "mfcc", 0, 100, 0.4), ("baseline", "log_mel", 0, 50, 0.2)]
LAYERS = [(kind, kind, layer, k, 0.1 * layer) for kind in ("model", "random") for layer in (1, 2) for k in (50, 100)]


@pytest.mark.parametrize("points", [BASELINES[:2], LAYERS, BASELINES + LAYERS])
def test_a_sweep_is_drawn_with_or_without_a_model_and_baselines(tmp_path, points):
    plot_sweep(_figures(tmp_path / "sweep.json", points), tmp_path / "new/sweep.png")
    assert (tmp_path / "new/sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", [None, "{", "{}", '{"rows": [{}]}', "[]"])
def test_what_is_no_sweep_is_not_drawn(tmp_path, text):
    if text is not None:
        (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(LabelError, match=r"sweep\.json: expected the figures of a sweep .*; run `speechssl sweep`"):
        plot_sweep(tmp_path / "sweep.json", tmp_path / "sweep.png")


def test_narrowband_audio_is_drawn(corpus, write_wav):
    row = dataclasses.replace(read_manifest(corpus / "all.tsv").utterances[0], num_samples=8000, sample_rate=8000)
    write_wav(corpus / row.path, 8000, rate=8000)
    write_manifest(corpus / "narrow.tsv", [row])
    plot_units([corpus / "labels.tsv"], read_manifest(corpus / "narrow.tsv"), corpus / "x.png")
    assert (corpus / "x.png").exists()


@pytest.mark.parametrize("level", [10, None])  # measured rooms have no level, and no curve
def test_shifts_are_drawn_with_or_without_a_curve(tmp_path, level):
    score = {"CER": {"score": 0.5, "interval": {"low": 0.4, "high": 0.6}}}
    clean = {"curve": None, "level": None, "unit": None, "scores": score}
    shifted = {"curve": "noise", "level": level, "unit": "dB", "scores": score}
    found = {"higher_is_better": {"CER": False}, "conditions": {"one": [clean, shifted], "two": [clean, shifted]}}
    (tmp_path / "shift.json").write_text(json.dumps(found))
    plot_shifts(tmp_path / "shift.json", tmp_path / "new/shift.png")
    assert (tmp_path / "new/shift.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", [None, "{", "{}", "[]"])
def test_what_holds_no_shifts_is_not_drawn(tmp_path, text):
    if text is not None:
        (tmp_path / "shift.json").write_text(text)
    with pytest.raises(ConfigError, match=r"shift\.json: expected the figures of shifts .*; run `speechssl shift`"):
        plot_shifts(tmp_path / "shift.json", tmp_path / "shift.png")
