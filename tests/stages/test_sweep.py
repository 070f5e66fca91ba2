"""Stage sweep: every layer with every number of units, against phones."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.errors import AudioError, CheckpointError, ConfigError, LabelError
from speechssl.hub.saved import SavedModel
from speechssl.stages import sweep as stage
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.sweep import SweepConfig, sweep
from speechssl.stages.sweep_table import SweepRow, suggest
from speechssl.units.quality import UnitQuality
from tests.oracles.clusters import oracle_effective_rank

ALL = [("mfcc", 0), ("random weights", 1), ("random weights", 2), ("run/step_00000003", 1), ("run/step_00000003", 2)]


@pytest.fixture(scope="session")
def phones(tmp_path_factory, corpus) -> Path:
    """Give an alignment of all utterances: a phone in the first 0.2 s, another in the rest."""
    path = tmp_path_factory.mktemp("phones") / "all.ctm"
    rows = read_manifest(corpus).utterances
    path.write_text("".join(f"{row.id} 1 0 0.2 a\n{row.id} 1 0.2 {row.duration_s - 0.2} b\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def sweep_config(corpus, phones, pretrained) -> Callable[..., SweepConfig]:
    """Give a function that configures a sweep of two numbers of units over MFCC and a model, trained and not."""

    def make(out: Path, **changes: object) -> SweepConfig:
        config = SweepConfig(
            out=out,
            data=DataConfig(manifests=(corpus,)),
            phones=phones,
            checkpoint=pretrained,
            random_weights=True,
            clusters=(3, 6),
            iterations=5,
        )
        return dataclasses.replace(config, **changes)

    return make


@pytest.fixture(scope="session")
def swept(tmp_path_factory, sweep_config) -> Path:
    """Give the folder of a finished sweep."""
    return sweep(sweep_config(tmp_path_factory.mktemp("swept") / "run")).parent


def _rows(folder: Path) -> list[dict]:
    return json.loads((folder / "sweep.json").read_text())["rows"]


def test_every_layer_of_every_source_is_measured_with_every_number_of_units(swept):
    found = [(row["source"], row["layer"], row["clusters"]) for row in _rows(swept)]
    assert found == [(source, layer, clusters) for source, layer in ALL for clusters in (3, 6)]


def test_figures_are_over_all_frames_that_carry_a_phone(swept, corpus):
    rows = read_manifest(corpus).utterances
    for found in _rows(swept):
        hop, window = (160, 400) if found["kind"] == "baseline" else (320, 325)
        assert found["quality"]["frames"] == sum((row.num_samples - window) // hop + 1 for row in rows)
        assert found["quality"]["phone_segment_s"] == pytest.approx(sum(row.duration_s for row in rows) / 16)
        assert 0 <= found["quality"]["pnmi"] <= 1
        assert found["quality"]["coverage"] * found["clusters"] == pytest.approx(found["quality"]["used"])


def test_layers_and_weights_differ(swept):
    ranks = {(row["source"], row["layer"]): row["effective_rank"] for row in _rows(swept)}
    assert len(set(ranks.values())) == len(ALL)


def test_the_rank_is_that_of_all_frames_of_the_layer(swept, corpus, pretrained):
    manifest = read_manifest(corpus)
    encoder = SavedModel.read(pretrained).encoder()
    frames = []
    for row in manifest.utterances:
        waveform = read_audio(manifest.audio_path(row), AudioConfig())
        with torch.no_grad():
            frames.append(encoder(waveform[None], torch.tensor([len(waveform)]), num_layers=1).last[0])
    expected = oracle_effective_rank(torch.cat(frames).double().numpy())
    found = next(row for row in _rows(swept) if (row["kind"], row["layer"]) == ("model", 1))
    assert found["effective_rank"] == pytest.approx(expected, rel=1e-3)
    assert found["dim"] == 32


def test_the_table_has_a_row_for_each_and_the_suggestion_above(swept):
    lines = (swept / "sweep.md").read_text().splitlines()
    assert lines[0] == json.loads((swept / "sweep.json").read_text())["suggestion"]
    assert lines[0].startswith("Take layer ")
    assert sum(line.startswith("| ") for line in lines) == 1 + len(_rows(swept))
    assert lines[-1].startswith("8 utterances, 0.1 min; a phone lasts ")


def test_units_moved_in_time_say_what_is_chance(sweep_config, make_utterances, tmp_path):
    rows = make_utterances([16_000] * 4)
    for row in rows:
        tones = [np.sin(np.arange(count) * pitch) for count, pitch in ((4_000, 0.1), (12_000, 1.0))]
        soundfile.write(str(tmp_path / row.path), np.concatenate(tones) / 2, 16_000)
    write_manifest(tmp_path / "tones.tsv", rows)
    (tmp_path / "tones.ctm").write_text("".join(f"{row.id} 1 0 0.25 low\n{row.id} 1 0.25 0.75 high\n" for row in rows))
    data = DataConfig(manifests=(tmp_path / "tones.tsv",))
    changes = {"phones": tmp_path / "tones.ctm", "checkpoint": None, "random_weights": False, "clusters": (3,)}
    sweep(sweep_config(tmp_path / "run", data=data, **changes))
    (found,) = _rows(tmp_path / "run")
    assert found["chance"] < 0.3 < 0.9 < found["quality"]["pnmi"]


def test_a_second_sweep_elsewhere_finds_the_same(swept, sweep_config, tmp_path):
    assert sweep(sweep_config(tmp_path / "run")).read_bytes() == (swept / "sweep.md").read_bytes()


def test_a_finished_sweep_is_not_done_again(swept, sweep_config, monkeypatch):
    monkeypatch.setattr(stage, "read_phones", lambda *_, **__: pytest.fail("read the alignments again"))
    assert sweep(sweep_config(swept)) == swept / "sweep.md"


def test_an_interrupted_sweep_keeps_the_sources_it_has_measured(swept, sweep_config, tmp_path, monkeypatch):
    measured = stage._measure

    def interrupted(*args):
        if args[3] == "random":
            raise KeyboardInterrupt
        return measured(*args)

    config = sweep_config(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "_measure", interrupted)
        sweep(config)
    kinds = []
    monkeypatch.setattr(stage, "_measure", lambda *args: (kinds.append(args[3]), measured(*args))[1])
    assert sweep(config).read_bytes() == (swept / "sweep.md").read_bytes()
    assert kinds == ["random", "model"]


def test_only_the_layers_asked_for_are_measured_and_they_are_the_same(swept, sweep_config, tmp_path):
    config = sweep_config(tmp_path / "run", layers=(1,), random_weights=False, baselines=())
    sweep(config)
    assert _rows(tmp_path / "run") == [row for row in _rows(swept) if (row["kind"], row["layer"]) == ("model", 1)]


def test_without_a_model_the_baselines_are_compared(sweep_config, tmp_path):
    config = sweep_config(tmp_path / "run", checkpoint=None, random_weights=False, baselines=("log_mel", "mfcc"))
    text = sweep(config).read_text()
    assert {(row["source"], row["dim"]) for row in _rows(tmp_path / "run")} == {("log_mel", 80), ("mfcc", 39)}
    assert text.startswith(("Take mfcc with", "Take log_mel with"))


def test_k_means_is_fitted_on_a_seeded_share_of_the_frames(sweep_config, tmp_path, monkeypatch):
    sizes = []
    fit = stage.fit_kmeans

    def spy(frames, *args):
        sizes.append(len(frames))
        return fit(frames, *args)

    monkeypatch.setattr(stage, "fit_kmeans", spy)
    sweep(sweep_config(tmp_path / "run", clusters=(3,), fit_frames=200))
    assert sizes == [200] * len(ALL)


def test_utterances_are_drawn_until_there_are_enough_hours(sweep_config, tmp_path):
    sweep(sweep_config(tmp_path / "run", checkpoint=None, random_weights=False, max_hours=1.5 / 3600))
    frames = _rows(tmp_path / "run")[0]["quality"]["frames"]
    assert 148 <= frames <= 148 + 100  # each utterance is shorter than a second


def test_utterances_without_phones_are_left_out_and_counted(sweep_config, phones, tmp_path, capsys):
    some = tmp_path / "some.ctm"
    some.write_text(
        "".join(line for line in phones.read_text().splitlines(True) if not line.startswith(("u0002", "u0005")))
    )
    text = sweep(sweep_config(tmp_path / "run", checkpoint=None, random_weights=False, phones=some)).read_text()
    assert "left out, no phones: 2 utterances: u0002, u0005" in capsys.readouterr().err
    assert "6 utterances," in text


def test_alignments_of_another_corpus_are_refused(sweep_config, tmp_path):
    other = tmp_path / "other.ctm"
    other.write_text("x1 1 0 1 a\n")
    with pytest.raises(LabelError, match=r"other\.ctm: aligns no utterance .*; expected ids like 'u0000', found 'x1'"):
        sweep(sweep_config(tmp_path / "run", phones=other))


def test_a_layer_that_the_model_lacks_is_refused(sweep_config, tmp_path):
    with pytest.raises(LabelError, match=r"run/step_00000003 has layers 1 to 2, the recipe asks for \[3\]"):
        sweep(sweep_config(tmp_path / "run", layers=(1, 3), baselines=()))


def test_bad_audio_stops_or_is_skipped_and_counted(sweep_config, corpus, tmp_path, make_corpus, capfd):
    manifest = make_corpus(tmp_path / "spoilt")
    (manifest.parent / "u0001.wav").write_bytes(b"")
    changes = {"checkpoint": None, "random_weights": False, "clusters": (3,)}
    with pytest.raises(AudioError, match=r"empty \(0 bytes\): \S+u0001\.wav"):
        sweep(sweep_config(tmp_path / "stop", data=DataConfig(manifests=(manifest,)), **changes))
    sweep(sweep_config(tmp_path / "skip", data=DataConfig(manifests=(manifest,), bad_audio="skip"), **changes))
    assert "left out, bad audio: 1 utterances: u0001" in capfd.readouterr().err


def test_another_configuration_does_not_overwrite_a_sweep(swept, sweep_config):
    with pytest.raises(CheckpointError, match="another configuration"):
        sweep(sweep_config(swept, seed=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clusters": (1, 50)}, r"clusters must list numbers from 2 up, found \[1, 50\]"),
        ({"clusters": ()}, r"clusters must list numbers from 2 up, found \[\]"),
        ({"checkpoint": None}, "without checkpoint there are only baselines"),
        ({"checkpoint": None, "random_weights": False, "baselines": ()}, "without checkpoint"),
    ],
)
def test_a_sweep_of_nothing_is_refused(sweep_config, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        sweep_config(tmp_path, **changes)


def _row(kind: str, layer: int, clusters: int, pnmi: float) -> SweepRow:
    figures = dict.fromkeys((field.name for field in dataclasses.fields(UnitQuality)), 0)
    source = {"baseline": "mfcc", "random": "random weights", "model": "hubert"}[kind]
    quality = UnitQuality(**figures | {"pnmi": pnmi})
    figures = {"effective_rank": 1, "quality": quality, "chance": 0.03}
    return SweepRow(source=source, kind=kind, layer=layer, clusters=clusters, dim=1, **figures)


MODEL = [_row("model", 1, 50, 0.5), _row("model", 1, 100, 0.595), _row("model", 2, 100, 0.59)]
MODEL += [_row("model", 1, 200, 0.60), _row("model", 2, 500, 0.58)]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            MODEL,
            "Take layer 1 with 100 units: PNMI 0.595 where chance gives 0.030, the fewest units within 0.01 of "
            "the highest (0.600, layer 1 with 200).",
        ),
        (
            [*MODEL, _row("baseline", 0, 100, 0.4), _row("random", 2, 100, 0.3), _row("baseline", 0, 50, 0.9)],
            "Take layer 1 with 100 units: PNMI 0.595 where chance gives 0.030, the fewest units within 0.01 of "
            "the highest (0.600, layer 1 with 200); mfcc has 0.400 with as many units.",
        ),
        (
            [*MODEL[:2], _row("random", 2, 100, 0.61)],
            "Take layer 1 with 100 units: PNMI 0.595 where chance gives 0.030, the highest; layer 2 of random "
            "weights has 0.610 with as many units, so this model is no better than a baseline "
            "without training; more units were not tried.",
        ),
        (
            [_row("baseline", 0, 50, 0.2), _row("baseline", 0, 100, 0.3)],
            "Take mfcc with 100 units: PNMI 0.300 where chance gives 0.030, the highest; more units were not tried.",
        ),
    ],
)
def test_the_suggestion_is_the_fewest_units_that_are_good_enough(rows, sentence):
    assert suggest(rows, tolerance=0.01) == sentence
