"""What cluster and sweep share: speechssl.stages.feature_source."""

import dataclasses

import pytest
import torch

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data.manifest import read_manifest
from speechssl.errors import ConfigError
from speechssl.hub.saved import SavedModel
from speechssl.stages.feature_source import ExtractConfig, draw_hours, extract, front_end, trunk
from speechssl.stages.reading_data import DataConfig


def features_of(source, data, manifest):
    """Return the features of each utterance by id, its pieces put together, and how many pieces each had."""
    pieces: dict[str, list[list[torch.Tensor]]] = {}
    for piece in extract(source, data, manifest, manifest.utterances, title="test"):
        before = pieces.setdefault(piece.row.id, [])
        assert piece.start == sum(len(layers[0]) for layers in before)
        before.append(piece.layers)
        held = sum(len(layers[0]) for layers in before)
        assert piece.is_last == (held == piece.num_frames == source.count(piece.row.num_samples_16k))
    joined = {key: [torch.cat(parts) for parts in zip(*layers, strict=True)] for key, layers in pieces.items()}
    return joined, {key: len(layers) for key, layers in pieces.items()}


@pytest.fixture
def corpus_data(corpus):
    return DataConfig(manifests=(corpus,)), read_manifest(corpus)


@pytest.fixture
def alone(pretrained, corpus_data):
    """Give both layers of every utterance, each by itself and whole."""
    _, manifest = corpus_data
    encoder = SavedModel.read(pretrained).encoder()
    found = {}
    for row in manifest.utterances:
        waveform = read_audio(manifest.audio_path(row), AudioConfig())
        with torch.no_grad():
            found[row.id] = [layer[0] for layer in encoder(waveform[None], torch.tensor([len(waveform)])).layers]
    return found


@pytest.mark.parametrize("batch_s", [0.0, 1.7, 100.0, None])
def test_batches_do_not_change_the_features_of_a_layer(pretrained, corpus_data, alone, batch_s):
    data, manifest = corpus_data
    source = trunk(SavedModel.read(pretrained), (1, 2), data, ExtractConfig(batch_s=batch_s))
    found, _ = features_of(source, data, manifest)
    assert found.keys() == alone.keys()
    for key, layers in found.items():
        for one, other in zip(layers, alone[key], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_batches_hold_no_more_audio_than_asked_for(pretrained, corpus_data):
    data, manifest = corpus_data
    source = trunk(SavedModel.read(pretrained), (1,), data, ExtractConfig(batch_s=1.7))
    sizes = []

    def spy(waveforms):
        sizes.append([len(waveform) for waveform in waveforms])
        return source.compute(waveforms)

    features_of(dataclasses.replace(source, compute=spy), data, manifest)
    assert [len(batch) for batch in sizes] == [1, 1, 2, 2, 2]  # 0.94, 0.88, 0.81, ... 0.5 s
    assert all(len(batch) == 1 or max(batch) * len(batch) <= 1.7 * 16_000 for batch in sizes)


def test_a_model_that_counts_padding_gets_one_utterance_at_a_time(pretrained, corpus_data):
    saved = SavedModel.read(pretrained)
    encoder = dataclasses.replace(saved.description.encoder, padding_in_norm=True)
    saved = dataclasses.replace(saved, description=dataclasses.replace(saved.description, encoder=encoder))
    assert trunk(saved, (1,), corpus_data[0], ExtractConfig(batch_s=100.0)).batch == 0


def test_only_longer_utterances_go_through_windows_and_keep_their_number_of_frames(pretrained, corpus_data, alone):
    data, manifest = corpus_data
    config = ExtractConfig(window_s=0.7, overlap_s=0.3, batch_s=100.0)
    found, counts = features_of(trunk(SavedModel.read(pretrained), (1, 2), data, config), data, manifest)
    for row in manifest.utterances:
        assert (counts[row.id] > 1) == (row.duration_s > 0.7)
        assert len(found[row.id][0]) == len(found[row.id][1]) == len(alone[row.id][0])
        if row.duration_s <= 0.7:
            torch.testing.assert_close(found[row.id], alone[row.id], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window_s", [0.7, 60.0])
def test_16_bits_change_features_by_rounding_and_are_named(pretrained, corpus_data, alone, window_s):
    data, manifest = corpus_data
    config = ExtractConfig(precision="bfloat16", batch_s=100.0, window_s=window_s, overlap_s=0.3)
    source = trunk(SavedModel.read(pretrained), (2,), data, config)
    assert source.about(2)["bfloat16"] is True
    found, _ = features_of(source, data, manifest)
    for row in manifest.utterances:
        if row.duration_s <= window_s:
            exact, (rounded,) = alone[row.id][1], found[row.id]
            assert rounded.dtype == torch.float32
            assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize(("kind", "dim"), [("mfcc", 39), ("log_mel", 80)])
def test_a_front_end_says_what_it_is(corpus_data, kind, dim):
    data, manifest = corpus_data
    plain, centred = (front_end(kind, data.audio, cmn=cmn) for cmn in (False, True))
    assert (plain.name, centred.name) == (kind, f"{kind}, cmn")
    assert plain.about(0) == {"dim": dim, "hop": 160, "window": 400}
    assert centred.about(0) == plain.about(0) | {"cmn": True}
    (found, _), (expected, _) = (features_of(source, data, manifest) for source in (centred, plain))
    for key, (features,) in expected.items():
        torch.testing.assert_close(found[key][0], features - features.mean(0))


def test_loudness_is_part_of_a_front_end():
    assert front_end("mfcc", AudioConfig(normalize=True)).about(0)["normalize"] is True


def test_layers_of_one_model_are_told_apart(pretrained, corpus_data):
    source = trunk(SavedModel.read(pretrained), (1, 2), corpus_data[0], ExtractConfig())
    assert source.about(1) == {"checkpoint": SavedModel.read(pretrained).fingerprint(), "layer": 1}
    assert source.title(2) == "run/step_00000003 layer 2"


@pytest.mark.parametrize("overlap_s", [60.0, 61.0, -1.0])
def test_windows_that_do_not_advance_are_refused(overlap_s):
    with pytest.raises(ConfigError, match=r"overlap_s must be less than window_s \(60\.0\)"):
        ExtractConfig(overlap_s=overlap_s)


def test_hours_are_whole_utterances_drawn_by_seed(make_utterances):
    rows = make_utterances([16_000] * 20)
    chosen = draw_hours(rows, 4.5 / 3600, seed=0, purpose="test")
    assert len(chosen) == len({row.id for row in chosen}) == 5
    assert chosen == draw_hours(rows, 20 / 3600, seed=0, purpose="test")[:5]
    assert chosen != draw_hours(rows, 4.5 / 3600, seed=1, purpose="test")


def test_random_weights_of_two_architectures_are_told_apart(pretrained, corpus_data):
    saved = SavedModel.read(pretrained)
    transformer = dataclasses.replace(saved.description.encoder.transformer, num_heads=1)
    encoder = dataclasses.replace(saved.description.encoder, transformer=transformer)
    other = dataclasses.replace(saved, description=dataclasses.replace(saved.description, encoder=encoder))
    one, two = (
        trunk(each, (1,), corpus_data[0], ExtractConfig(), untrained_seed=0).settings for each in (saved, other)
    )
    assert one["seed"] == two["seed"]
    assert one["encoder"] != two["encoder"]
