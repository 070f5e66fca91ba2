"""What is known of audio before any is read, of what is trained on and of what is scored: all of it at once."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from speechssl.__main__ import main
from speechssl.audio.reading import AudioConfig
from speechssl.config import ConfigError, load, to_dict
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Joined, Manifest, Utterance
from speechssl.errors import AudioError, CheckpointError, SpeechSSLError
from speechssl.stages import preflight_audio
from speechssl.stages.dev_scores import DevSet
from speechssl.stages.finetune import FinetuneConfig, finetune
from speechssl.stages.hubert_recipe import HubertConfig
from speechssl.stages.preflight_audio import Reading, look_at_audio, refuse_audio
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.stages.reading_data import DataConfig
from speechssl.train.checkpoint import last_checkpoint, read_state
from speechssl.train.learner import TrainConfig


def row(key: str, **changes: object) -> Utterance:
    same = {"id": key, "path": f"{key}.wav", "num_samples": 16_000, "sample_rate": 16_000, "channels": 1}
    return Utterance(**(same | changes))


def reading(
    folder: Path, *rows: Utterance, audio: AudioConfig | None = None, section: str = "data", **more: object
) -> Reading:
    for each in rows:
        (folder / each.path.partition(":")[0]).touch() if "://" not in each.path else None
        if "://" not in each.path and not (folder / each.path.partition(":")[0]).stat().st_size:
            (folder / each.path.partition(":")[0]).write_bytes(b"x")
    data = DataConfig(manifests=(), audio=audio or AudioConfig(), bad_audio=str(more.pop("bad_audio", "stop")))
    manifest = Manifest(root=folder, utterances=rows)
    return Reading(section=section, manifest=manifest, data=data, window=400, **more)


def said(*readings: Reading) -> list[str]:
    return [str(error) for error in look_at_audio(readings)[0]]


def test_audio_that_can_be_read_is_nothing_to_talk_of(tmp_path):
    rows = (row("a"), row("b", sample_rate=44_100), row("c", channels=2), row("d", path="s3://bucket/d.wav"))
    assert look_at_audio([reading(tmp_path, *rows)]) == ([], [])


def test_files_that_are_not_there_folders_and_empty_ones_are_counted_and_named(tmp_path):
    rows = [row(f"u{i}") for i in range(7)]
    found = reading(tmp_path, *rows)
    for name in ("u0", "u1", "u2", "u3", "u6"):
        (tmp_path / f"{name}.wav").unlink()
    (tmp_path / "u4.wav").write_bytes(b"")
    (tmp_path / "u6.wav").mkdir()
    assert said(found) == [
        f"data: 4 of 7 audio files are missing: {tmp_path}/u0.wav, {tmp_path}/u1.wav, {tmp_path}/u2.wav, ...; correct "
        "data.manifests or data.root",
        f"data: 1 of 7 audio files are empty (0 bytes): {tmp_path}/u4.wav; copy them again, or remove them",
        f"data: 1 of 7 audio files are folders: {tmp_path}/u6.wav; correct data.manifests or data.root",
    ]


@pytest.mark.parametrize(
    ("changes", "audio", "message"),
    [
        (
            {"sample_rate": 11_025},
            {},
            "dev: 1 of 2 utterances are 11025 Hz, expected at least 16000: b; remove them, or set "
            "dev.audio.min_sample_rate=11025 to accept narrowband speech",
        ),
        (
            {"sample_rate": 44_100, "num_samples": 44_100},
            {"resample": False},
            "dev: 1 of 2 utterances are 44100 Hz, expected 16000: b; resample them, or set dev.audio.resample=true",
        ),
        (
            {"channels": 2},
            {"channels": "refuse"},
            "dev: 1 of 2 utterances have 2 channels, expected 1: b; name one in the manifest's column `channel`, or "
            "set dev.audio.channels=mean or first",
        ),
        (
            {"num_samples": 40_000},
            {"max_duration_s": 2.0},
            "dev: 1 of 2 utterances last longer than 2 s: b; cut them into utterances, as `speechssl manifest segment` "
            "does, or set dev.audio.max_duration_s=3",
        ),
        (
            {"num_samples": 300},
            {},
            "dev: 1 of 2 utterances are shorter than the 400 samples at 16000 Hz of one frame: b; remove them",
        ),
    ],
)
def test_what_the_manifest_tells_is_refused_with_the_key_of_its_section(tmp_path, changes, audio, message):
    rows = (row("a"), row("b", **changes))
    assert said(reading(tmp_path, *rows, section="dev", audio=AudioConfig(**audio))) == [message]


def test_what_is_left_out_or_cropped_is_not_held_against_the_data(tmp_path):
    rows = (row("a", num_samples=1000, sample_rate=8000), row("b", num_samples=320_000))
    config = AudioConfig(max_duration_s=10.0)
    assert said(reading(tmp_path, *rows, audio=config, min_s=0.2, max_crop_s=15.0)) == []
    assert len(said(reading(tmp_path, *rows, audio=config))) == 2


def test_everything_of_all_sets_is_said_at_once(tmp_path):
    data, dev = (reading(tmp_path, row(name, sample_rate=8000), section=name) for name in ("data", "dev"))
    with pytest.raises(
        AudioError, match=r"^data: 1 of 1 .* 8000 Hz.*\ndev: 1 of 1 .* set dev\.audio\.min_sample_rate=80"
    ):
        refuse_audio(data, dev)


def test_what_the_recipe_says_to_skip_is_a_note(tmp_path):
    errors, notes = look_at_audio([reading(tmp_path, row("a", sample_rate=8000), row("b"), bad_audio="skip")])
    assert errors == []
    assert len(notes) == 1
    assert "are 8000 Hz" in notes[0]
    assert notes[0].endswith("data.bad_audio=skip leaves them out")


def test_a_file_of_many_utterances_is_looked_for_once_and_none_at_a_url(tmp_path, monkeypatch):
    parts = [row(f"p{i}", path="long.flac", start=16_000 * i, file_samples=160_000) for i in range(10)]
    members = [row(f"m{i}", path=f"shard.tar:{512 * i}:512") for i in range(10)]
    looked: list[str] = []
    look = preflight_audio._look_for_some

    def spy(names: Sequence[str]) -> list:
        looked.extend(names)
        return look(names)

    monkeypatch.setattr(preflight_audio, "_look_for_some", spy)
    assert said(reading(tmp_path, *parts, *members, row("far", path="https://example.org/a.flac"))) == []
    assert looked == [str(tmp_path / "long.flac"), str(tmp_path / "shard.tar")]


def test_many_files_are_looked_for_by_several_threads_and_named_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight_audio, "_AT_ONCE", 2)
    rows = [row(f"u{i}") for i in range(9)]
    found = reading(tmp_path, *rows)
    for name in ("u1", "u4", "u8"):
        (tmp_path / f"{name}.wav").unlink()
    (error,) = said(found)
    assert f"3 of 9 audio files are missing: {tmp_path}/u1.wav, {tmp_path}/u4.wav, {tmp_path}/u8.wav;" in error
    monkeypatch.setattr(preflight_audio, "_MOST_FILES", 4)
    assert "1 of 4 audio files are missing" in said(found)[0]


def test_manifests_that_were_joined_are_looked_at_one_by_one(tmp_path):
    first, second = (reading(tmp_path, row(key, sample_rate=rate)) for key, rate in (("a", 8000), ("b", 11_025)))
    joined = Joined([first.manifest, second.manifest], ["a.tsv", "b.tsv"])
    both = dataclasses.replace(first, manifest=Manifest(root=Path("/"), utterances=joined))
    (tmp_path / "b.wav").unlink()
    assert (
        said(both)[0] == f"data: 1 of 2 audio files are missing: {tmp_path}/b.wav; correct data.manifests or data.root"
    )
    assert "2 of 2 utterances are 8000 and 11025 Hz, expected at least 16000: a, b;" in said(both)[1]
    assert "data.audio.min_sample_rate=8000" in said(both)[1]


@pytest.fixture
def narrow(tmp_path, write_wav, corpus) -> Path:
    """Give the manifest of three transcribed utterances at 8 kHz."""
    rows = [row(f"n{i}", num_samples=8000, sample_rate=8000, text="one two") for i in range(3)]
    for each in rows:
        write_wav(tmp_path / "narrow" / each.path, 8000, rate=8000)
    write_manifest(tmp_path / "narrow/manifest.tsv", rows)
    return tmp_path / "narrow/manifest.tsv"


def test_fine_tuning_and_preflight_refuse_the_same_before_the_first_step(finetune_config, narrow, tmp_path, capsys):
    gone = [dataclasses.replace(each, path=f"gone/{each.path}") for each in read_manifest(narrow).utterances]
    write_manifest(tmp_path / "gone.tsv", gone)
    config = finetune_config(
        tmp_path / "run", data=DataConfig(manifests=(tmp_path / "gone.tsv",)), dev=DataConfig(manifests=(narrow,))
    )
    with pytest.raises(SpeechSSLError) as caught:
        finetune(config)
    said = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in said] == ["data", "data", "dev"]
    assert "3 of 3 audio files are missing" in said[0]
    assert "set data.audio.min_sample_rate=8000" in said[1]
    assert "set dev.audio.min_sample_rate=8000" in said[2]
    assert not (tmp_path / "run/log.jsonl").exists()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(config)), encoding="utf-8")
    assert main(["preflight", str(recipe)]) == 1
    report = capsys.readouterr().out
    assert all(f"refused  {line}" in report for line in said)
    assert report.splitlines()[-1] == "verdict  training would refuse"


def test_pretraining_refuses_what_is_trained_on_and_what_is_held_out(pretrain_config, narrow, tmp_path):
    data = DataConfig(manifests=(narrow,))
    other = tmp_path / "narrow/other.tsv"
    write_manifest(other, [dataclasses.replace(each, id=f"x{each.id}") for each in read_manifest(narrow).utterances])
    config = pretrain_config(tmp_path / "run", "contrastive", data=data, dev=DataConfig(manifests=(other,)))
    with pytest.raises(AudioError, match=r"^data: 3 of 3 .*\ndev: 3 of 3 .*set dev\.audio\.min_sample_rate=8000"):
        pretrain(config)


def test_dev_is_read_as_training_was_told_unless_it_says_otherwise(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    audio = {"min_sample_rate": 8000, "channels": "first"}
    recipe.write_text(
        yaml.safe_dump(
            {"out": "o", "checkpoint": "c", "data": {"manifests": ["a.tsv"], "root": "there", "audio": audio}}
            | {"dev": {"manifests": ["b.tsv"], "audio": {"min_sample_rate": 16000}}}
        )
    )
    config = load(recipe, FinetuneConfig)
    assert config.dev is not None
    assert config.dev.audio == AudioConfig(min_sample_rate=16_000, channels="first")
    assert config.dev.root is None
    assert load(recipe, FinetuneConfig, ["dev.audio.channels=mean"]).dev.audio.channels == "mean"
    assert load(recipe, FinetuneConfig, ["dev=null"]).dev is None
    assert config == load(_written(tmp_path / "again.yaml", config), FinetuneConfig)


@pytest.mark.parametrize("config_type", [PretrainConfig, HubertConfig])
def test_held_out_audio_is_read_alike(tmp_path, config_type):
    values = {"out": "o", "data": {"manifests": ["a.tsv"], "audio": {"min_sample_rate": 8000}}}
    values |= {"dev": {"manifests": ["b.tsv"]}} | ({"iterations": [{}]} if config_type is HubertConfig else {})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert load(tmp_path / "recipe.yaml", config_type).dev.audio.min_sample_rate == 8000


def test_a_slip_in_what_is_taken_over_is_told_once(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("out: o\ncheckpoint: c\ndata: {manifests: [a], audio: {chanels: first}}\ndev: {manifests: [b]}\n")
    with pytest.raises(ConfigError) as caught:
        load(recipe, FinetuneConfig)
    assert str(caught.value).count("chanels") == 1


def _written(path: Path, config: object) -> Path:
    path.write_text(json.dumps(to_dict(config)))
    return path


def test_an_evaluation_that_fails_leaves_a_checkpoint_from_which_the_mended_run_goes_on(
    finetune_config, corpus, tmp_path, monkeypatch, capsys
):
    dev = DataConfig(manifests=(corpus,))
    config = finetune_config(tmp_path / "run", dev=dev, train=TrainConfig(steps=4, eval_every=2, log_every=1))
    whole = finetune(dataclasses.replace(config, out=tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(AudioError, match=r"^broken$"):
        patch.setattr(DevSet, "__call__", lambda *_: (_ for _ in ()).throw(AudioError("broken")))
        finetune(config)
    saved = last_checkpoint(tmp_path / "run")
    assert saved is not None
    assert saved.name == "step_00000002"
    assert read_state(saved).is_unscored
    assert f"step 2: scoring failed; saved {saved}, from which the same command goes on" in capsys.readouterr().err
    mended = dataclasses.replace(config, dev=dataclasses.replace(dev, bad_audio="skip"))  # may change in a run
    last = finetune(mended)
    assert (last / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    scores = [
        [line["dev_cer"] for line in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if "dev_cer" in line]
        for out in (tmp_path / "run", tmp_path / "whole")
    ]
    assert scores[0] == scores[1]
    assert not read_state(last).is_unscored
    with pytest.raises(CheckpointError, match="another configuration"):
        finetune(dataclasses.replace(mended, dev=None))
