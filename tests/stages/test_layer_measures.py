"""Stage sweep: measures of layers for tasks."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.downstream.abx import ItemFrames, score_abx
from speechssl.downstream.abx_cells import AbxConfig, plan_abx
from speechssl.downstream.augmented_pairs import uniformity
from speechssl.downstream.cca import JointSpread
from speechssl.downstream.isotropy import MeanCosine
from speechssl.downstream.phone_items import items_of
from speechssl.downstream.speaker_information import speaker_accuracy
from speechssl.errors import ConfigError, LabelError
from speechssl.report.plot import plot_sweep
from speechssl.stages import sweep as stage
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.sweep import SweepConfig, sweep
from speechssl.stages.sweep_table import LayerRow, layers_for_tasks
from speechssl.units.mfcc import log_mel
from speechssl.units.phone_alignments import read_phones

MEASURES = ("abx", "cca", "speaker", "isotropy", "alignment")


@pytest.fixture(scope="session")
def spoken(tmp_path_factory, make_utterances) -> Path:
    """Give a folder of 12 utterances of two speakers, and phones: four tones of 0.2 s, in noise."""
    folder = tmp_path_factory.mktemp("spoken")
    random = np.random.default_rng(0)
    rows, lines = [], []
    for index, row in enumerate(make_utterances([12_800] * 12)):
        rows.append(dataclasses.replace(row, speaker="st"[index % 2]))
        phones = random.permutation(list("abca"))
        tones = [np.sin(np.arange(3200) * (0.1 + 0.2 * "abc".index(phone) + 0.05 * (index % 2))) for phone in phones]
        samples = np.concatenate(tones) / 4 + random.normal(size=12_800) / 50
        soundfile.write(str(folder / row.path), samples, 16_000)
        lines += [f"{row.id} 1 {0.2 * place:.1f} 0.2 {phone}\n" for place, phone in enumerate(phones)]
    write_manifest(folder / "all.tsv", rows)
    (folder / "all.ctm").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def layers_config(spoken, pretrained) -> Callable[..., SweepConfig]:
    """Give a function that configures a sweep of log-mel energies."""

    def make(out: Path, **changes: object) -> SweepConfig:
        config = SweepConfig(
            out=out,
            data=DataConfig(manifests=(spoken / "all.tsv",)),
            phones=spoken / "all.ctm",
            baselines=("log_mel",),
            clusters=(4,),
            iterations=5,
            measures=("pnmi", *MEASURES),
        )
        return dataclasses.replace(config, **changes)

    return make


@pytest.fixture(scope="session")
def measured(tmp_path_factory, layers_config, pretrained) -> Path:
    """Give the folder of a finished sweep of log-mel energies and a model, trained and not."""
    out = tmp_path_factory.mktemp("measured") / "run"
    return sweep(layers_config(out, checkpoint=pretrained, random_weights=True)).parent


def _layers(folder: Path) -> list[dict]:
    return json.loads((folder / "sweep.json").read_text())["layers"]


def test_every_layer_has_every_figure(measured):
    found = _layers(measured)
    assert [(row["kind"], row["layer"]) for row in found] == [
        ("baseline", 0),
        *[(kind, layer) for kind in ("random", "model") for layer in (1, 2)],
    ]
    for row in found:
        assert list(row["figures"]) == list(found[0]["figures"])
        assert np.isfinite(list(row["figures"].values())).all()
    assert len({json.dumps(row["figures"]) for row in found}) == len(found)


def test_figures_of_log_mel_are_those_of_all_its_frames(measured, spoken):
    manifest, phones = read_manifest(spoken / "all.tsv"), read_phones(spoken / "all.ctm")
    speakers = {row.id: row.speaker for row in manifest.utterances}
    features = {}
    for row in manifest.utterances:
        samples, _ = soundfile.read(spoken / row.path, dtype="float32")
        features[row.id] = log_mel(torch.from_numpy(samples)).numpy()
    figures = _layers(measured)[0]["figures"]

    items, config = items_of(phones, speakers), AbxConfig()
    for who in ("within", "across"):
        task = plan_abx(items, who, "any", config)
        frames = ItemFrames(items, task.used, dim=80, hop=160)
        for key, each in features.items():
            frames.add(key, each)
        assert figures[f"ABX {who}, any"] == pytest.approx(score_abx(task, frames, config).error)

    cosine, joint = MeanCosine(80), JointSpread(80, 3)
    for key, each in features.items():
        cosine.add(each)
        centres = (np.arange(len(each)) * 160 + 200) / 16_000
        joint.add(each, np.eye(3)[["abc".index(phones[key][int(centre / 0.2)].phone) for centre in centres]])
    assert figures["mean cosine"] == pytest.approx(cosine.value(), abs=1e-6)
    assert figures["CCA phones"] == pytest.approx(joint.correlation(), abs=1e-6)
    assert figures["CCA log-mel"] == pytest.approx(1, abs=1e-3)
    assert figures["CCA log-mel by chance"] < figures["CCA log-mel"]
    means = np.stack([each.mean(0) for each in features.values()])
    assert figures["speaker accuracy"] == speaker_accuracy(means, list(speakers.values())).accuracy == 1
    assert figures["uniformity"] == pytest.approx(uniformity(np.concatenate(list(features.values()))), abs=0.05)
    assert 0 < figures["alignment"] < 0.5
    assert figures["speaker in 4 units"] > figures["speaker in 4 units by chance"]


def test_the_table_names_layers_for_tasks_and_what_was_compared(measured):
    text = (measured / "sweep.md").read_text()
    assert text.startswith("For phones told apart without training, as for spoken language models: layer ")
    assert "\nFor speakers by a linear head: layer " in text
    assert "\nTake layer " in text
    assert "| features | layer | effective rank | ABX within, any | ABX within, triphone | ABX across, any |" in text
    assert "\n- ABX across, any: " in text
    assert "\n- speakers: 2 with 6 utterances each\n" in text
    assert "\n- augmented pairs: " in text


def test_figures_of_units_are_as_without_further_measures(measured, layers_config, pretrained, tmp_path):
    sweep(layers_config(tmp_path / "run", checkpoint=pretrained, random_weights=True, measures=("pnmi",)))
    alone = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert list(alone) == ["suggestion", "hours", "rows"]
    assert alone["rows"] == json.loads((measured / "sweep.json").read_text())["rows"]
    assert (tmp_path / "run" / "config.json").read_text().count("measures") == 0


def test_without_pnmi_nothing_is_clustered_or_plotted(layers_config, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "fit_kmeans", lambda *_: pytest.fail("clustered"))
    text = sweep(layers_config(tmp_path / "run", measures=("isotropy",))).read_text()
    assert "PNMI" not in text
    assert "| features | layer | effective rank | mean cosine | IsoScore |" in text
    plot_sweep(tmp_path / "run" / "sweep.json", tmp_path / "run" / "sweep.png")
    assert not (tmp_path / "run" / "sweep.png").exists()


def test_an_interrupted_sweep_keeps_its_layers(measured, layers_config, pretrained, tmp_path, monkeypatch):
    config = layers_config(tmp_path / "run", checkpoint=pretrained, random_weights=True)
    measure = stage._measure

    def interrupted(*args):
        if args[3] == "model":
            raise KeyboardInterrupt
        return measure(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "_measure", interrupted)
        sweep(config)
    kinds = []
    monkeypatch.setattr(stage, "_measure", lambda *args: (kinds.append(args[3]), measure(*args))[1])
    assert sweep(config).read_bytes() == (measured / "sweep.md").read_bytes()
    assert kinds == ["model"]


def test_items_of_zerospeech_are_compared_and_those_elsewhere_counted(layers_config, spoken, tmp_path, capsys):
    header = "#file onset offset #phone prev-phone next-phone speaker\n"
    rows = [f"u000{index} 0 0.2 {'ab'[index // 2 % 2]} x y s\n" for index in range(8)]
    late = "u0000 0.6 0.9 a x y s\nu0001 0.001 0.002 a x y s\n"
    (tmp_path / "some.item").write_text(header + "".join(rows) + late + "elsewhere 0 1 a x y s\n")
    config = layers_config(tmp_path / "run", measures=("abx",), abx_items=tmp_path / "some.item")
    text = sweep(config).read_text()
    assert "some.item without audio: 1 utterances: elsewhere" in capsys.readouterr().err
    assert "- ABX: 2 phones without a frame, or past the features, left out: of u0000, u0001\n" in text
    assert "ABX across" not in text.splitlines()[2]
    assert "- no triple of phones for ABX (across, any): expected a speaker with two phones" in text

    (tmp_path / "other.item").write_text(header + "elsewhere 0 1 a x y s\n")
    with pytest.raises(LabelError, match=r"other\.item: names no utterance .* expected ids like 'u\d+', found 'else"):
        sweep(layers_config(tmp_path / "other", measures=("abx",), abx_items=tmp_path / "other.item"))


def test_speakers_are_needed_where_a_measure_needs_them(layers_config, spoken, tmp_path, capsys):
    rows = read_manifest(spoken / "all.tsv").utterances
    silent = [dataclasses.replace(row, speaker=None) for row in rows]
    write_manifest(spoken / "unknown.tsv", silent)
    write_manifest(spoken / "some.tsv", [silent[0], *rows[1:]])
    data = DataConfig(manifests=(spoken / "unknown.tsv",))
    with pytest.raises(LabelError, match=r"unknown\.tsv: no utterance has a speaker, which measures=abx need; add"):
        sweep(layers_config(tmp_path / "none", data=data, measures=("abx",)))
    data = DataConfig(manifests=(spoken / "some.tsv",))
    text = sweep(layers_config(tmp_path / "some", data=data, measures=("speaker",))).read_text()
    assert "left out, no speaker, for abx and speaker: 1 utterances: u0000" in capsys.readouterr().err
    assert "- speakers: 2 with 5 utterances each" in text


def test_noise_of_the_recipe_makes_pairs_and_speeds_do_not(layers_config, spoken, tmp_path):
    augment = {"noise": (spoken / "all.tsv",), "noise_prob": 1.0, "snr_db": (-20.0, -20.0)}
    config = layers_config(tmp_path / "run", measures=("alignment",))
    config = dataclasses.replace(config, augment=dataclasses.replace(config.augment, **augment))
    text = sweep(config).read_text()
    assert "recipe's noise and rooms" in text
    loud = _layers(tmp_path / "run")[0]["figures"]["alignment"]
    sweep(layers_config(tmp_path / "gain", measures=("alignment",)))
    assert loud > 2 * _layers(tmp_path / "gain")[0]["figures"]["alignment"]
    with pytest.raises(ConfigError, match=r"augment\.speeds moves frames"):
        layers_config(tmp_path, augment=dataclasses.replace(config.augment, speeds=(0.9,)))


@pytest.mark.parametrize("measures", [(), ("abx", "abx")])
def test_measures_are_listed_once(layers_config, tmp_path, measures):
    with pytest.raises(ConfigError, match="measures must list one or more, each once"):
        layers_config(tmp_path, measures=measures)


def test_a_task_takes_the_better_end_of_its_figure_and_names_a_rival():
    def row(kind: str, layer: int, abx: float, speaker: float) -> LayerRow:
        figures = {"ABX within, any": abx, "ABX across, any": 1 - abx, "speaker accuracy": speaker}
        return LayerRow(source="mfcc" if kind == "baseline" else kind, kind=kind, layer=layer, figures=figures)

    rows = [row("baseline", 0, 0.3, 0.99), row("model", 1, 0.2, 0.9), row("model", 2, 0.1, 0.8)]
    phones, speakers = layers_for_tasks(rows)
    assert phones.endswith(": layer 2, ABX within, any 0.100; mfcc has 0.300.")
    assert ": layer 1, speaker accuracy 0.900; mfcc has 0.990, so this model is no better than a baseline" in speakers
    assert layers_for_tasks(rows[:1])[0].endswith(": mfcc, ABX within, any 0.300.")
