"""Stages finetune and transcribe: a checkpoint and texts to a recogniser, and its texts."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from speechssl.asr.scoring.wer import score_texts
from speechssl.audio.reading import AudioConfig
from speechssl.config import flatten, load, to_dict
from speechssl.data.augment import AugmentConfig
from speechssl.data.dataset import SpeechDataset
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.errors import AudioError, CheckpointError, ConfigError, ManifestError, VocabularyError
from speechssl.hub.saved import SavedModel
from speechssl.model.masking import MaskConfig
from speechssl.stages.align import align
from speechssl.stages.cluster import cluster
from speechssl.stages.dev_scores import DevSet, hear
from speechssl.stages.finetune import FinetuneConfig, finetune, finetuned_encoder
from speechssl.stages.pretrain import pretrain
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.transcribe import transcribe
from speechssl.tasks.ctc import CTCConfig
from speechssl.text import policy as texts
from speechssl.text.policy import TextConfig
from speechssl.train import run as running
from speechssl.train.checkpoint import read_state
from speechssl.train.learner import TrainConfig


def reports(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_checkpoint_and_its_vocabulary(finetuned):
    assert (finetuned / "step_00000003/model.safetensors").exists()
    tokens = SavedModel.read(finetuned).description.vocabulary
    assert tokens == ("<blank>", "|", *sorted(set("onetwosixten")))


@pytest.mark.parametrize("encoder", ["tiny_encoder", "log_mel_encoder", "hourglass_encoder"])
@pytest.mark.parametrize("kind", ["masked_prediction", "contrastive", "random_projection", "teacher"])
def test_the_whole_way_from_audio_to_text_gives_a_text_for_every_utterance(
    cluster_config, pretrain_config, finetune_config, corpus, tmp_path, kind, encoder, request
):
    units = cluster(cluster_config(tmp_path / "units"))
    labels = (units,) if kind == "masked_prediction" else ()
    encoder = request.getfixturevalue(encoder)
    checkpoint = pretrain(pretrain_config(tmp_path / "pretrained", kind, labels=labels, encoder=encoder))
    run = finetune(finetune_config(tmp_path / "finetuned", checkpoint=checkpoint)).parent
    manifest = read_manifest(corpus)
    found, skipped = transcribe(run, manifest)
    assert [each.id for each in found] == [row.id for row in manifest.utterances]
    assert set("".join(each.text for each in found)) <= set("onetwosixten ")
    assert skipped == []


@pytest.fixture
def spelled(tmp_path, corpus) -> Path:
    """Give the manifest of a corpus in which every letter is a tone of its own for a tenth of a second."""
    rows = []
    for row in read_manifest(corpus).utterances:
        pitches = torch.tensor([200.0 * (1 + "onetwsix ".index(letter)) for letter in row.text]).repeat_interleave(1600)
        soundfile.write(str(tmp_path / row.path), torch.sin(pitches.cumsum(0) * 2 * torch.pi / 16_000).numpy(), 16_000)
        rows.append(dataclasses.replace(row, num_samples=len(pitches)))
    write_manifest(tmp_path / "spelled.tsv", rows)
    return tmp_path / "spelled.tsv"


def test_texts_are_learned_and_written_down(finetune_config, spelled, tmp_path):
    config = finetune_config(tmp_path / "run", data=DataConfig(manifests=(spelled,)))
    no_mask = MaskConfig(start_prob=0.0, min_spans=0)
    config = dataclasses.replace(
        config,
        train=TrainConfig(steps=150, log_every=50),
        ctc=CTCConfig(freeze_conv=False, freeze_steps=0, mask=no_mask, channel_mask=no_mask),
        optim=dataclasses.replace(config.optim, lr=1e-2),
        dropout=0.0,
        layer_drop=0.0,
    )
    finetune(config)
    found, _ = transcribe(tmp_path / "run", manifest := read_manifest(spelled))
    assert (
        score_texts({row.id: row.text for row in manifest.utterances}, {each.id: each.text for each in found}).cer < 0.3
    )
    aligned, _ = align(tmp_path / "run", manifest)
    for each, row in zip(aligned, manifest.utterances, strict=True):
        assert [word.text for word in each.words] == row.text.split()
        position = 0
        for word in each.words:  # a letter lasts a tenth of a second
            assert word.start_s == pytest.approx(0.1 * position, abs=0.25)
            position += len(word.text) + 1


def test_texts_do_not_depend_on_the_company_in_a_batch(finetuned, corpus):
    model, vocabulary = SavedModel.read(finetuned).recogniser()
    encoder = model.encoder.config
    dataset = SpeechDataset(read_manifest(corpus), AudioConfig(), hop=encoder.hop, window=encoder.window)
    alone = {each.id: each.text for each in hear(model, vocabulary, dataset, seconds=0.1)}
    together = {each.id: each.text for each in hear(model, vocabulary, dataset, seconds=100.0)}
    assert alone == together


def test_bad_audio_stops_a_transcription(finetuned, corpus, tmp_path):
    manifest = read_manifest(corpus)
    broken = dataclasses.replace(manifest, utterances=(dataclasses.replace(manifest.utterances[0], path="none.wav"),))
    with pytest.raises(AudioError, match=r"none\.wav: no such file"):
        transcribe(finetuned, broken)


def test_bad_audio_is_left_out_of_a_transcription_with_its_reason_when_asked_for(finetuned, corpus):
    manifest = read_manifest(corpus)
    first, *rest = manifest.utterances
    broken = dataclasses.replace(manifest, utterances=(dataclasses.replace(first, path="none.wav"), *rest))
    found, skipped = transcribe(finetuned, broken, skip_bad=True)
    assert [each.id for each in found] == [row.id for row in rest]
    assert len(skipped) == 1
    assert "none.wav: no such file" in skipped[0]


def test_a_finished_run_trains_no_further(finetuned, finetune_config, monkeypatch):
    monkeypatch.setattr("speechssl.data.dataset.read_utterance", lambda *_, **__: pytest.fail("read audio again"))
    before = (finetuned / "log.jsonl").read_bytes()
    assert finetune(finetune_config(finetuned)) == finetuned / "step_00000003"
    assert (finetuned / "log.jsonl").read_bytes() == before


def test_the_trunk_starts_from_the_checkpoint(finetune_config, pretrained, tmp_path):
    config = finetune_config(tmp_path / "run", train=TrainConfig(steps=1))  # frozen in its first step
    finetune(dataclasses.replace(config, optim=dataclasses.replace(config.optim, weight_decay=0.0)))
    model, _ = SavedModel.read(tmp_path / "run").recogniser()
    encoder = SavedModel.read(pretrained).encoder()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor), name


AS_PRETRAINED = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "feature_dropout", "layer_drop"))


def test_the_control_with_random_weights_takes_the_architecture_alone(finetune_config, pretrained, tmp_path):
    finetune(
        finetune_config(tmp_path / "run", random_weights=True, seed=1, train=TrainConfig(steps=1), **AS_PRETRAINED)
    )
    model, _ = SavedModel.read(tmp_path / "run").recogniser()
    encoder = SavedModel.read(pretrained).encoder()
    assert model.encoder.config.transformer == encoder.config.transformer
    assert not torch.allclose(model.encoder.project.weight, encoder.project.weight, atol=1e-2)


@pytest.mark.parametrize("changed", [{}, {"dropout": 0.3}])
def test_a_dropout_that_is_null_is_that_of_pretraining(pretrained, finetune_config, tmp_path, changed):
    before = SavedModel.read(pretrained).encoder().config
    found = finetuned_encoder(before, finetune_config(tmp_path / "run", **(AS_PRETRAINED | changed)))
    assert found.transformer == dataclasses.replace(before.transformer, **changed)
    assert found.feature_dropout == before.feature_dropout


def test_the_ten_hour_recipe_is_the_default_but_for_the_reference_s_own_draws(pretrained, finetune_config, tmp_path):
    published = load(Path(__file__).parents[2] / "recipes/finetune/ctc_10h.yaml", FinetuneConfig)
    before = SavedModel.read(pretrained).encoder().config
    default = FinetuneConfig(out=tmp_path, checkpoint=pretrained, data=published.data)
    assert finetuned_encoder(before, default) == finetuned_encoder(before, published)
    values, defaults = flatten(to_dict(published)), flatten(to_dict(default))
    different = {key for key in values if values[key] != defaults.get(key) and not key.startswith("dev")}
    of_the_draws = {f"ctc.{name}.{key}" for name in ("mask", "channel_mask") for key in ("last_frame", "same_count")}
    of_the_machine = {"out", "checkpoint", "train.accumulate", "train.bfloat16", "train.eval_every"}
    assert different == of_the_machine | of_the_draws | {"optim.eps_before_correction"}


@pytest.fixture
def rewritten(corpus, tmp_path):
    """Give a function that copies the corpus with changed texts."""

    def rewrite(**texts: str) -> Path:
        shutil.copytree(corpus.parent, tmp_path / "rewritten", dirs_exist_ok=True)
        header, *rows = corpus.read_text().splitlines()
        cells = [row.split("\t") for row in rows]
        lines = ["\t".join([*row[:-1], texts.get(row[0], row[-1])]) for row in cells]
        (tmp_path / "rewritten/manifest.tsv").write_text("\n".join([header, *lines]) + "\n")
        return tmp_path / "rewritten/manifest.tsv"

    return rewrite


def test_utterances_without_text_are_counted_and_named(finetune_config, rewritten, tmp_path):
    data = DataConfig(manifests=(rewritten(u0001="", u0006=""),))
    with pytest.raises(ManifestError, match="2 utterances have no text: u0001, u0006; fill the manifest's text column"):
        finetune(finetune_config(tmp_path / "run", data=data))


def test_a_development_set_without_text_is_refused_before_the_first_step(finetune_config, rewritten, tmp_path):
    config = finetune_config(tmp_path / "run", dev=DataConfig(manifests=(rewritten(u0001=""),)))
    with pytest.raises(ManifestError, match="1 utterances have no text: u0001"):
        finetune(config)
    assert not (tmp_path / "run/log.jsonl").exists()


LONG = "two " * 12  # 48 letters and boundaries in 24 frames


def test_an_utterance_too_short_for_its_text_stops_with_its_id_and_the_numbers(finetune_config, rewritten, tmp_path):
    data = DataConfig(manifests=(rewritten(u0000=LONG, u0001="o" * 20),))
    message = (
        r"2 utterances are too short for their text: u0000 \(text needs 47 frames, audio makes 24\), "
        r"u0001 \(text needs 39 frames, audio makes 28\); correct the transcripts, or set bad_length=skip"
    )
    with pytest.raises(VocabularyError, match=message):
        finetune(finetune_config(tmp_path / "run", data=data))


def test_an_utterance_that_just_fits_its_text_is_kept(finetune_config, rewritten, tmp_path):
    data = DataConfig(manifests=(rewritten(u0000="ontwsixe" * 3),))  # 24 frames for 24 letters, none twice in a row
    assert read_state(finetune(finetune_config(tmp_path / "run", data=data))).is_finished


def test_an_utterance_that_fits_its_text_at_no_higher_speed_is_refused_where_it_may_be_heard_so(
    finetune_config, rewritten, tmp_path
):
    data = DataConfig(manifests=(rewritten(u0000="ontwsixe" * 3),))
    config = finetune_config(tmp_path / "run", data=data, augment=AugmentConfig(speeds=(1.0, 1.25)))
    with pytest.raises(VocabularyError, match=r"u0000 \(text needs 24 frames, audio makes 19\)"):
        finetune(config)


def test_utterances_too_short_for_their_text_are_left_out_counted_and_listed_when_asked_for(
    finetune_config, rewritten, tmp_path, capfd
):
    manifest = rewritten(u0000=LONG)
    manifest.write_text(manifest.read_text().replace("u0000\t", "u 0000\t"))  # an id with a space
    config = finetune_config(tmp_path / "run", data=DataConfig(manifests=(manifest,)), bad_length="skip")
    finetune(config)
    assert "left out, too short for its text: 1 utterances: u 0000 (text needs 47 frames" in capfd.readouterr().err
    assert all(report["impossible"] == 0 for report in reports(tmp_path / "run"))


def test_bad_audio_is_skipped_and_counted_when_asked_for(finetune_config, rewritten, tmp_path):
    manifest = rewritten()
    (manifest.parent / "u0003.wav").write_bytes(b"")
    data = DataConfig(manifests=(manifest,), bad_audio="skip")
    assert read_state(finetune(finetune_config(tmp_path / "run", data=data))).skipped == 3  # an epoch is one batch


def test_the_best_step_on_the_development_set_is_the_one_used(finetune_config, corpus, tmp_path, monkeypatch):
    scores = iter([0.9, 0.1, 0.5])
    monkeypatch.setattr(DevSet, "__call__", lambda *_: {"dev_cer": next(scores)})
    config = finetune_config(
        tmp_path / "run",
        dev=DataConfig(manifests=(corpus,)),
        train=TrainConfig(steps=3, eval_every=1, save_every=100),
    )
    last = finetune(config)
    assert read_state(last).best_step == 2
    used = SavedModel.read(tmp_path / "run").tensors["head.weight"]
    assert not torch.equal(used, load_state(last)["head.weight"])
    assert torch.equal(used, load_state(tmp_path / "run/step_00000002")["head.weight"])


def load_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(checkpoint / "model.safetensors")


def test_the_development_set_is_scored_while_training(finetune_config, corpus, tmp_path):
    config = finetune_config(
        tmp_path / "run", dev=DataConfig(manifests=(corpus,)), train=TrainConfig(steps=2, eval_every=1, log_every=1)
    )
    state = read_state(finetune(config))
    assert set(state.scores) >= {"dev_cer", "dev_wer"}
    assert [report["step"] for report in reports(tmp_path / "run") if "dev_cer" in report] == [1, 2]


def test_bad_audio_in_the_development_set_is_left_out_and_counted_when_asked_for(finetune_config, rewritten, tmp_path):
    dev = rewritten()
    (dev.parent / "u0003.wav").write_bytes(b"")
    config = finetune_config(tmp_path / "run", dev=DataConfig(manifests=(dev,), bad_audio="skip"))
    assert read_state(finetune(config)).scores["dev_skipped"] == 1


def test_a_checkpoint_of_another_kind_is_refused(finetune_config, tmp_path):
    with pytest.raises(CheckpointError, match="not a model that can be read; expected the folder of a run"):
        finetune(finetune_config(tmp_path / "run", checkpoint=tmp_path))


def test_a_folder_without_a_fine_tuned_model_cannot_transcribe(pretrained, tmp_path, corpus):
    with pytest.raises(CheckpointError, match="is of kind hubert, expected a fine-tuned one"):
        transcribe(pretrained, read_manifest(corpus))
    with pytest.raises(CheckpointError, match="not a model that can be read"):
        transcribe(tmp_path, read_manifest(corpus))


def test_a_fine_tuned_run_needs_no_other_folder_to_transcribe(finetuned, tmp_path, corpus):
    moved = shutil.copytree(finetuned, tmp_path / "elsewhere")
    (moved / "config.json").unlink()  # which names the run of pretraining
    assert transcribe(moved, read_manifest(corpus)) == transcribe(finetuned, read_manifest(corpus))


def test_waveforms_are_normalized_as_in_pretraining_and_a_recipe_cannot_differ(
    pretrain_config, finetune_config, corpus, tmp_path
):
    normalized = DataConfig(manifests=(corpus,), audio=AudioConfig(normalize=True))
    pretrain(pretrain_config(tmp_path / "pretrain", data=normalized))
    config = finetune_config(tmp_path / "run", checkpoint=tmp_path / "pretrain", train=TrainConfig(steps=1))
    finetune(config)
    assert SavedModel.read(tmp_path / "run").description.audio.normalize is True
    other = DataConfig(manifests=(corpus,), audio=AudioConfig(normalize=False))
    with pytest.raises(ConfigError, match=r"normalize=false, but pretrain/step_00000003 was trained with true"):
        finetune(dataclasses.replace(config, out=tmp_path / "other", data=other))


def test_a_run_is_not_continued_with_another_vocabulary(finetune_config, rewritten, tmp_path):
    data = DataConfig(manifests=(rewritten(),))
    config = finetune_config(tmp_path / "run", data=data, train=TrainConfig(steps=1))
    finetune(config)
    rewritten(u0000="three")
    with pytest.raises(
        CheckpointError, match=r"model\.json: describes another .* lacks 2 letters of the texts: 'h' \(u0000\)"
    ):
        finetune(config)


def test_a_run_whose_texts_once_lost_a_sign_says_which_and_goes_on_without(
    finetune_config, rewritten, tmp_path, capsys
):
    data = DataConfig(manifests=(rewritten(u0000="o·ne", u0001="e-x"),))
    config = finetune_config(
        tmp_path / "run", data=data, text=TextConfig(punctuation="remove"), train=TrainConfig(steps=2, save_every=1)
    )
    before = dict.fromkeys(map(ord, "·"), " ")  # as signs were taken before there was a rule for them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "without_punctuation", lambda text, _: text.translate(before))
        patch.setattr(running, "save_checkpoint", _stop_after(running.save_checkpoint))
        with pytest.raises(KeyboardInterrupt):
            finetune(config)
    with pytest.raises(CheckpointError, match=r"lacks 1 letters of the texts: '·' \(u0000\)\. .* remove these letters"):
        finetune(config)
    rewritten(u0000="o ne", u0001="ex")
    capsys.readouterr()
    last = finetune(config)
    assert last.name == "step_00000002"
    assert "-" in SavedModel.read(last).description.vocabulary
    assert "preflight: the texts, or what is done to them, changed since the run began" in capsys.readouterr().err


def _stop_after(save):
    def stopping(*given, **named):
        save(*given, **named)
        raise KeyboardInterrupt

    return stopping
