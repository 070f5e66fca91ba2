"""Stage probe with encoders that learn: one table, files, prediction, resumption, bad input."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from speechssl.data.batching import BatchConfig
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Utterance
from speechssl.errors import CheckpointError, ConfigError
from speechssl.hub.saved import SavedModel
from speechssl.parallel import Ranks
from speechssl.stages import head_probe
from speechssl.stages.head_answers import answered_splits, classes_of
from speechssl.stages.head_features import probed_models
from speechssl.stages.head_folder import load_head, read_head, write_head
from speechssl.stages.head_probe import train_probes
from speechssl.stages.head_tuning import HeadDevSet, prepare_tuning
from speechssl.stages.predict import predict_table
from speechssl.stages.probe_config import HeadTrainConfig, ProbeConfig, SplitRule
from speechssl.stages.reading_data import DataConfig, read_data
from speechssl.stages.tuning_config import TuningConfig
from speechssl.tasks.frame_classes import FrameClassesConfig
from speechssl.tasks.utterance_classes import UtteranceClassesConfig
from speechssl.tasks.utterance_values import UtteranceValuesConfig
from speechssl.train.learner import Learner, TrainConfig
from speechssl.train.optim import OptimConfig

CLASSES = UtteranceClassesConfig(column="pitch", projector=8)
TUNING = TuningConfig(
    batch=BatchConfig(seconds=2.5, max_crop_s=None, min_s=0.0),
    optim=OptimConfig(lr=0.01, encoder_rate=0.3, warmup=0.1),
    train=TrainConfig(steps=6, eval_every=2, save_every=2, log_every=2),
)


@pytest.fixture(scope="module")
def pitches(tmp_path_factory) -> Path:
    """Give a manifest of 24 tones of four speakers, half of them high."""
    folder = tmp_path_factory.mktemp("pitches")
    random, rows = np.random.default_rng(0), []
    for number in range(24):
        name, hertz = [("low", 250), ("high", 1900)][number // 4 % 2]
        samples = 4000 + 320 * (number % 3)
        wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / 16_000) + random.normal(0, 0.02, samples)
        soundfile.write(folder / f"u{number:02d}.wav", wave.astype(np.float32), 16_000)
        rows.append(
            Utterance(
                id=f"u{number:02d}",
                path=f"u{number:02d}.wav",
                num_samples=samples,
                sample_rate=16_000,
                channels=1,
                speaker=f"s{number % 4}",
                more=(("pitch", name), ("hertz", str(hertz + number))),
            )
        )
    write_manifest(folder / "all.tsv", rows)
    return folder / "all.tsv"


@pytest.fixture(scope="module")
def tuning_config(pitches, pretrained) -> Callable[..., ProbeConfig]:
    """Give a function that configures a probe of pitch with an encoder that learns."""

    def make(out: Path, **changes: object) -> ProbeConfig:
        config = ProbeConfig(
            out=out,
            task=CLASSES,
            data=DataConfig(manifests=(pitches,)),
            split=SplitRule(by="id", dev=0.2, test=0.3),
            shared_speakers=True,
            checkpoint=str(pretrained),
            encoder="all",
            train=HeadTrainConfig(steps=20, batch=8, lr=0.01, eval_every=20),
            tuning=TUNING,
            seeds=(0,),
        )
        return dataclasses.replace(config, **changes)

    return make


@pytest.fixture(scope="module")
def compared(tmp_path_factory, tuning_config) -> Path:
    """Give the folder of a probe of one model, frozen, with adapters, and whole."""
    config = tuning_config(tmp_path_factory.mktemp("compared") / "run", encoder=("lora", "frozen", "all"))
    return train_probes(config).parent


def seed_folder(folder: Path, number: int) -> Path:
    return next((folder / "heads").glob(f"{number}-*-sum")) / "seed-0"


def results(folder: Path) -> list[dict]:
    return json.loads((folder / "scores.json").read_text())["results"]


def test_frozen_and_tuned_encoders_are_rows_of_one_table(compared):
    rows = results(compared)
    assert [row["encoder"] for row in rows] == ["frozen", "all", "lora"]
    names = [row["model"] for row in rows]
    assert names[1:] == [f"{names[0]}, fine-tuned", f"{names[0]}, with LoRA"]
    assert len({json.dumps(row["utterances"]) for row in rows}) == 1
    assert len({json.dumps(row["chance"]) for row in rows}) == 1
    table = (compared / "probe.md").read_text()
    assert all(f"| {name} | sum of 0-2 | " in table and f"| {name} | 3" in table for name in names)
    assert rows[1]["test"]["accuracy"]["mean"] > rows[1]["chance"]["accuracy"] + 0.2


def test_an_encoder_is_a_model_and_adapters_come_without_theirs(compared, pretrained):
    whole, lora = seed_folder(compared, 1), seed_folder(compared, 2)
    before, after = SavedModel.read(pretrained).encoder(), SavedModel.read(whole / "encoder").encoder()
    differ = {name for name, each in before.state_dict().items() if not torch.equal(each, after.state_dict()[name])}
    assert any("layers.0" in name for name in differ) and not any(name.startswith("conv") for name in differ)
    adapters = load_file(lora / "lora.safetensors")
    assert {name.rpartition(".")[2] for name in adapters} == {"up", "down"} and len(adapters) == 4
    assert all(each.any() for each in adapters.values())
    assert not (lora / "encoder").exists()
    assert not [*compared.rglob("step_*")]


@pytest.mark.parametrize("number", [1, 2])
def test_predict_gives_the_predictions_of_the_test_set(compared, pitches, tmp_path, number):
    folder = seed_folder(compared, number)
    data = DataConfig(manifests=(pitches,))
    assert predict_table(load_head(folder), data, read_data(data), tmp_path / "all.tsv") == 24
    found = {row[0]: row[2:] for row in map(str.split, (tmp_path / "all.tsv").read_text().splitlines())}
    test = [line.split("\t") for line in (folder / "predictions.tsv").read_text().splitlines()]
    assert len(test) > 4
    assert all(found[row[0]] == row[3:] for row in test)


def test_predict_refuses_what_does_not_belong_to_the_head(compared, pretrained_on_log_mel, tmp_path):
    whole, lora = (shutil.copytree(seed_folder(compared, number), tmp_path / str(number)) for number in (1, 2))
    other = str(pretrained_on_log_mel)
    with pytest.raises(CheckpointError, match=r"has an encoder of its own, which learned with it.*leave out --model"):
        load_head(whole, model=other)
    with pytest.raises(CheckpointError, match="the head is for a model with the fingerprint"):
        load_head(lora, model=other)
    (whole / "encoder/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"encoder.*model\.safetensors|encoder: holds no checkpoint"):
        load_head(whole)
    shutil.copytree(seed_folder(compared, 1) / "encoder", whole / "encoder", dirs_exist_ok=True)
    for folder in (whole, lora):
        about = json.loads((folder / "head.json").read_text())
        (folder / "head.json").write_text(json.dumps(about | {"tuned": "0" * 16}))
        with pytest.raises(CheckpointError, match=r"has the fingerprint .*, the head was trained with 0000"):
            load_head(folder)


@pytest.mark.parametrize("encoder", ["all", "lora"])
def test_a_run_that_was_killed_ends_with_the_same_bits(tuning_config, tmp_path, monkeypatch, encoder):
    tuning = dataclasses.replace(TUNING, activation_dropout=0.1, layer_drop=0.2, freeze_steps=1)
    alone, killed = (tuning_config(tmp_path / name, encoder=encoder, tuning=tuning) for name in ("alone", "killed"))
    train_probes(alone)
    update = Learner.update

    def dies(self, batches, state, **others):
        if state.step == 3:
            raise KeyboardInterrupt
        return update(self, batches, state, **others)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", dies)
        with pytest.raises(KeyboardInterrupt):
            train_probes(killed)
    assert [path.name for path in killed.out.rglob("step_*")] == ["step_00000002"]
    train_probes(killed)
    one, two = (
        {path.relative_to(config.out): path.read_bytes() for path in (config.out / "heads").rglob("*.*")}
        for config in (alone, killed)
    )
    kept = {path for path in one if path.suffix in (".safetensors", ".json", ".tsv")}
    assert {path.name for path in kept} >= {"head.safetensors", "head.json", "predictions.tsv", "result.json"}
    assert kept == {path for path in two if path.suffix in (".safetensors", ".json", ".tsv")}
    assert [path for path in kept if one[path] != two[path]] == []


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        (CLASSES, {}),
        (UtteranceValuesConfig(column="hertz"), {}),
        (FrameClassesConfig(of="phones"), {"phones": "all.ctm"}),
    ],
    ids=["classes", "values", "frame_classes"],
)
def test_the_answers_of_each_utterance_reach_its_row_of_the_batch(tuning_config, pitches, tmp_path, task, changes):
    lines = [
        f"{row.id} 1 0 0.1 a\n{row.id} 1 0.12 0.1 {dict(row.more)['pitch']}\n"
        for row in read_manifest(pitches).utterances
    ]
    (tmp_path / "all.ctm").write_text("".join(lines))
    changes = {key: tmp_path / name for key, name in changes.items()}
    config = tuning_config(tmp_path / "run", task=task, encoder="lora", **changes)
    train_probes(config)
    assert len(results(config.out)) == 1
    (model,), splits = probed_models(config), answered_splits(config)
    head = head_probe.head_of(task)
    classes = () if head.answers == "values" else classes_of(splits["train"])
    kept, examples, _ = head_probe._examples(config, head, classes, splits, model)
    loaded = load_head(seed_folder(config.out, 0))
    prepared = prepare_tuning(
        config, SavedModel.read(config.checkpoint), loaded.description, kept, examples, weights=None
    )
    wanted = {row.id: each for row, each in zip(kept["train"].rows, examples["train"].answers, strict=True)}
    batch = prepared.dataset.batch(next(iter(prepared.sampler.epoch(0))))
    for number, key in enumerate(batch.ids):
        found = batch.targets[number, 0] if batch.labels is None else batch.labels[0, number, : len(wanted[key])]
        assert torch.equal(found, wanted[key]) and found.dtype == wanted[key].dtype
    assert isinstance(prepared.evaluate, HeadDevSet)
    scores = prepared.evaluate(prepared.model.eval())
    first = next(iter(scores.values()))
    assert first == pytest.approx(scores["dev_mae"] if task.kind == "utterance_values" else 1 - scores["dev_accuracy"])
    assert loaded.description.dev.keys() == {name.removeprefix("dev_") for name in scores} - {"error"}


def test_bad_audio_leaves_its_split(tuning_config, pitches, tmp_path):
    manifest = read_manifest(pitches)
    rows = [dataclasses.replace(row, path="gone.wav") if row.id == "u03" else row for row in manifest.utterances]
    write_manifest(tmp_path / "a.tsv", rows, root=str(manifest.root))
    data = DataConfig(manifests=(tmp_path / "a.tsv",), bad_audio="skip")
    (row,) = results(train_probes(tuning_config(tmp_path / "run", data=data, encoder="lora")).parent)
    assert sum(row["utterances"].values()) == 23
    assert [reasons.get("bad audio") for reasons in row["skipped"].values()] == [1]


def test_random_weights_learn_with_adapters_and_are_drawn_again(tuning_config, pitches, tmp_path):
    config = tuning_config(tmp_path / "run", encoder="lora", random_weights=True)
    train_probes(config)
    folder = seed_folder(config.out, 1)
    assert json.loads((folder / "head.json").read_text())["random_weights"] == 0
    data = DataConfig(manifests=(pitches,))
    predict_table(load_head(folder), data, read_data(data), tmp_path / "all.tsv")
    found = {row[0]: row[2:] for row in map(str.split, (tmp_path / "all.tsv").read_text().splitlines())}
    test = [line.split("\t") for line in (folder / "predictions.tsv").read_text().splitlines()]
    assert all(found[row[0]] == row[3:] for row in test)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": ()}, "encoder must name frozen, all and lora at most once each, found"),
        ({"encoder": ("all", "all")}, "at most once each, found"),
        ({"checkpoint": (), "baselines": ("mfcc",)}, "encoder=all tunes a model; name a checkpoint, or leave encoder"),
        ({"each_layer": True}, "each_layer puts heads on layers of frozen models; add frozen to encoder"),
    ],
)
def test_recipes_that_cannot_be_run_are_refused(tuning_config, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        tuning_config(tmp_path, **changes)


def test_settings_that_would_teach_nothing_or_something_wrong_are_refused(tuning_config, tmp_path):
    tuning = dataclasses.replace(TUNING, augment=dataclasses.replace(TUNING.augment, speeds=(0.9, 1.0, 1.1)))
    with pytest.raises(ConfigError, match=r"tuning\.augment\.speeds .* task\.kind=frame_classes"):
        tuning_config(tmp_path, task=FrameClassesConfig(of="speech"), tuning=tuning)
    with pytest.raises(ConfigError, match=r"tuning\.augment\.speeds and tuning\.batch\.max_crop_s change duration_s"):
        tuning_config(tmp_path, task=UtteranceValuesConfig(column="duration_s"), tuning=tuning)
    with pytest.raises(ConfigError, match=r"tuning\.freeze_steps must not be negative, found -1"):
        dataclasses.replace(TUNING, freeze_steps=-1)
    with pytest.raises(ConfigError, match=r"tuning\.freeze_steps=6 freezes the encoder for all tuning\.train\.steps=6"):
        dataclasses.replace(TUNING, freeze_steps=6)


def test_several_ranks_train_encoders_only(tuning_config, tmp_path, monkeypatch):
    monkeypatch.setattr(head_probe, "start_ranks", lambda: Ranks(rank=0, world_size=2, device=torch.device("cpu")))
    with pytest.raises(ConfigError, match="2 ranks train encoders, encoder=all or lora; frozen features"):
        train_probes(tuning_config(tmp_path / "run", encoder=("frozen", "all")))


def test_a_head_whose_dev_set_has_no_correlation_can_be_read_again(compared, tmp_path):
    description, network = read_head(seed_folder(compared, 0))
    write_head(tmp_path, dataclasses.replace(description, dev={"mae": 1.5, "pearson": float("nan")}), network)
    assert read_head(tmp_path)[0].dev == {"mae": 1.5}
