"""Stage pretrain: manifest and labels to checkpoints, with either method."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from speechssl.audio.reading import AudioConfig
from speechssl.data.augment import AugmentConfig
from speechssl.data.batching import BatchConfig, seeded_generator
from speechssl.data.dataset import SpeechDataset, load_in_order
from speechssl.data.labels import FrameLabels, read_labels, write_labels
from speechssl.data.manifest import read_manifest
from speechssl.errors import AudioError, CheckpointError, ConfigError, LabelError, ManifestError
from speechssl.hub.saved import SavedModel
from speechssl.model.context import StepContext
from speechssl.model.encoder import EncoderConfig
from speechssl.stages.cluster import cluster
from speechssl.stages.pretrain import PretrainConfig, pretrain, score_dev_set, too_few_hours, too_many_frames
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.visible import VisibleConfig
from speechssl.train.checkpoint import load_tensors, read_state
from speechssl.train.learner import TrainConfig
from speechssl.train.optim import OptimConfig

METHODS = ["masked_prediction", "contrastive", "random_projection", "teacher"]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", METHODS)
def test_a_run_leaves_a_checkpoint_its_configuration_and_a_finite_loss_for_each_step(pretrain_config, tmp_path, kind):
    checkpoint = pretrain(pretrain_config(tmp_path / "run", kind))
    assert checkpoint == tmp_path / "run/step_00000003"
    assert read_state(checkpoint).is_finished
    assert len(losses(tmp_path / "run")) == 3
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "run"))
    assert json.loads((tmp_path / "run/config.json").read_text())["objective"]["kind"] == kind


@pytest.mark.parametrize("kind", METHODS)
def test_the_same_recipe_gives_the_same_losses_and_another_seed_others(pretrain_config, tmp_path, kind):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(len(name) + seed)
        pretrain(pretrain_config(tmp_path / name, kind, seed=seed))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


def test_masked_prediction_learns_a_tiny_corpus(pretrain_config, tmp_path):
    train = TrainConfig(steps=40, log_every=10)
    config = pretrain_config(tmp_path / "run", train=train)
    pretrain(dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=5e-3)))
    found = losses(tmp_path / "run")
    assert found[-1] < 0.8 * found[0]


def test_a_finished_run_trains_no_further(pretrain_config, pretrained, monkeypatch):
    monkeypatch.setattr("speechssl.data.dataset.read_utterance", lambda *_, **__: pytest.fail("read audio again"))
    before = (pretrained / "log.jsonl").read_bytes()
    assert pretrain(pretrain_config(pretrained)) == pretrained / "step_00000003"
    assert (pretrained / "log.jsonl").read_bytes() == before


def test_a_folder_of_another_configuration_is_left_alone(pretrain_config, pretrained):
    config = pretrain_config(pretrained, train=TrainConfig(steps=9, log_every=1))
    with pytest.raises(CheckpointError, match=r"another configuration \(train\.steps was 3, is 9\); name another out"):
        pretrain(config)


def test_masked_prediction_without_labels_is_refused(pretrain_config, tmp_path):
    with pytest.raises(LabelError, match=r"masked_prediction needs labels; make them with `speechssl cluster`"):
        pretrain(pretrain_config(tmp_path / "run", labels=()))


def test_labels_for_the_contrastive_method_are_refused(pretrain_config, units, tmp_path):
    with pytest.raises(LabelError, match=r"objective\.kind=contrastive takes no labels"):
        pretrain(pretrain_config(tmp_path / "run", "contrastive", labels=(units,)))


def test_labels_of_other_audio_are_refused_before_the_first_step(pretrain_config, make_corpus, tmp_path):
    other = make_corpus(tmp_path / "other", [8000, 20_000])
    config = pretrain_config(tmp_path / "run", data=DataConfig(manifests=(other,)))
    with pytest.raises(LabelError, match=r"u0001 has 54 labels, its audio of 20000 samples makes 123; .*other audio"):
        pretrain(config)
    assert not (tmp_path / "run/log.jsonl").exists()


def test_labels_that_lack_utterances_are_refused(pretrain_config, make_corpus, tmp_path):
    more = make_corpus(tmp_path / "more", [*range(8_000, 16_000, 1_000), 8000, 8000])
    config = pretrain_config(tmp_path / "run", data=DataConfig(manifests=(more,)))
    with pytest.raises(LabelError, match=r"labels\.tsv: 2 utterances of the manifest have no labels: u0008, u0009"):
        pretrain(config)


def test_labels_with_units_outside_their_number_are_refused(pretrain_config, units, tmp_path):
    labels = read_labels(units)
    write_labels(tmp_path / "l.tsv", labels)
    text = (tmp_path / "l.tsv").read_text().replace('"clusters": 5', '"clusters": 3')
    (tmp_path / "l.tsv").write_text(text)
    with pytest.raises(LabelError, match=r"l\.tsv:\d+: u000\d has units up to [34], expected 0 to 2"):
        pretrain(pretrain_config(tmp_path / "run", labels=(tmp_path / "l.tsv",)))


def relabelled(path: Path, target: Path, **changes: object) -> Path:
    """Write the labels of a file as if another source had made them."""
    labels = read_labels(path)
    write_labels(target, dataclasses.replace(labels, source=dataclasses.replace(labels.source, **changes)))
    return target


def test_a_run_folder_says_what_made_its_labels(pretrained, units):
    description = SavedModel.read(pretrained).description
    assert dataclasses.asdict(description.labels[0]) == dataclasses.asdict(read_labels(units).source)
    assert description.clusters == (5,)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kmeans": "f00d"}, r"k-means f00d of mfcc \(5 units, one every 160 samples\)"),
        ({"clusters": 7}, r"k-means \w+ of mfcc \(7 units, one every 160 samples\)"),
    ],
)
def test_a_run_is_not_continued_with_other_units(pretrain_config, units, tmp_path, change, named):
    labels = relabelled(units, tmp_path / "labels.tsv")
    config = pretrain_config(tmp_path / "run", labels=(labels,))
    pretrain(config)
    relabelled(units, labels, **change)
    with pytest.raises(
        LabelError, match=rf"model\.json: the model learned k-means \w+ of mfcc \(5 .* from {named}, .*"
    ):
        pretrain(config)


def test_a_run_is_not_continued_with_labels_of_another_rate(pretrain_config, units, tmp_path):
    labels = relabelled(units, tmp_path / "labels.tsv")
    config = pretrain_config(tmp_path / "run", labels=(labels,))
    pretrain(config)
    found = read_labels(labels)
    source = dataclasses.replace(found.source, hop=320)
    halved = {key: row[::2][: source.count(8_000 + 1_000 * int(key[1:]))] for key, row in found.units.items()}
    write_labels(labels, FrameLabels(source=source, units=halved))
    with pytest.raises(
        LabelError, match=r"one every 160 samples\).* one every 320 samples\).* name labels of the same k-means"
    ):
        pretrain(config)


def test_a_run_whose_k_means_is_not_known_goes_on_and_remembers_it(pretrain_config, tmp_path):
    config = pretrain_config(tmp_path / "run")
    pretrain(config)
    path = tmp_path / "run/model.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in known.items() if key != "labels"}))
    pretrain(config)
    assert json.loads(path.read_text()) == known


def test_a_description_whose_labels_have_other_units_than_its_head_is_refused(pretrained, tmp_path):
    SavedModel.read(pretrained).write(tmp_path / "model")
    path = tmp_path / "model/model.json"
    path.write_text(path.read_text().replace('"clusters": 5', '"clusters": 6'))
    with pytest.raises(CheckpointError, match=r"expected labels with \(5,\) units, found .*\(6 units"):
        SavedModel.read(tmp_path / "model")


@pytest.mark.parametrize(
    "change", [{"kmeans": "f00d"}, {"clusters": 7}, {"kmeans": "f00d", "clusters": 7}], ids=["hash", "K", "both"]
)
def test_a_head_is_not_kept_for_units_of_another_k_means(untouched, pretrained, units, tmp_path, change):
    other = relabelled(units, tmp_path / "labels.tsv", **change)
    config = untouched(tmp_path / "run", checkpoint=pretrained, labels=(other,))
    with pytest.raises(LabelError, match=r"run/step_00000003: the model learned k-means .*, or set fresh_head=true"):
        pretrain(config)
    pretrain(dataclasses.replace(config, out=tmp_path / "fresh", fresh_head=True))


def test_a_head_of_unknown_k_means_is_kept_for_as_many_units(untouched, pretrained, units, tmp_path, capfd):
    model = SavedModel.read(pretrained)
    forgetful = dataclasses.replace(model, description=dataclasses.replace(model.description, labels=()))
    forgetful.write(tmp_path / "model")
    pretrain(untouched(tmp_path / "run", checkpoint=tmp_path / "model"))
    assert "model does not say which k-means made its units; they are taken for the labels'" in capfd.readouterr().err
    more = relabelled(units, tmp_path / "labels.tsv", clusters=7)
    with pytest.raises(LabelError, match=r"its head predicts 5 units, the labels have 7; .* set fresh_head=true"):
        pretrain(untouched(tmp_path / "other", checkpoint=tmp_path / "model", labels=(more,)))


def divided(units: Path, folder: Path, **changes: object) -> tuple[Path, Path]:
    """Write the labels of some utterances to one file and of the rest to another, the latter with another source."""
    labels = read_labels(units)
    paths = folder / "some.tsv", folder / "rest.tsv"
    for path, is_rest in zip(paths, (False, True), strict=True):
        chosen = {key: row for key, row in labels.units.items() if (key >= "u0005") == is_rest}
        source = dataclasses.replace(labels.source, **(changes if is_rest else {}))
        write_labels(path, FrameLabels(source=source, units=chosen))
    return paths


def test_a_stream_may_lie_in_several_files(pretrain_config, units, tmp_path):
    pretrain(pretrain_config(tmp_path / "one"))
    pretrain(pretrain_config(tmp_path / "two", labels=(divided(units, tmp_path),)))
    assert losses(tmp_path / "one") == losses(tmp_path / "two")


def test_files_of_a_stream_that_come_from_different_k_means_are_refused(pretrain_config, units, tmp_path):
    paths = divided(units, tmp_path, kmeans="f00d")
    with pytest.raises(
        LabelError, match=r"rest\.tsv comes from k-means f00d .* label the audio of the former with kmeans="
    ):
        pretrain(pretrain_config(tmp_path / "run", labels=(paths,)))


@pytest.fixture
def halves(corpus, tmp_path) -> tuple[DataConfig, DataConfig]:
    """Give the corpus as five utterances to train on and three held out."""
    header, *rows = corpus.read_text().splitlines()
    for name, chosen in (("train", rows[:5]), ("valid", rows[5:])):
        (tmp_path / f"{name}.tsv").write_text("\n".join([header, *chosen]) + "\n")
    train, valid = (
        DataConfig(manifests=(tmp_path / f"{name}.tsv",), root=corpus.parent) for name in ("train", "valid")
    )
    return train, valid


def held_out_scores(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if name != "wall_s"} for row in rows if "dev_loss" in row]


@pytest.mark.parametrize("kind", METHODS)
def test_held_out_utterances_are_scored_as_often_as_asked_for(pretrain_config, halves, units, tmp_path, kind):
    data, valid = halves
    train = TrainConfig(steps=4, eval_every=2, save_every=100)
    labels = {"labels": (divided(units, tmp_path),)} if kind == "masked_prediction" else {}
    checkpoint = pretrain(pretrain_config(tmp_path / "run", kind, data=data, dev=valid, train=train, **labels))
    scores = held_out_scores(tmp_path / "run")
    assert len(scores) == 2
    accuracy = "dev_accuracy" if kind == "contrastive" else "dev_masked_accuracy"
    assert all(math.isfinite(row["dev_loss"]) and 0 <= row[accuracy] <= 1 for row in scores)
    assert read_state(checkpoint).best_score == min(row["dev_loss"] for row in scores)


@pytest.mark.parametrize("kind", METHODS)
def test_held_out_scores_change_with_the_model_alone_and_leave_training_as_it_is(
    pretrain_config, halves, tmp_path, kind
):
    data, valid = halves
    train = TrainConfig(steps=4, eval_every=2, log_every=1)
    with_valid = pretrain_config(tmp_path / "run", kind, data=data, dev=valid, train=train)
    still = dataclasses.replace(with_valid, out=tmp_path / "still", optim=OptimConfig(lr=0.0))
    pretrain(with_valid)
    pretrain(still)
    pretrain(dataclasses.replace(with_valid, out=tmp_path / "without", dev=None))
    first, second = held_out_scores(tmp_path / "still")
    if kind != "teacher":  # whose codebooks move without a learning rate
        assert {**first, "step": 0} == {**second, "step": 0}
    assert held_out_scores(tmp_path / "run")[1]["dev_loss"] != second["dev_loss"]
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows if "loss" in row] == losses(tmp_path / "without")


def test_the_held_out_loss_is_an_average_over_the_masked_frames_of_all_batches(pretrained, corpus, units, tiny_encoder):
    model = SavedModel.read(pretrained).pretraining()
    dataset = SpeechDataset(
        read_manifest(corpus), AudioConfig(), hop=tiny_encoder.hop, window=tiny_encoder.window,
        labels=[read_labels(units)],
    )  # fmt: skip
    found = score_dev_set(dataset, model, seconds=2.0, seed=0)
    generator = seeded_generator(0, "held-out masks")
    with torch.no_grad():
        sums = [model(batch, StepContext(step=0, generator=generator)) for batch in load_in_order(dataset, seconds=2.0)]
    assert len(sums) > 1
    count = sum(int(loss.count) for loss in sums)
    assert found["dev_loss"] == pytest.approx(sum(float(loss.value) for loss in sums) / count)
    hits = sum(float(loss.parts["masked_accuracy"]) * int(loss.count) for loss in sums)
    assert found["dev_masked_accuracy"] == pytest.approx(hits / count)


def test_held_out_utterances_that_are_trained_on_are_refused(pretrain_config, halves, tmp_path):
    with pytest.raises(ManifestError, match="dev: 3 utterances are trained on: u0005, u0006, u0007; take them out"):
        pretrain(pretrain_config(tmp_path / "run", dev=halves[1]))


def test_held_out_utterances_need_labels_of_the_same_stream(pretrain_config, halves, units, tmp_path):
    data, valid = halves
    some, _ = divided(units, tmp_path)
    with pytest.raises(
        LabelError, match=r"some\.tsv: 3 utterances of the manifest have no labels: u0005, u0006, u0007"
    ):
        pretrain(pretrain_config(tmp_path / "run", data=data, dev=valid, labels=(some,)))


def test_several_label_streams_are_learned_at_once(pretrain_config, cluster_config, units, tmp_path):
    more = cluster(cluster_config(tmp_path / "units", clusters=3))
    pretrain(pretrain_config(tmp_path / "run", labels=(units, more)))
    report = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert {"masked_loss_0", "masked_loss_1"} <= set(report)


@pytest.fixture
def spoilt(tmp_path, make_corpus) -> Path:
    """Give the manifest of a corpus in which two files are broken."""
    manifest = make_corpus(tmp_path / "spoilt")
    (manifest.parent / "u0002.wav").write_bytes(b"")
    (manifest.parent / "u0005.wav").unlink()
    return manifest


@pytest.mark.parametrize("kind", METHODS)
def test_bad_audio_stops_a_run_and_is_named(pretrain_config, spoilt, tmp_path, kind):
    config = pretrain_config(tmp_path / "run", kind, data=DataConfig(manifests=(spoilt,)))
    with pytest.raises(AudioError, match=r"empty \(0 bytes\): \S+u0002\.wav; .*\n.* missing: \S+u0005\.wav;"):
        pretrain(dataclasses.replace(config, train=TrainConfig(steps=10)))


@pytest.mark.parametrize("kind", METHODS)
def test_bad_audio_is_skipped_counted_and_listed_when_asked_for(pretrain_config, spoilt, tmp_path, kind, capfd):
    config = pretrain_config(tmp_path / "run", kind, data=DataConfig(manifests=(spoilt,), bad_audio="skip"))
    batch = BatchConfig(seconds=20.0, max_crop_s=0.6, min_s=0.1)  # an epoch a step
    state = read_state(pretrain(dataclasses.replace(config, batch=batch)))
    assert state.skipped == 6
    said = capfd.readouterr().err
    assert said.count("u0002.wav: the file is empty") == said.count("u0005.wav: no such file") == 3
    assert json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])["skipped"] == 6


def test_what_clustering_skipped_is_left_out_of_pretraining_too(
    pretrain_config, cluster_config, spoilt, tmp_path, capfd
):
    data = DataConfig(manifests=(spoilt,), bad_audio="skip")
    labels = cluster(cluster_config(tmp_path / "units", data=data))
    state = read_state(pretrain(pretrain_config(tmp_path / "run", data=data, labels=(labels,))))
    assert state.is_finished
    assert "left out, without labels: 2 utterances: u0002, u0005" in capfd.readouterr().err


def test_labels_of_another_corpus_are_refused_even_where_bad_audio_is_skipped(pretrain_config, make_corpus, tmp_path):
    other = make_corpus(tmp_path / "other", [8000])
    other.write_text(other.read_text().replace("u0000\t", "else\t"))
    with pytest.raises(LabelError, match="1 utterances of the manifest have no labels: else"):
        pretrain(pretrain_config(tmp_path / "run", data=DataConfig(manifests=(other,), bad_audio="skip")))


def test_utterances_that_are_too_short_are_counted_and_listed(pretrain_config, tmp_path, capfd):
    config = pretrain_config(tmp_path / "run", batch=BatchConfig(seconds=3.0, max_crop_s=0.6, min_s=0.76))
    pretrain(config)
    expected = r"left out, shorter than batch.min_s=0.76: 5 utterances: u0000, u0001, u0002"
    assert expected in capfd.readouterr().err


def test_a_corpus_of_short_utterances_alone_is_refused(pretrain_config, tmp_path):
    config = pretrain_config(tmp_path / "run", batch=BatchConfig(seconds=3.0, max_crop_s=2.0, min_s=2.0))
    with pytest.raises(ManifestError, match=r"no utterance is at least batch\.min_s=2\.0 s long; lower it"):
        pretrain(config)


def parameters_of(run: Path) -> dict[str, torch.Tensor]:
    return SavedModel.read(run).tensors


@pytest.fixture
def untouched(pretrain_config):
    """Give a function that makes a configuration which leaves its parameters as they start."""

    def make(out: Path, kind: str = "masked_prediction", **changes: object) -> PretrainConfig:
        config = pretrain_config(out, kind, encoder=None, train=TrainConfig(steps=1, log_every=1))
        return dataclasses.replace(config, optim=OptimConfig(lr=0.0), **changes)

    return make


@pytest.mark.parametrize("kind", METHODS)
def test_pretraining_goes_on_from_a_model_with_its_head(pretrain_config, untouched, tmp_path, kind):
    pretrain(pretrain_config(tmp_path / "first", kind))
    pretrain(untouched(tmp_path / "second", kind, checkpoint=tmp_path / "first"))
    first, second = parameters_of(tmp_path / "first"), parameters_of(tmp_path / "second")
    assert first.keys() == second.keys()
    moving = ("objective.teacher.", "objective.head.codebooks.")  # without a learning rate, too
    assert all(torch.equal(first[name], second[name]) for name in first if not name.startswith(moving))
    for name in (name for name in first if name.startswith("objective.teacher.")):  # 0.1 % of the way to the student
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", METHODS)
def test_a_fresh_head_is_drawn_anew_and_the_trunk_kept(pretrain_config, untouched, tmp_path, kind):
    pretrain(pretrain_config(tmp_path / "first", kind))
    pretrain(untouched(tmp_path / "second", kind, checkpoint=tmp_path / "first", fresh_head=True))
    first, second = parameters_of(tmp_path / "first"), parameters_of(tmp_path / "second")
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed
    assert all(name.startswith("objective.") for name in changed)


def test_a_head_of_the_other_method_cannot_be_kept(untouched, pretrained, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"made with objective\.kind=\w+, this recipe says \w+; set fresh_head=true"
    ):
        pretrain(untouched(tmp_path / "run", "contrastive", checkpoint=pretrained))
    pretrain(untouched(tmp_path / "again", "contrastive", checkpoint=pretrained, fresh_head=True))


def test_the_architecture_comes_from_the_checkpoint_or_from_the_recipe_not_from_both(pretrain_config, pretrained):
    with pytest.raises(ConfigError, match="encoder comes from the checkpoint; remove one of the two keys"):
        pretrain_config(pretrained / "other", checkpoint=pretrained)


def test_speed_is_refused_where_labels_are_of_frames(pretrain_config, tmp_path):
    labelled = pretrain_config(tmp_path / "run", "masked_prediction")
    assert labelled.labels
    with pytest.raises(ConfigError, match=r"labels belong to the frames of the audio as recorded; remove augment\.sp"):
        dataclasses.replace(labelled, augment=AugmentConfig(speeds=(0.9, 1.1)))
    assert dataclasses.replace(labelled, augment=AugmentConfig(speeds=(1.0,), gain_db=(-3.0, 0.0)))


def test_a_run_at_several_speeds_hears_other_audio_and_resumes_bit_for_bit(pretrain_config, tmp_path):
    augment = AugmentConfig(speeds=(0.9, 1.0, 1.1), gain_db=(-6.0, 6.0))
    config = pretrain_config(tmp_path / "run", "contrastive", train=TrainConfig(steps=3))
    plain = read_state(pretrain(config))
    config = dataclasses.replace(config, out=tmp_path / "straight", augment=augment)
    straight = pretrain(config)
    assert read_state(straight).audio_seconds != plain.audio_seconds
    parts = dataclasses.replace(config, out=tmp_path / "parts", train=TrainConfig(steps=3, save_every=1))
    last = pretrain(parts)
    shutil.rmtree(last)
    shutil.rmtree(tmp_path / "parts/step_00000002", ignore_errors=True)
    expected, found = (load_tensors(run / "model.safetensors") for run in (straight, pretrain(parts)))
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())


def test_a_key_that_keeps_a_head_from_being_kept_is_named(pretrain_config, untouched, pretrained, tmp_path):
    linear = MaskedPredictionConfig(mask=pretrain_config(tmp_path).objective.mask, logits="linear")
    pretrain(pretrain_config(tmp_path / "first", objective=linear))
    message = (
        r"its head was made with objective\.logits=linear, this recipe says cosine; set objective\.logits=linear to"
    )
    with pytest.raises(CheckpointError, match=message):
        pretrain(untouched(tmp_path / "second", checkpoint=tmp_path / "first"))
    pretrain(untouched(tmp_path / "second", checkpoint=tmp_path / "first", objective=linear))
    wider = dataclasses.replace(pretrain_config(tmp_path).objective, dim=16)
    with pytest.raises(CheckpointError, match=r"made with objective\.dim=8, this recipe says 16; set objective\.dim=8"):
        pretrain(untouched(tmp_path / "third", checkpoint=pretrained, objective=wider))


def test_a_head_with_another_decoder_or_without_one_is_named(pretrain_config, untouched, tmp_path):
    plain = pretrain_config(tmp_path).objective
    seen, deeper = (dataclasses.replace(plain, visible=VisibleConfig(layers=layers, groups=2)) for layers in (1, 2))
    for name, objective in {"plain": plain, "seen": seen}.items():
        pretrain(pretrain_config(tmp_path / name, objective=objective))
    for start, objective, message in (
        ("plain", seen, r"trained without objective\.visible, and has no decoder; remove objective\.visible"),
        ("seen", plain, r"made with objective\.visible\.decoder=conv and .* set objective\.visible\.decoder=conv "),
        (
            "seen",
            deeper,
            r"made with objective\.visible\.layers=1, this recipe says 2; set objective\.visible\.layers=1",
        ),
    ):
        with pytest.raises(CheckpointError, match=message):
            pretrain(untouched(tmp_path / "run", checkpoint=tmp_path / start, objective=objective))


def test_convolutions_for_log_mel_input_on_waveforms_are_noted():
    of_log_mel = EncoderConfig(input="log_mel", conv=((8, 3, 2), (8, 3, 2)))
    assert not too_many_frames(EncoderConfig.base())
    assert not too_many_frames(of_log_mel)
    (note,) = too_many_frames(dataclasses.replace(of_log_mel, input="waveform"))
    assert "makes 4000 frames a second, expected 25 to 100" in note
    assert "set encoder.input=log_mel" in note


def test_settings_in_which_a_kept_head_is_used_otherwise_are_told(untouched, pretrained, tmp_path, capfd):
    config = untouched(tmp_path / "run", checkpoint=pretrained)
    pretrain(dataclasses.replace(config, objective=dataclasses.replace(config.objective, temperature=0.2)))
    assert "its head is kept, with other settings: objective.temperature was 0.1, is 0.2" in capfd.readouterr().err


def test_a_wav2vec2_run_with_few_hours_planned_names_other_methods_when_it_begins(pretrain_config, tmp_path, capfd):
    config = pretrain_config(tmp_path / "run", "contrastive")
    pretrain(config)
    seconds = config.batch.seconds * config.train.accumulate
    hours = f"{config.train.steps * seconds / 3600:,.0f} h seen: wav2vec 2.0 needs more before ten labelled minutes"
    said = capfd.readouterr().err
    assert f"preflight: {config.train.steps} steps of {seconds:g} s are planned, {hours}" in said
    assert "take HuBERT or BEST-RQ" in said
    pretrain(config)  # which is finished
    pretrain(dataclasses.replace(config, out=tmp_path / "more", checkpoint=tmp_path / "run", encoder=None))
    pretrain(pretrain_config(tmp_path / "hubert"))
    assert "h seen" not in capfd.readouterr().err


@pytest.mark.parametrize(("world_size", "is_enough"), [(1, False), (2, True)])
def test_the_hours_planned_are_those_of_all_ranks_and_micro_batches(pretrain_config, tmp_path, world_size, is_enough):
    config = pretrain_config(tmp_path, "contrastive", batch=BatchConfig(seconds=90.0))
    config = dataclasses.replace(config, train=TrainConfig(steps=30_000, accumulate=3))  # 2,250 h on one rank
    assert (too_few_hours(config, world_size) == []) == is_enough


def test_a_model_that_is_continued_with_a_teacher_is_its_first_teacher(
    pretrain_config, pretrained, untouched, tmp_path
):
    pretrain(untouched(tmp_path / "run", "teacher", checkpoint=pretrained, fresh_head=True))
    found = parameters_of(tmp_path / "run")
    teacher = {name: tensor for name, tensor in found.items() if name.startswith("objective.teacher.")}
    assert teacher
    for name, tensor in teacher.items():
        torch.testing.assert_close(tensor, found[name.replace("objective.teacher.", "encoder.")])
