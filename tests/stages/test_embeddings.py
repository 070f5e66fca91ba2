"""Pooled features of utterances."""

import numpy as np
import pytest

from speechssl.data.manifest import read_manifest
from speechssl.errors import AudioError, ConfigError, LabelError
from speechssl.stages.embeddings import EmbeddingConfig, embed, embedding_source
from speechssl.stages.extract import ExtractFeaturesConfig, extract_features
from speechssl.stages.feature_source import ExtractConfig, extract
from speechssl.stages.reading_data import DataConfig, read_data


@pytest.fixture
def data(corpus):
    return DataConfig(manifests=(corpus,))


def embedded(config, data, manifest=None):
    manifest = manifest or read_data(data)
    return embed(embedding_source(config, data), config, data, manifest, manifest.utterances)


@pytest.mark.parametrize("pool", ["mean", "mean_std"])
def test_frames_are_pooled_whole_and_in_windows(data, pretrained, pool):
    whole = EmbeddingConfig(model=str(pretrained), layers="all", pool=pool)
    found = embedded(whole, data)
    manifest = read_data(data)
    pieces = list(extract(embedding_source(whole, data), data, manifest, manifest.utterances, title="slow"))
    for layer in (1, 2):
        wanted = [piece.layers[layer - 1].double().numpy() for piece in pieces]
        rows = [np.concatenate([x.mean(0), x.std(0)]) if pool == "mean_std" else x.mean(0) for x in wanted]
        np.testing.assert_allclose(found.layers[layer], rows, atol=1e-6)
    assert [piece.row.id for piece in pieces] == [*found.ids]
    cut = EmbeddingConfig(
        model=str(pretrained), layers="all", pool=pool, extract=ExtractConfig(window_s=0.4, overlap_s=0.1)
    )
    assert embedded(cut, data).layers[2].shape == found.layers[2].shape


def test_the_last_layer_is_the_default_and_random_weights_are_others(data, pretrained):
    last = embedded(EmbeddingConfig(model=str(pretrained)), data)
    assert [*last.layers] == [2]
    random = embedded(EmbeddingConfig(model=str(pretrained), random_weights=1), data)
    assert random.titles == {2: "random weights layer 2"}
    assert not np.allclose(random.layers[2], last.layers[2])


def test_a_weighted_sum_is_that_of_the_means(data, pretrained):
    every = embedded(EmbeddingConfig(model=str(pretrained), layers="all"), data).layers
    mixed = embedded(EmbeddingConfig(model=str(pretrained), layers="weighted", weights=(0.25, 0.75)), data).layers
    np.testing.assert_allclose(mixed[0], 0.25 * every[1] + 0.75 * every[2], atol=1e-6)
    with pytest.raises(LabelError, match="has 2 layers, 1 weights were given"):
        embedded(EmbeddingConfig(model=str(pretrained), layers="weighted", weights=(1.0,)), data)


@pytest.mark.parametrize("pool", ["none", "mean"])
def test_a_folder_of_features_gives_the_same_embeddings(data, pretrained, tmp_path, pool):
    folder = extract_features(
        ExtractFeaturesConfig(out=tmp_path / "f", data=data, model=str(pretrained), layers="all", pool=pool)
    )
    computed = embedded(EmbeddingConfig(model=str(pretrained), layers="all"), data)
    read = embedded(EmbeddingConfig(model=str(folder), layers="all"), data)
    for layer in (1, 2):
        np.testing.assert_allclose(read.layers[layer], computed.layers[layer], atol=1e-6)
    assert [*embedded(EmbeddingConfig(model=str(folder)), data).layers] == [2]
    if pool == "mean":
        with pytest.raises(ConfigError, match="holds means, of which there is no deviation"):
            embedded(EmbeddingConfig(model=str(folder), pool="mean_std"), data)


def test_audio_without_a_frame_stops_or_is_left_out(tmp_path, make_corpus):
    path = make_corpus(tmp_path, [8000, 100, 9000])
    manifest = read_manifest(path)
    stop, skip = (DataConfig(manifests=(path,), bad_audio=what) for what in ("stop", "skip"))
    with pytest.raises(AudioError, match="1 of 3 utterances are shorter than the 400 samples"):
        embedded(EmbeddingConfig(model="mfcc"), stop, manifest)
    found = embedded(EmbeddingConfig(model="mfcc"), skip, manifest)
    bad = manifest.utterances[1].id
    assert bad not in found.ids and bad in found.left_out
    assert found.layers[0].shape == (2, 39)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "mfcc", "layers": (1,)}, "mfcc has neither layers nor weights"),
        ({"model": "m", "cmn": True}, "cmn is for mfcc and log_mel"),
        ({"model": "mfcc", "cmn": True}, "the mean of every utterance is 0"),
        ({"model": "m", "weights": (1.0,)}, "weights are for layers=weighted"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        EmbeddingConfig(**wrong)
