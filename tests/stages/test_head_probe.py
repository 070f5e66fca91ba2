"""Stages probe and predict: splits, features, training, scores, and bad input."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.config import load
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Utterance
from speechssl.errors import CheckpointError, ConfigError, LabelError, ManifestError
from speechssl.features.description import DESCRIPTION as FEATURES
from speechssl.stages import head_features, head_training
from speechssl.stages.head_answers import answered_splits
from speechssl.stages.head_features import probed_models, split_features
from speechssl.stages.head_folder import load_head
from speechssl.stages.head_probe import train_probes
from speechssl.stages.predict import predict_table
from speechssl.stages.probe_config import HeadTrainConfig, ProbeConfig, SplitRule
from speechssl.stages.reading_data import DataConfig, read_data, read_waveform
from speechssl.tasks.frame_classes import FrameClassesConfig
from speechssl.tasks.utterance_classes import UtteranceClassesConfig
from speechssl.tasks.utterance_values import UtteranceValuesConfig

PITCH = {"low": 200, "mid": 700, "high": 2000}
SPEAKERS = 6
CLASSES = UtteranceClassesConfig(column="pitch", projector=8)


@pytest.fixture(scope="session")
def tones(tmp_path_factory) -> Path:
    """Give a manifest of tones: each of six speakers has two of each pitch; further columns pitch and hertz."""
    folder = tmp_path_factory.mktemp("tones")
    random, rows = np.random.default_rng(0), []
    for number in range(SPEAKERS * len(PITCH) * 2):
        speaker, (name, hertz) = number % SPEAKERS, list(PITCH.items())[number // SPEAKERS % 3]
        hertz *= 1 + 0.02 * speaker
        samples = 4000 + 400 * int(random.integers(0, 4))
        wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / 16_000) + random.normal(0, 0.02, samples)
        soundfile.write(folder / f"u{number:02d}.wav", wave.astype(np.float32), 16_000)
        rows.append(
            Utterance(
                id=f"u{number:02d}",
                path=f"u{number:02d}.wav",
                num_samples=samples,
                sample_rate=16_000,
                channels=1,
                speaker=f"s{speaker}",
                more=(("pitch", name), ("hertz", f"{hertz:.1f}")),
            )
        )
    write_manifest(folder / "all.tsv", rows)
    return folder / "all.tsv"


@pytest.fixture(scope="session")
def probe_config(tones, pretrained) -> Callable[..., ProbeConfig]:
    """Give a function that configures a probe of pitch: two speakers of six for the test set, one for the dev set."""

    def make(out: Path, **changes: object) -> ProbeConfig:
        config = ProbeConfig(
            out=out,
            task=CLASSES,
            data=DataConfig(manifests=(tones,)),
            split=SplitRule(dev=0.2, test=0.3, salt="15"),
            checkpoint=str(pretrained),
            train=HeadTrainConfig(steps=40, batch=8, lr=0.01, eval_every=20),
            seeds=(0, 1),
        )
        return dataclasses.replace(config, **changes)

    return make


@pytest.fixture(scope="session")
def probed(tmp_path_factory, probe_config) -> Path:
    """Give the folder of a finished probe of a model, its random weights and log-mel."""
    out = tmp_path_factory.mktemp("probed") / "run"
    return train_probes(probe_config(out, random_weights=True, baselines=("log_mel",), each_layer=True)).parent


def results(folder: Path) -> list[dict]:
    return json.loads((folder / "scores.json").read_text())["results"]


def changed(tones: Path, out: Path, change: Callable[[Utterance], Utterance | None]) -> DataConfig:
    manifest = read_manifest(tones)
    rows = [row for row in map(change, manifest.utterances) if row is not None]
    write_manifest(out, rows, root=str(manifest.root))
    return DataConfig(manifests=(out,))


def test_every_source_is_scored_with_its_sum_and_each_layer(probed):
    found = [(row["kind"], row["layers"]) for row in results(probed)]
    model = [[0, 1, 2], [0], [1], [2]]
    assert found == [
        *(("model", each) for each in model),
        *(("random", each) for each in model),
        ("baseline", [0]),
    ]
    assert len({row["model"] for row in results(probed)}) == 3


def test_scores_are_those_of_the_predictions_that_are_written(probed):
    for folder, row in zip(sorted((probed / "heads").glob("*-sum")), results(probed)[::4], strict=False):
        each = []
        for seed, about in zip((0, 1), row["seeds"], strict=True):
            lines = (folder / f"seed-{seed}" / "predictions.tsv").read_text().splitlines()
            assert lines[0].split("\t") == ["id", "speaker", "answer", "predicted", "p(high)", "p(low)", "p(mid)"]
            cells = [line.split("\t") for line in lines[1:]]
            each.append(np.mean([line[2] == line[3] for line in cells]))
            assert about["test"]["accuracy"] == pytest.approx(each[-1])
            assert all(sum(map(float, line[4:])) == pytest.approx(1, abs=1e-4) for line in cells)
        assert row["test"]["accuracy"]["mean"] == pytest.approx(np.mean(each))
        assert np.array(row["confusion"]).sum() == 2 * row["utterances"]["test"]
        assert sum(row["weights"]) == pytest.approx(1)
        assert row["test"]["accuracy"]["low"] <= np.mean(each) <= row["test"]["accuracy"]["high"]


def test_tones_are_told_apart_from_log_mel_better_than_by_chance(probed):
    last = results(probed)[-1]
    assert last["test"]["accuracy"]["mean"] > 0.9
    assert last["chance"]["accuracy"] == pytest.approx(1 / 3)


def test_the_table_has_a_row_per_source_and_the_weights_of_layers(probed):
    lines = (probed / "probe.md").read_text().splitlines()
    assert lines[0] == "| features | layers | accuracy | balanced_accuracy | macro_f1 |"
    assert [line.split("|")[2].strip() for line in lines[2:7]] == ["sum of 0-2", "0", "1", "2", "sum of 0-2"]
    assert "| weight of layer, % | 0 | 1 | 2 |" in lines
    assert "Utterances: train" in lines[-1]


def test_no_speaker_of_the_test_set_is_trained_on(probe_config, tmp_path):
    splits = answered_splits(probe_config(tmp_path))
    assert [*splits] == ["train", "dev", "test"]
    speakers = [{row.speaker for row in split.rows} for split in splits.values()]
    assert sum(map(len, speakers)) == SPEAKERS == len(set().union(*speakers))


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_stored_means_are_those_of_stored_frames(probe_config, tmp_path, layer_norm, dtype):
    config = probe_config(tmp_path, task=dataclasses.replace(CLASSES, layer_norm=layer_norm), dtype=dtype)
    model, split = probed_models(config)[0], answered_splits(config)["test"]
    means, _ = split_features(config, model, split, means=True)
    frames, _ = split_features(config, model, split, means=False)
    for mean, frame in zip(means.read(range(3), (0, 1, 2)), frames.read(range(3), (0, 1, 2)), strict=True):
        tolerance = 1e-5 if dtype == "float32" else 2e-3
        torch.testing.assert_close(mean[:, 0], frame.mean(1), rtol=tolerance, atol=tolerance)
    if layer_norm:
        assert frame.mean(-1).abs().max() < 1e-2


def test_frames_on_disk_give_what_frames_in_memory_give(probe_config, tmp_path):
    config = probe_config(tmp_path)
    model, split = probed_models(config)[0], answered_splits(config)["train"]
    kept, _ = split_features(config, model, split, means=False)
    read, _ = split_features(dataclasses.replace(config, memory_mb=0), model, split, means=False)
    device = torch.device("cpu")
    for chosen in ([3, 0, 7], [5]):
        one, other = kept.batch(chosen, device), read.batch(chosen, device)
        assert torch.equal(one.layers, other.layers)
        assert torch.equal(one.is_valid, other.is_valid)
        assert torch.equal(kept.of_layer(2).batch(chosen, device).layers[:, 0], one.layers[:, 2])
        assert torch.equal(read.of_layer(2).batch(chosen, device).layers[:, 0], one.layers[:, 2])


def test_layer_0_is_the_input_of_the_first_layer(probe_config, tmp_path, pretrained, tones):
    config = probe_config(tmp_path)
    split = answered_splits(config)["test"]
    features, _ = split_features(config, probed_models(config)[0], split, means=False)
    loaded = head_features.read_saved(pretrained)
    encoder = loaded.encoder()
    waveform = read_waveform(split.manifest, split.rows[0], audio=loaded.description.audio, window=400)
    with torch.no_grad():
        conv = encoder.extract(waveform[None], torch.tensor([len(waveform)]))
        projected = encoder.project(encoder.norm(conv))
        expected = encoder.transformer.norm(projected + encoder.transformer.positions(projected))[0]
        expected = expected if encoder.config.transformer.norm == "post" else None
    torch.testing.assert_close(features.read([0], [0])[0][0], expected, rtol=1e-4, atol=1e-5)


def test_features_are_computed_once_for_heads_that_share_a_folder(probe_config, tmp_path, monkeypatch):
    shared = tmp_path / "features"
    train_probes(probe_config(tmp_path / "one", features=shared, seeds=(0,)))
    made = sorted(shared.glob(f"*/{FEATURES}"))
    assert len(made) == 1  # one manifest, one model

    def refuse(_config):
        raise AssertionError("computed again")

    monkeypatch.setattr(head_features, "extract_features", refuse)
    hertz = UtteranceValuesConfig(column="hertz")
    train_probes(probe_config(tmp_path / "two", features=shared, seeds=(0,), task=hertz))
    with pytest.raises(AssertionError):  # other features
        norm = dataclasses.replace(CLASSES, layer_norm=True)
        train_probes(probe_config(tmp_path / "three", features=shared, seeds=(0,), task=norm))


def test_a_run_that_was_killed_resumes_to_the_same_bits(probe_config, tmp_path, monkeypatch):
    shared = tmp_path / "features"
    whole = probe_config(tmp_path / "whole", features=shared)
    train_probes(whole)
    steps, save = [], head_training._save

    def killed(*arguments):
        save(*arguments)
        steps.append(arguments[3].step)
        if len(steps) == 3:  # the first evaluation of the second seed
            raise KeyboardInterrupt

    monkeypatch.setattr(head_training, "_save", killed)
    again = probe_config(tmp_path / "again", features=shared)
    with pytest.raises(KeyboardInterrupt):
        train_probes(again)
    assert len(list((tmp_path / "again").rglob("state.safetensors"))) == 1
    train_probes(again)
    assert steps == [20, 40, 20, 40]  # nothing was repeated
    for name in ("head.safetensors", "predictions.tsv"):
        for one in (tmp_path / "whole").rglob(name):
            assert one.read_bytes() == (tmp_path / "again" / one.relative_to(tmp_path / "whole")).read_bytes()
    assert results(tmp_path / "whole") == results(tmp_path / "again")
    assert not list(tmp_path.rglob("state.safetensors"))


def test_a_finished_probe_is_not_repeated_and_another_recipe_is_refused(probed, probe_config, monkeypatch):
    config = probe_config(probed, random_weights=True, baselines=("log_mel",), each_layer=True)
    assert train_probes(config) == probed / "probe.md"
    with pytest.raises(CheckpointError, match="holds a run of another configuration"):
        train_probes(dataclasses.replace(config, seeds=(5,)))


def test_the_best_step_on_the_dev_set_is_kept(probe_config, tmp_path):
    train = HeadTrainConfig(steps=30, batch=8, lr=3.0, eval_every=5)  # too high a rate: the scores jump
    folder = train_probes(probe_config(tmp_path / "run", train=train, seeds=(3,))).parent
    about = results(folder)[0]["seeds"][0]
    assert about["step"] % 5 == 0
    assert 0 < about["step"] <= 30
    head = json.loads(next(folder.rglob("head.json")).read_text())
    assert head["dev"] == about["dev"]
    assert head["step"] == about["step"]


@pytest.mark.parametrize("source", ["model", "random", "log_mel"])
def test_predict_gives_what_the_probe_predicted(probed, tones, tmp_path, source):
    place = {"model": 0, "random": 1, "log_mel": 2}[source]
    folder = next((probed / "heads").glob(f"{place}-*-{'one' if source == 'log_mel' else 'sum'}")) / "seed-1"
    loaded = load_head(folder)
    data = DataConfig(manifests=(tones,))
    count = predict_table(loaded, data, read_data(data), tmp_path / "all.tsv")
    assert count == len(read_manifest(tones).utterances)
    rows = {line.split("\t")[0]: line.split("\t") for line in (tmp_path / "all.tsv").read_text().splitlines()}
    assert rows["id"] == ["id", "speaker", "predicted", "p(high)", "p(low)", "p(mid)"]
    for line in (folder / "predictions.tsv").read_text().splitlines()[1:]:
        key, speaker, _, predicted, *probabilities = line.split("\t")
        found = rows[key]
        assert found[1:3] == [speaker, predicted]
        assert [*map(float, found[3:])] == pytest.approx([*map(float, probabilities)], abs=2e-4)


def test_a_head_predicts_for_arrays(probed, tones):
    loaded = load_head(next((probed / "heads").glob("0-*-sum")) / "seed-0")
    manifest = read_manifest(tones)
    rows = manifest.utterances[:3]
    waveforms = [read_waveform(manifest, row, audio=loaded.source.audio, window=400) for row in rows]
    found = loaded.predict(waveforms)
    assert [tuple(each.shape) for each in found] == [(3,)] * 3
    alone = loaded.predict(waveforms[1:2])[0]
    assert torch.equal(found[1], alone)


def test_predict_names_the_heads_of_a_probe_and_another_model(probed, tmp_path, pretrained_on_log_mel):
    with pytest.raises(CheckpointError, match=r"holds no head, .*head\.json; found .*seed-0 and \d+ more; name one"):
        load_head(probed)
    with pytest.raises(CheckpointError, match=r"holds no head.*train one with probe"):
        load_head(tmp_path)
    folder = next((probed / "heads").glob("0-*-sum")) / "seed-0"
    with pytest.raises(CheckpointError, match="the head is for a model with the fingerprint"):
        load_head(folder, model=str(pretrained_on_log_mel))
    with pytest.raises(ManifestError, match="a CTM holds intervals, the head predicts one answer per utterance"):
        predict_table(load_head(folder), DataConfig(manifests=()), None, tmp_path / "x.ctm")


def test_numbers_are_predicted_better_than_by_their_mean(probe_config, tmp_path):
    config = probe_config(
        tmp_path / "run",
        task=UtteranceValuesConfig(column="hertz"),
        checkpoint=(),
        baselines=("log_mel",),
        train=HeadTrainConfig(steps=300, batch=8, lr=0.003),
    )
    row = results(train_probes(config).parent)[0]
    assert row["test"]["mae"]["mean"] < 0.5 * row["chance"]["mae"]
    assert row["test"]["spearman"]["mean"] > 0.7
    assert row["chance_of"] == "mean of the training set"
    head = json.loads(next(config.out.rglob("head.json")).read_text())
    hertz = [float(dict(each.more)["hertz"]) for each in answered_splits(config)["train"].rows]
    assert (head["mean"], head["std"]) == pytest.approx((np.mean(hertz), np.std(hertz, ddof=1)), rel=1e-5)


@pytest.fixture(scope="session")
def phones(tones, tmp_path_factory) -> Path:
    """Give an alignment: `a` for 0.1 s, a gap of 20 ms, then the pitch until 60 ms before the end."""
    path = tmp_path_factory.mktemp("aligned") / "all.ctm"
    lines = []
    for row in read_manifest(tones).utterances:
        lines += [f"{row.id} 1 0 0.1 a\n", f"{row.id} 1 0.12 {row.duration_s - 0.18:.4f} {dict(row.more)['pitch']}\n"]
    path.write_text("".join(lines))
    return path


def test_frames_get_the_phone_at_their_centre_and_others_are_counted(probe_config, phones, tmp_path, capsys):
    config = probe_config(tmp_path / "run", task=FrameClassesConfig(of="phones", projector=8), phones=phones)
    row = results(train_probes(config).parent)[0]
    test = answered_splits(config)["test"].rows
    hop, window = 320, 325
    centres = [(np.arange((each.num_samples - window) // hop + 1) * hop + window / 2) / 16_000 for each in test]
    ends = [each.duration_s - 0.06 for each in test]
    after = sum(int((c >= end).sum()) for c, end in zip(centres, ends, strict=True))
    gaps = sum(int(((c >= 0.1) & (c < 0.12)).sum()) for c in centres)
    assert row["skipped"]["test"] == {
        "frames after the end of the alignment": after,
        "frames in gaps of the alignment": gaps,
    }
    assert np.array(row["confusion"]).sum() == 2 * (sum(map(len, centres)) - after - gaps)
    assert row["classes"] == ["a", "high", "low", "mid"]
    assert f"test: not labelled: {after} frames after the end of the alignment" in capsys.readouterr().err
    lines = next(config.out.rglob("predictions.tsv")).read_text().splitlines()
    assert lines[0].split("\t") == ["id", "speaker", "start", "end", "answer", "predicted", "probability"]
    assert {line.split("\t")[4] for line in lines[1:]} <= {"", "a", "high", "low", "mid"}


def test_intervals_are_written_as_a_table_and_as_ctm(probe_config, phones, tones, tmp_path):
    config = probe_config(
        tmp_path / "run", task=FrameClassesConfig(of="phones", projector=8), phones=phones, seeds=(0,)
    )
    train_probes(config)
    loaded = load_head(next(config.out.rglob("head.json")).parent)
    data = DataConfig(manifests=(tones,))
    for name in ("all.tsv", "all.ctm"):
        predict_table(loaded, data, read_data(data), tmp_path / name)
    table = [line.split("\t") for line in (tmp_path / "all.tsv").read_text().splitlines()][1:]
    ctm = [line.split() for line in (tmp_path / "all.ctm").read_text().splitlines()]
    assert len(table) == len(ctm)
    for row, line in zip(table, ctm, strict=True):
        assert (row[0], row[4], row[5]) == (line[0], line[4], line[5])
        assert float(line[2]) + float(line[3]) == pytest.approx(float(row[3]), abs=1e-3)
    one = [row for row in table if row[0] == "u00"]
    assert all(before[3] == after[2] for before, after in itertools.pairwise(one))


def test_speech_and_pause_are_told_apart(probe_config, tmp_path):
    rows = []
    for number in range(12):  # a loud second, a silent one
        path = tmp_path / f"{number}.wav"
        random = np.random.default_rng(number)
        loud = 0.4 * np.sin(2 * np.pi * (300 + 50 * number) * np.arange(16_000) / 16_000)
        wave = np.r_[loud, np.zeros(16_000)] + random.normal(0, 0.001, 32_000)
        soundfile.write(path, wave.astype(np.float32), 16_000)
        rows.append(
            Utterance(
                id=str(number), path=path.name, num_samples=32_000, sample_rate=16_000, channels=1, speaker=f"s{number}"
            )
        )
    write_manifest(tmp_path / "m.tsv", rows)
    config = probe_config(
        tmp_path / "run",
        task=FrameClassesConfig(of="speech", projector=0),
        data=DataConfig(manifests=(tmp_path / "m.tsv",)),
        vad="energy",
        checkpoint=(),
        baselines=("log_mel",),
        train=HeadTrainConfig(steps=150, batch=8, lr=0.01),
        seeds=(0,),
    )
    row = results(train_probes(config).parent)[0]
    assert row["classes"] == ["pause", "speech"]
    assert row["test"]["accuracy"]["mean"] > 0.95


# bad input: one error that names file, expected, found and cure; or a skip that is counted and listed


def test_speakers_in_two_splits_are_named(probe_config, tones, tmp_path):
    data = changed(tones, tmp_path / "t.tsv", lambda row: row if row.speaker in ("s1", "s2") else None)
    train = changed(tones, tmp_path / "a.tsv", lambda row: row if int(row.id[1:]) < 18 else None)
    rest = changed(tones, tmp_path / "b.tsv", lambda row: row if int(row.id[1:]) >= 18 else None)
    with pytest.raises(ManifestError, match=r"train and test share 6 speakers: s0, s1, s2, \.\.\.; .*shared_speakers"):
        answered_splits(probe_config(tmp_path, data=train, test=rest, split=None))
    splits = answered_splits(probe_config(tmp_path, data=train, test=rest, split=None, shared_speakers=True))
    assert [*splits] == ["train", "test"]
    with pytest.raises(ManifestError, match=r"train and test share 6 utterances: u\d+, .*remove them"):
        answered_splits(probe_config(tmp_path, data=train, test=data, split=None, shared_speakers=True))


def test_shared_speakers_are_said_beside_the_table(probe_config, tmp_path):
    config = probe_config(
        tmp_path / "run",
        task=UtteranceClassesConfig(column="speaker", projector=0),
        split=SplitRule(by="id", dev=0.2, test=0.3),
        shared_speakers=True,
        seeds=(0,),
    )
    assert "test speakers are in the training set, too." in train_probes(config).read_text()


def test_a_speaker_head_without_shared_speakers_says_what_to_do(probe_config, tmp_path):
    config = probe_config(tmp_path, task=UtteranceClassesConfig(column="speaker"))
    with pytest.raises(ManifestError, match=r"no utterance has a class of the training set.*shared_speakers=true"):
        answered_splits(config)


def test_a_class_that_the_training_set_lacks_is_skipped_counted_and_listed(probe_config, tones, tmp_path, capsys):
    train = changed(
        tones, tmp_path / "a.tsv", lambda row: row if row.speaker < "s3" and ("pitch", "mid") not in row.more else None
    )
    test = changed(tones, tmp_path / "b.tsv", lambda row: row if row.speaker >= "s3" else None)
    splits = answered_splits(probe_config(tmp_path, data=train, test=test, split=None))
    assert splits["test"].skipped == {"1 classes that the training set lacks (mid)": 6}
    assert len(splits["test"].rows) == 12
    assert "left out, 1 classes that the training set lacks (mid): 6 utterances: u" in capsys.readouterr().err


def test_a_class_with_one_utterance_is_named(probe_config, tones, tmp_path, capsys):
    def rare(row: Utterance) -> Utterance:
        return dataclasses.replace(row, more=(("pitch", "rare"),)) if row.id == "u05" else row

    split = SplitRule(by="id", dev=0.1, test=0.2, salt="a")
    config = probe_config(tmp_path, data=changed(tones, tmp_path / "a.tsv", rare), split=split, shared_speakers=True)
    splits = answered_splits(config)
    assert "rare" in splits["train"].answers
    assert "classes with a single utterance in the training set: 1: rare" in capsys.readouterr().err


def test_empty_cells_are_skipped_and_an_empty_column_is_an_error(probe_config, tones, tmp_path, capsys):
    data = changed(tones, tmp_path / "a.tsv", lambda row: dataclasses.replace(row, more=()) if row.id < "u04" else row)
    splits = answered_splits(probe_config(tmp_path, data=data))
    assert sum(split.skipped.get("no pitch", 0) for split in splits.values()) == 4
    assert "left out, no pitch: " in capsys.readouterr().err
    with pytest.raises(ManifestError, match=r"train: none of the .* utterances has an answer .no language.; fill"):
        answered_splits(probe_config(tmp_path, task=UtteranceClassesConfig(column="language")))


def test_a_column_that_no_manifest_has_is_named_with_those_there_are(probe_config, tones, tmp_path):
    with pytest.raises(ManifestError, match=r"no manifest has a column 'emotion', found speaker, .*hertz, pitch;"):
        answered_splits(probe_config(tmp_path, task=UtteranceClassesConfig(column="emotion")))
    table = tmp_path / "moods.csv"
    table.write_text("id,mood\nu00,glad\n")
    with pytest.raises(ManifestError, match=r"moods\.csv: has no column 'emotion', found mood"):
        answered_splits(probe_config(tmp_path, task=UtteranceClassesConfig(column="emotion"), answers=table))


def test_answers_may_come_from_a_table(probe_config, tones, tmp_path):
    table = tmp_path / "moods.tsv"
    rows = read_manifest(tones).utterances
    table.write_text("id\tmood\n" + "".join(f"{row.id}\t{'sad' if row.id < 'u20' else 'glad'}\n" for row in rows[:30]))
    splits = answered_splits(probe_config(tmp_path, task=UtteranceClassesConfig(column="mood"), answers=table))
    assert {answer for split in splits.values() for answer in split.answers} == {"sad", "glad"}
    assert sum(len(split.rows) for split in splits.values()) == 30


def test_only_wanted_classes_are_told_apart(probe_config, tmp_path):
    task = UtteranceClassesConfig(column="pitch", classes=("low", "high"))
    splits = answered_splits(probe_config(tmp_path, task=task))
    assert {*splits["train"].answers} == {"low", "high"}
    with pytest.raises(ManifestError, match="no utterance of the training set has the class highest"):
        answered_splits(probe_config(tmp_path, task=dataclasses.replace(task, classes=("low", "highest"))))


def test_one_class_is_not_enough(probe_config, tones, tmp_path):
    data = changed(tones, tmp_path / "a.tsv", lambda row: dataclasses.replace(row, more=(("pitch", "low"),)))
    with pytest.raises(ManifestError, match=r"the training set has 1 class \(low\), expected two or more"):
        train_probes(probe_config(tmp_path / "run", data=data))


def test_a_cell_that_is_no_number_is_named(probe_config, tones, tmp_path):
    data = changed(tones, tmp_path / "a.tsv", lambda row: dataclasses.replace(row, more=(("age", "old"),)))
    with pytest.raises(ManifestError, match=r"u..: age is 'old', expected a finite number"):
        answered_splits(probe_config(tmp_path, data=data, task=UtteranceValuesConfig(column="age")))


def test_alignments_of_another_corpus_are_an_error(probe_config, tmp_path):
    (tmp_path / "other.ctm").write_text("x 1 0 1 a\n")
    task = FrameClassesConfig(of="phones")
    with pytest.raises(LabelError, match=r"other\.ctm: aligns no utterance of the manifest; expected ids like 'u"):
        answered_splits(probe_config(tmp_path, task=task, phones=tmp_path / "other.ctm"))


def test_bad_audio_leaves_its_split(probe_config, tones, tmp_path, capsys):
    data = changed(
        tones, tmp_path / "a.tsv", lambda row: dataclasses.replace(row, path="gone.wav") if row.id == "u03" else row
    )
    data = dataclasses.replace(data, bad_audio="skip")
    row = results(train_probes(probe_config(tmp_path / "run", data=data, seeds=(0,))).parent)[0]
    assert sum(row["utterances"].values()) == 35
    assert [reasons.get("bad audio") for reasons in row["skipped"].values()] == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": ()}, "nothing to compare; name a checkpoint, or baselines"),
        ({"checkpoint": (), "baselines": ("mfcc",), "layers": (1,)}, "those of a model; name a checkpoint"),
        ({"split": None}, "expected either a section test.*found neither"),
        ({"seeds": (1, 1)}, r"seeds must list different numbers, found \[1, 1\]"),
        ({"task": FrameClassesConfig(of="phones")}, "phones is the alignment.*name the file or folder"),
        ({"phones": Path("x.ctm")}, "phones is the alignment.*remove the key"),
        ({"baselines": ("mfcc",), "cmn": True}, "cmn makes the mean of each utterance 0"),
    ],
)
def test_recipes_that_cannot_be_run_are_refused(probe_config, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        probe_config(tmp_path, **changes)


def test_a_layer_that_the_model_lacks_is_named(probe_config, tmp_path):
    with pytest.raises(LabelError, match=r"has layers 0 to 2, the recipe asks for \[3\]"):
        probed_models(probe_config(tmp_path, layers=(0, 3)))


def test_speakers_are_drawn_together_if_every_utterance_has_one(probe_config, tones, tmp_path):
    data = changed(tones, tmp_path / "a.tsv", lambda row: row)
    folder = train_probes(probe_config(tmp_path / "run", data=data, interval="speakers", seeds=(0,))).parent
    assert "bootstrap interval over speakers" in (folder / "probe.md").read_text()


def test_an_interval_over_speakers_needs_two(probe_config, tones, tmp_path):
    test = changed(tones, tmp_path / "t.tsv", lambda row: row if row.speaker == "s0" else None)
    train = changed(tones, tmp_path / "a.tsv", lambda row: row if row.speaker != "s0" else None)
    config = probe_config(tmp_path / "run", data=train, test=test, split=None, interval="speakers", seeds=(0,))
    with pytest.raises(ConfigError, match="needs two test speakers or more, found s0 alone"):
        train_probes(config)


def test_a_recipe_names_its_task_by_kind(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("out: x\ntask: {kind: utterance_classes, column: speaker}\ndata: {manifests: [a]}\n")
    config = load(path, ProbeConfig, ["split.by=id", "checkpoint=[a,b]"])
    assert config.models == ("a", "b")
    path.write_text("out: x\ntask: {kind: other}\ndata: {manifests: [a]}\nsplit: {}\ncheckpoint: x\n")
    with pytest.raises(ConfigError, match="utterance_classes is classification of utterances"):
        load(path, ProbeConfig)
