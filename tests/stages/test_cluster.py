"""Stage cluster: audio to k-means to frame labels."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

import speechssl
from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data.labels import read_labels
from speechssl.data.manifest import read_manifest
from speechssl.errors import AudioError, CheckpointError, ConfigError, LabelError
from speechssl.features.feature_folder import FeatureFolder
from speechssl.stages import cluster as label_parts
from speechssl.stages import cluster as stage
from speechssl.stages.cluster import cluster
from speechssl.stages.feature_source import ExtractConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.units.feature_shards import ShardPoints
from speechssl.units.kmeans import KMeans
from speechssl.units.mfcc import mfcc
from tests.model.precisions import skip_without


def test_every_utterance_gets_a_unit_for_each_mfcc_frame(units, corpus):
    labels = read_labels(units)
    labels.check(read_manifest(corpus), where="units")
    assert (labels.source.clusters, labels.source.hop, labels.source.window) == (5, 160, 400)
    assert labels.source.features == "mfcc"
    assert {int(unit) for row in labels.units.values() for unit in row} == {0, 1, 2, 3, 4}


def test_the_labels_name_the_k_means_beside_them(units):
    assert read_labels(units).source.kmeans == KMeans.load(units.parent / "kmeans.safetensors").fingerprint


def test_a_second_run_elsewhere_gives_the_same_file(units, cluster_config, tmp_path):
    assert cluster(cluster_config(tmp_path / "run")).read_bytes() == units.read_bytes()


def test_a_layer_of_a_checkpoint_gives_a_unit_for_each_of_its_frames(cluster_config, pretrained, corpus, tmp_path):
    labels = read_labels(
        cluster(cluster_config(tmp_path / "run", features="layer", checkpoint=pretrained, layer=2, clusters=4))
    )
    labels.check(read_manifest(corpus), where="units")
    assert (labels.source.hop, labels.source.window) == (320, 325)
    assert labels.source.features == "run/step_00000003 layer 2"


def test_units_of_centred_mfcc_say_so_and_differ(units, cluster_config, tmp_path):
    labels = read_labels(cluster(cluster_config(tmp_path / "run", cmn=True)))
    kmeans = KMeans.load(tmp_path / "run/kmeans.safetensors")
    assert (labels.source.features, kmeans.provenance_.source) == ("mfcc, cmn", "mfcc, cmn")
    assert kmeans.provenance_.settings == {"dim": 39, "hop": 160, "window": 400, "cmn": True}
    assert (
        kmeans.cluster_centers_.mean(0).abs().max()
        < KMeans.load(units.parent / "kmeans.safetensors").cluster_centers_.mean(0).abs().max()
    )


def test_units_of_fewer_bits_say_so_and_label_features_of_those_bits_only(cluster_config, pretrained, corpus, tmp_path):
    skip_without("bfloat16")
    rounded = ExtractConfig(precision="bfloat16")
    config = cluster_config(
        tmp_path / "run", features="layer", checkpoint=pretrained, layer=2, clusters=4, extract=rounded
    )
    cluster(config)
    kmeans = KMeans.load(tmp_path / "run/kmeans.safetensors")
    assert kmeans.provenance_.settings["bfloat16"] is True
    waveform = torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    assert len(speechssl.load(pretrained, precision="bfloat16").units(waveform, 16_000, kmeans=kmeans).ids)
    with pytest.raises(LabelError, match="bfloat16"):
        speechssl.load(pretrained).units(waveform, 16_000, kmeans=kmeans)


def test_a_layer_is_not_centred(cluster_config, pretrained, tmp_path):
    with pytest.raises(ConfigError, match="cmn=true is for mfcc and log_mel"):
        cluster_config(tmp_path / "run", features="layer", checkpoint=pretrained, cmn=True)


def test_layers_differ(cluster_config, pretrained, tmp_path):
    paths = [
        cluster(cluster_config(tmp_path / f"{layer}", features="layer", checkpoint=pretrained, layer=layer))
        for layer in (1, 2)
    ]
    first, second = (read_labels(path).source.kmeans for path in paths)
    assert first != second


@pytest.mark.parametrize("layer", [0, 3])
def test_a_layer_that_the_checkpoint_lacks_is_refused(cluster_config, pretrained, tmp_path, layer):
    config = cluster_config(tmp_path / "run", features="layer", checkpoint=pretrained, layer=layer)
    with pytest.raises(LabelError, match=rf"run/step_00000003 has layers 1 to 2, the recipe asks for \[{layer}\]"):
        cluster(config)


def test_a_finished_run_is_not_done_again(units, cluster_config, monkeypatch):
    monkeypatch.setattr(stage, "read_data", lambda _: pytest.fail("read the corpus again"))
    assert cluster(cluster_config(units.parent)) == units


def test_a_run_interrupted_after_k_means_keeps_the_centroids(units, cluster_config, tmp_path, monkeypatch):
    path = cluster(cluster_config(tmp_path / "run"))
    path.unlink()
    monkeypatch.setattr(stage, "fit_kmeans", lambda *_, **__: pytest.fail("fitted again"))
    assert cluster(cluster_config(tmp_path / "run")).read_bytes() == units.read_bytes()


def test_another_number_of_units_does_not_overwrite_a_run(units, cluster_config):
    with pytest.raises(CheckpointError, match=r"another configuration \(clusters was 5, is 6\)"):
        cluster(cluster_config(units.parent, clusters=6))


def test_too_little_audio_for_the_clusters_is_refused(cluster_config, tmp_path):
    with pytest.raises(LabelError, match="frames cannot make 100000 clusters; give more audio or fewer clusters"):
        cluster(cluster_config(tmp_path / "run", clusters=100_000))


def test_centroids_are_fitted_on_so_many_hours_only(cluster_config, tmp_path, monkeypatch, corpus):
    frames = []
    fit = stage.fit_kmeans
    monkeypatch.setattr(
        stage,
        "fit_kmeans",
        lambda features, *args, **kwargs: (frames.append(len(features)), fit(features, *args, **kwargs))[1],
    )
    cluster(cluster_config(tmp_path / "all"))
    cluster(cluster_config(tmp_path / "some", fit_hours=2.0 / 3600))
    whole = sum((row.num_samples - 400) // 160 + 1 for row in read_manifest(corpus).utterances)
    assert frames[0] == whole
    assert 190 <= frames[1] <= 300  # whole utterances of less than a second, until two seconds are full


@pytest.fixture
def spoilt(tmp_path, make_corpus) -> Path:
    """Give the manifest of a corpus with an empty file, a silent one and one too short for a frame."""
    manifest = make_corpus(tmp_path / "spoilt", [8000, 9000, 10_000, 11_000, 12_000, 300])
    (manifest.parent / "u0001.wav").write_bytes(b"")
    silent = (manifest.parent / "u0003.wav").read_bytes()
    (manifest.parent / "u0003.wav").write_bytes(silent[:44] + bytes(len(silent) - 44))
    return manifest


def test_bad_audio_stops_by_default_and_is_named(cluster_config, spoilt, tmp_path):
    with pytest.raises(AudioError, match=r"empty \(0 bytes\): \S+u0001\.wav; .*\n.* shorter .*: u0005; remove"):
        cluster(cluster_config(tmp_path / "run", data=DataConfig(manifests=(spoilt,))))
    assert not (tmp_path / "run/labels.tsv").exists()


def test_bad_audio_is_skipped_counted_and_listed_when_asked_for(cluster_config, spoilt, tmp_path, capfd):
    path = cluster(cluster_config(tmp_path / "run", data=DataConfig(manifests=(spoilt,), bad_audio="skip")))
    assert sorted(read_labels(path).units) == ["u0000", "u0002", "u0004"]
    said = capfd.readouterr()
    for reason in ("u0001.wav: the file is empty", "u0003.wav: silent", "u0005.wav: 300 samples"):
        assert reason in "".join((said.out + said.err).split("\n"))
    assert "left out, bad audio: 3 utterances: u0001, u0003, u0005" in said.err


def test_audio_is_read_under_the_rules_of_the_recipe(cluster_config, corpus, tmp_path):
    data = DataConfig(manifests=(corpus,), audio=AudioConfig(max_duration_s=0.55))
    with pytest.raises(AudioError, match=r"7 of 8 .* last longer than 0\.55 s: .*data\.audio\.max_duration_s=1$"):
        cluster(cluster_config(tmp_path / "run", data=data))


def test_units_are_measured_against_phones(cluster_config, corpus, tmp_path):
    rows = read_manifest(corpus).utterances
    phones = tmp_path / "phones.tsv"
    phones.write_text("id\tphones\n" + "".join(f"{row.id}\t0.2:a {row.duration_s}:b\n" for row in rows))
    cluster(cluster_config(tmp_path / "run", phones=phones))
    quality = json.loads((tmp_path / "run/quality.json").read_text())
    assert 0 <= quality["pnmi"] <= 1
    assert quality["used"] == 5
    assert quality["frames"] == sum(len(row) for row in read_labels(tmp_path / "run/labels.tsv").units.values())


def test_a_bigger_corpus_of_several_manifests_is_labelled_together(cluster_config, corpus, tmp_path, make_corpus):
    other = make_corpus(tmp_path / "other", [8000, 8100])
    text = other.read_text().replace("u000", "v000").replace("v0000.wav", "u0000.wav").replace("v0001.wav", "u0001.wav")
    other.write_text(text)
    config = cluster_config(tmp_path / "run")
    config = dataclasses.replace(config, data=DataConfig(manifests=(corpus, other)))
    assert set(read_labels(cluster(config)).units) == {*(f"u{i:04d}" for i in range(8)), "v0000", "v0001"}


def test_existing_centroids_label_other_audio_with_the_same_units(units, cluster_config, tmp_path, make_corpus):
    other = DataConfig(manifests=(make_corpus(tmp_path / "other", [8000, 8100]),))
    config = cluster_config(tmp_path / "run", data=other, kmeans=units.parent / "kmeans.safetensors", clusters=100)
    found = read_labels(cluster(config))
    assert found.source == read_labels(units).source
    assert sorted(found.units) == ["u0000", "u0001"]
    assert found.units["u0000"].tolist() == read_labels(units).units["u0000"].tolist()  # the same audio
    assert (tmp_path / "run/kmeans.safetensors").exists()


def test_centroids_of_other_features_are_refused(units, cluster_config, pretrained, tmp_path):
    kmeans = units.parent / "kmeans.safetensors"
    with pytest.raises(LabelError, match=r"fitted on mfcc, these are mfcc, cmn \(cmn was False, is True\)"):
        cluster(cluster_config(tmp_path / "cmn", kmeans=kmeans, cmn=True))
    with pytest.raises(LabelError, match=r"dim was 39, is 80"):
        cluster(cluster_config(tmp_path / "log_mel", kmeans=kmeans, features="log_mel"))
    with pytest.raises(
        LabelError, match=r"these are run/step_00000003 layer 1 \(dim was 39, is 32, frames a second was"
    ):
        cluster(cluster_config(tmp_path / "layer", kmeans=kmeans, features="layer", checkpoint=pretrained, layer=1))
    layer = cluster(cluster_config(tmp_path / "one", features="layer", checkpoint=pretrained, layer=1))
    again = {"features": "layer", "checkpoint": pretrained, "kmeans": layer.parent / "kmeans.safetensors"}
    with pytest.raises(LabelError, match=r"layer was 1, is 2.*use the features and the checkpoint it was fitted on"):
        cluster(cluster_config(tmp_path / "two", layer=2, **again))


def test_a_missing_k_means_is_named(cluster_config, tmp_path):
    with pytest.raises(LabelError, match=r"missing\.safetensors: cannot read the k-means"):
        cluster(cluster_config(tmp_path / "run", kmeans=tmp_path / "missing.safetensors"))


def test_a_missing_model_is_named(cluster_config, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: no such file or folder"):
        cluster(cluster_config(tmp_path / "run", features="layer", checkpoint=tmp_path / "nowhere", layer=1))


def test_audio_that_is_not_a_number_is_named(cluster_config, tmp_path, make_corpus):
    manifest = make_corpus(tmp_path / "spoilt", [8000] * 3)
    samples = np.full(8000, 0.1, dtype=np.float32)
    samples[5] = np.nan
    soundfile.write(str(manifest.parent / "u0001.wav"), samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"u0001\.wav: holds NaN or infinite samples"):
        cluster(cluster_config(tmp_path / "run", data=DataConfig(manifests=(manifest,))))


def test_a_sample_of_frames_is_fitted_on(cluster_config, tmp_path, monkeypatch):
    frames = []
    fit = stage.fit_kmeans
    monkeypatch.setattr(stage, "fit_kmeans", lambda sample, *args: (frames.append(sample), fit(sample, *args))[1])
    cluster(cluster_config(tmp_path / "some", fit_frames=50))
    cluster(cluster_config(tmp_path / "more", fit_frames=60))
    assert [sample.shape for sample in frames] == [(50, 39), (60, 39)]
    assert frames[0].tolist() == frames[1][:50].tolist()
    with pytest.raises(ConfigError, match="fit_frames=4 cannot make 5 clusters"):
        cluster_config(tmp_path / "few", fit_frames=4)


def test_an_interrupted_run_keeps_the_labels_it_has(units, cluster_config, tmp_path, monkeypatch):
    monkeypatch.setattr(label_parts, "_LABELS_A_PART", 100)
    extract, labelled = stage.extract, []

    def until_the_fourth(*args, title, **kwargs):
        for piece in extract(*args, title=title, **kwargs):
            if title == "labels":
                labelled.append(piece.row.id)
                if len(labelled) == 4:
                    raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(stage, "extract", until_the_fourth)
    config = cluster_config(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        cluster(config)
    assert cluster(config).read_bytes() == units.read_bytes()
    assert labelled == [f"u{i:04d}" for i in (0, 1, 2, 3, 2, 3, 4, 5, 6, 7)]  # two fill a part
    assert not (tmp_path / "run/parts").exists()


def test_a_checkpoint_that_changed_under_an_interrupted_run_is_refused(cluster_config, pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "model")
    config = cluster_config(tmp_path / "run", features="layer", checkpoint=tmp_path / "model", layer=1)
    cluster(config).unlink()
    path = next((tmp_path / "model").glob("step_*/model.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(LabelError, match=r"checkpoint was '.*', is '.*'.*or fit again with another out"):
        cluster(config)


@pytest.mark.parametrize(("dump", "tolerance"), [("float16", 0.01), ("float32", 0.0)])
def test_features_are_dumped_when_asked_for_with_whose_they_are(cluster_config, tmp_path, corpus, dump, tolerance):
    cluster(cluster_config(tmp_path / "run", dump=dump))
    folder = FeatureFolder(tmp_path / "run/features")
    manifest = read_manifest(corpus)
    assert [*folder.entries] == [row.id for row in manifest.utterances]
    first = mfcc(read_audio(manifest.audio_path(manifest.utterances[0]), AudioConfig()))
    assert folder.entries["u0000"].frames == len(first)
    points = ShardPoints(tmp_path / "run/features/mfcc")
    assert len(points) == folder.description.frames
    torch.testing.assert_close(points.gather(torch.arange(len(first))), first, rtol=tolerance, atol=tolerance)


def test_features_that_a_run_dumped_are_those_of_its_layer(cluster_config, pretrained, tmp_path):
    config = cluster_config(tmp_path / "run", features="layer", checkpoint=pretrained, layer=1, dump="float32")
    labels = cluster(config).read_bytes()
    again = cluster_config(tmp_path / "again", features=tmp_path / "run/features", layer=1)
    assert cluster(again).read_bytes() == labels


def test_nothing_is_dumped_unasked(units):
    names = sorted(path.name for path in units.parent.iterdir())
    assert names == [".lock", "config.json", "kmeans.safetensors", "labels.tsv"]
