"""Speaker verification of small voices: tones, each speaker at a pitch of their own."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch

from speechssl.__main__ import main
from speechssl.data.manifest import write_manifest
from speechssl.data.utterances import Utterance
from speechssl.downstream.trials import read_trials
from speechssl.errors import AudioError, ConfigError, ManifestError
from speechssl.stages.embeddings import EmbeddingConfig
from speechssl.stages.head_folder import load_head
from speechssl.stages.head_probe import train_probes
from speechssl.stages.probe_config import HeadTrainConfig, ProbeConfig, SplitRule
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.verify import VerifyConfig, verify
from speechssl.tasks.speaker_embedding import SpeakerEmbeddingConfig
from speechssl.units.mfcc import log_mel

SAMPLES = 8000


def write_voices(folder, speakers, number):
    """Write utterances of a tone and its overtones, with noise and a colour of the channel that hides the speaker."""
    generator, rows = np.random.default_rng(len(speakers)), []
    times = np.arange(SAMPLES) / 16_000
    for speaker in speakers:
        pitch = 150 + 60 * (sum(map(ord, speaker)) % 37)
        for i in range(number):
            voice = sum(np.sin(2 * np.pi * pitch * k * times * generator.uniform(0.98, 1.02)) / k for k in (1, 2, 3))
            path = f"{speaker}/{i}.wav"
            (folder / speaker).mkdir(parents=True, exist_ok=True)
            sound = 0.1 * voice + generator.normal(0, 0.05, SAMPLES)
            soundfile.write(folder / path, sound.astype(np.float32), 16_000)
            rows.append(
                Utterance(
                    id=f"{speaker}{i}",
                    path=path,
                    num_samples=SAMPLES,
                    sample_rate=16_000,
                    channels=1,
                    text=f"text {i % 2}",
                    speaker=speaker,
                )
            )
    write_manifest(folder / "manifest.tsv", rows)
    return folder / "manifest.tsv"


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    return write_voices(tmp_path_factory.mktemp("voices"), ("ann", "bob", "cyd", "dee"), 4)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return write_voices(tmp_path_factory.mktemp("others"), ("eve", "fay", "guy", "hal", "ida", "jon"), 5)


@pytest.fixture
def config(voices):
    base = VerifyConfig(data=DataConfig(manifests=(voices,)), embedding=EmbeddingConfig(model="mfcc"))
    detection = dataclasses.replace(base.detection, samples=10)

    def make(**changes):
        return dataclasses.replace(base, detection=detection, **changes)

    return make


def test_all_pairs_are_scored_and_written(config, tmp_path):
    (result,) = verify(config(out=tmp_path / "out"))
    assert (result.title, result.found.targets, result.found.nontargets) == ("mfcc", 24, 96)
    assert result.found.measures[0].value < 0.3
    written = read_trials(tmp_path / "out/scores.tsv")
    assert len(written.first) == 120 and written.scores is not None
    told = json.loads((tmp_path / "out/scores.json").read_text())
    assert told["results"][0]["measures"]["EER"]["value"] == result.found.measures[0].value
    assert told["config"]["embedding"]["model"] == "mfcc"


def test_a_list_of_trials_is_scored_by_ids_and_paths(config, tmp_path):
    (tmp_path / "trials").write_text("1 ann/0.wav ann/1.wav\n0 ann0 bob/1\n0 /old/bob/2.wav cyd0\n")
    (result,) = verify(config(trials=tmp_path / "trials", out=tmp_path / "out"))
    assert read_trials(tmp_path / "out/scores.tsv").first == ("ann0", "ann0", "bob2")
    assert (result.found.targets, result.found.nontargets, result.found.speakers) == (1, 2, 3)


def test_missing_utterances_stop_or_are_counted(config, tmp_path, capsys):
    (tmp_path / "trials").write_text("1 ann0 ann1\n0 ann0 bob1\n0 zoe0 bob1\n")
    with pytest.raises(
        ManifestError, match="trials:3: 1 of 3 trials name 1 utterances that the manifest lacks, 'zoe0'"
    ):
        verify(config(trials=tmp_path / "trials"))
    (result,) = verify(config(trials=tmp_path / "trials", missing="skip", out=tmp_path / "out"))
    assert result.found.nontargets == 1
    assert "left out, not in the manifest, 1 trials: 1 utterances: zoe0" in capsys.readouterr().err
    told = json.loads((tmp_path / "out/scores.json").read_text())
    assert told["left_out"]["missing"] == ["zoe0"]
    (tmp_path / "trials").write_text("1 zoe0 zoe1\n")
    with pytest.raises(
        ManifestError, match="trials: expected target and non-target trials, found 0 and 0 that the manifest has"
    ):
        verify(config(trials=tmp_path / "trials", missing="skip"))


def test_labels_that_contradict_the_manifest_are_told(config, tmp_path, capsys):
    (tmp_path / "trials").write_text("1 ann0 bob1\n0 ann0 cyd1\n")
    (result,) = verify(config(trials=tmp_path / "trials"))
    assert result.found.speakers is None
    assert "1 of 2 trials contradict the manifest's column speaker" in capsys.readouterr().err


def test_pairs_of_a_text_and_of_a_column_are_selected(config, tmp_path, capsys):
    (result,) = verify(config(differ=("text",)))
    assert (result.found.targets, result.found.nontargets) == (16, 48)
    assert "left out, same text: 56 pairs" in capsys.readouterr().err
    (tmp_path / "sex.tsv").write_text("speaker\tsex\nann\tf\nbob\tm\ncyd\tf\n")
    (result,) = verify(config(alike=("sex",), columns=tmp_path / "sex.tsv"))
    assert (result.found.targets, result.found.nontargets) == (18, 16)
    with pytest.raises(ManifestError, match=r"sex\.tsv: has no values of age .* name one of text, language"):
        verify(config(alike=("age",), columns=tmp_path / "sex.tsv"))


@pytest.mark.parametrize("how", [{}, {"score": "plda"}, {"score": "plda", "s_norm": 10}, {"lda": 3}, {"s_norm": 10}])
def test_other_speakers_train_the_scores(config, others, tmp_path, how):
    verify(config(out=tmp_path / "plain"))
    (result,) = verify(config(train=(others,), out=tmp_path / "trained", **how))
    assert result.found.targets == 24
    assert result.found.measures[0].value < 0.2
    plain, trained = (read_trials(tmp_path / name / "scores.tsv") for name in ("plain", "trained"))
    assert plain.first == trained.first
    assert not np.allclose(plain.scores, trained.scores)


def test_speakers_that_are_trained_on_and_tested_are_refused(config, voices):
    with pytest.raises(ManifestError, match=r"4 speakers are trained on and tested, ann, bob, cyd, \.\.\."):
        verify(config(train=(voices,)))
    assert verify(config(train=(voices,), shared_speakers=True, score="plda"))


def test_without_speakers_shared_recordings_are_refused(config, voices, tmp_path):
    lines = [line.split("\t") for line in voices.read_text().splitlines()]
    column = lines[0].index("speaker")
    nameless = voices.parent / "nameless.tsv"
    nameless.write_text("\n".join("\t".join(cells[:column] + cells[column + 1 :]) for cells in lines) + "\n")
    with pytest.raises(ManifestError, match="16 recordings are trained on and tested"):
        verify(config(train=(nameless,)))
    with pytest.raises(ManifestError, match="expected two speakers or more to train on"):
        verify(config(train=(nameless,), shared_speakers=True, score="plda"))
    with pytest.raises(ManifestError, match="found 0 in the column speaker"):
        verify(config(data=DataConfig(manifests=(nameless,))))


def test_every_layer_has_a_row_and_a_file(config, pretrained, tmp_path):
    results = verify(config(embedding=EmbeddingConfig(model=str(pretrained), layers="all"), out=tmp_path / "out"))
    assert [result.layer for result in results] == [1, 2]
    assert {path.parent.name for path in tmp_path.rglob("scores.tsv")} == {"layer_1", "layer_2"}


def test_bad_audio_stops_or_takes_its_trials_along(config, voices, capsys):
    rows = voices.read_text().replace("bob/1.wav", "bob/no.wav")
    broken = voices.parent / "broken.tsv"
    broken.write_text(rows)
    with pytest.raises(AudioError, match=r"bob/no\.wav"):
        verify(config(data=DataConfig(manifests=(broken,))))
    (result,) = verify(config(data=DataConfig(manifests=(broken,), bad_audio="skip")))
    assert (result.found.targets, result.found.nontargets) == (21, 84)
    assert "left out, bad audio, 15 trials: 1 utterances: bob1" in capsys.readouterr().err


def probe_of(task, others, out):
    recipe = ProbeConfig(
        out=out,
        task=task,
        data=DataConfig(manifests=(others,)),
        split=SplitRule(by="id", dev=0.2, test=0.2),
        shared_speakers=True,
        baselines=("log_mel",),
        train=HeadTrainConfig(steps=60, batch=8, lr=0.01, eval_every=20),
        seeds=(0,),
    )
    train_probes(recipe)
    return next((out / "heads").glob("*/seed-0"))


def test_embeddings_of_a_head_are_compared(config, others, voices, tmp_path):
    """A head learns other speakers; its embeddings tell new ones apart, and its own speakers are refused."""
    head = probe_of(SpeakerEmbeddingConfig(projector=16, dim=16), others, tmp_path / "probe")
    (result,) = verify(config(embedding=EmbeddingConfig(model=str(head)), out=tmp_path / "out"))
    assert result.found.measures[0].value < 0.3
    loaded = load_head(head)
    vectors = {}
    for name in ("ann/0", "bob/1"):
        sound = torch.from_numpy(soundfile.read(voices.parent / f"{name}.wav", dtype="float32")[0])
        layers = torch.stack(log_mel(sound)[None].unbind())[None]
        vectors[name] = loaded.network.embedding(layers, torch.ones(1, layers.shape[2], dtype=torch.bool))[0]
    wanted = torch.cosine_similarity(vectors["ann/0"], vectors["bob/1"], dim=0).item()
    written = read_trials(tmp_path / "out/scores.tsv")
    pair = next(
        i for i, sides in enumerate(zip(written.first, written.second, strict=True)) if sides == ("ann0", "bob1")
    )
    assert written.scores[pair] == pytest.approx(wanted, abs=1e-4)
    own = DataConfig(manifests=(others,))
    with pytest.raises(ManifestError, match="the head was trained on 6 of the tested speakers, eve, fay, guy"):
        verify(config(data=own, embedding=EmbeddingConfig(model=str(head))))
    assert verify(config(data=own, embedding=EmbeddingConfig(model=str(head)), shared_speakers=True))
    with pytest.raises(ConfigError, match="is a head, which has layers and pooling of its own"):
        verify(config(embedding=EmbeddingConfig(model=str(head), pool="mean_std")))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": "plda"}, "fitted on other speakers"),
        ({"s_norm": 5}, "fitted on other speakers"),
        ({"max_pairs": 0}, "max_pairs must be 1 or more"),
        ({"trials": "t", "differ": ("text",)}, "select among all pairs"),
    ],
)
def test_settings_without_sense_are_refused(config, wrong, message):
    with pytest.raises(ConfigError, match=message):
        config(**wrong)


def test_the_commands_print_scores(voices, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["verify", "log_mel", str(voices), "--samples", "20", "--p-target", "0.1", "-o", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "log_mel" and lines[1].startswith("EER ") and lines[2].startswith("minDCF(0.1) ")
    assert lines[3].startswith("120 trials, 24 of them targets, 4 speakers")
    again = ["eer", str(out / "scores.tsv"), "--samples", "20", "--p-target", "0.1", "--manifest", str(voices)]
    assert main([*again, "-o", str(tmp_path / "eer.json")]) == 0
    assert capsys.readouterr().out.splitlines()[:4] == lines[1:5][:4]
    assert json.loads((tmp_path / "eer.json").read_text())["targets"] == 24
    assert main(["eer", str(out / "scores.tsv"), "--samples", "20"]) == 0
    assert "trials drawn 20 times" in capsys.readouterr().out


def test_errors_are_one_line(voices, tmp_path, capsys):
    (tmp_path / "trials").write_text("1 ann0 ann1\n")
    assert main(["verify", "mfcc", str(voices), "--trials", str(tmp_path / "trials")]) == 2
    assert "expected target and non-target trials, found 1 and 0" in capsys.readouterr().err
    assert main(["eer", str(tmp_path / "trials")]) == 2
    assert "is a list of trials without scores" in capsys.readouterr().err
