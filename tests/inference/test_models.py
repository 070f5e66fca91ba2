"""Models in memory give what the commands give, bit for bit, for one utterance and several, files and arrays."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import speechssl
from speechssl.data.labels import read_labels
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Manifest
from speechssl.errors import AudioError, CheckpointError, ConfigError, LabelError, ManifestError, VocabularyError
from speechssl.features.feature_folder import FeatureFolder
from speechssl.hub.saved import SavedModel
from speechssl.inference.results import FrameTimes, Units
from speechssl.stages.align import align
from speechssl.stages.cluster import ClusterConfig, cluster
from speechssl.stages.convert import convert
from speechssl.stages.extract import ExtractFeaturesConfig, extract_features
from speechssl.stages.feature_source import ExtractConfig, extract, trunk
from speechssl.stages.posteriors import PosteriorConfig, log_posteriors
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.transcribe import transcribe
from speechssl.units.kmeans import KMeans
from tests.conftest import voice
from tests.hub.models import model_of
from tests.model.precisions import skip_without


@pytest.fixture(scope="module")
def corpus(make_corpus, tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), [70_000, 8_000, 12_345, 9_000, 12_345])


@pytest.fixture(scope="module")
def models(tiny_encoder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for method in ("encoder", "wav2vec2", "hubert", "ctc"):
        model_of(method, tiny_encoder).write(folder / method)
    return folder


def arrays(manifest: Path) -> list[np.ndarray]:
    listed = read_manifest(manifest)
    return [soundfile.read(listed.audio_path(row), dtype="int16")[0] for row in listed.utterances]


def commanded(model: Path, manifest: Path, layers: tuple[int, ...]) -> list[list[Tensor]]:
    """Compute what `cluster` computes."""
    listed, data = read_manifest(manifest), DataConfig(manifests=(manifest,))
    source = trunk(SavedModel.read(model), layers, data, ExtractConfig())
    return [[*piece.layers] for piece in extract(source, data, listed, listed.utterances, title="")]


def test_features_are_those_of_the_commands(models, corpus):
    model, both = speechssl.load(models / "hubert"), commanded(models / "hubert", corpus, (1, 2))
    samples, manifest = arrays(corpus), read_manifest(corpus)
    for found in (
        model.features(samples, 16_000, layers="all"),
        model.features(manifest, layers="all"),
        model.features([manifest.audio_path(row) for row in manifest.utterances], layers=[1, 2]),
    ):
        assert len(found) == len(both)
        for ours, theirs in zip(found, both, strict=True):
            assert torch.equal(ours.values, torch.stack(theirs))
            assert ours.layers == (1, 2)


def test_one_utterance_gives_one_result(models, corpus):
    model, samples = speechssl.load(models / "encoder"), arrays(corpus)[1]
    ((first, last),) = commanded(models / "encoder", corpus, (1, 2))[1:2]
    assert torch.equal(model.features(samples, 16_000).values, last)
    assert torch.equal(model.features(torch.from_numpy(samples), 16_000, layers=1).values, first)
    assert torch.equal(model.features({"array": samples, "sampling_rate": 16_000}, layers=np.int64(1)).values, first)
    assert torch.equal(model.features(samples, 16_000, layers=[2, 1]).values, torch.stack([last, first]))
    assert model.features(samples, 16_000, layers=[1]).values.shape == (1, *first.shape)
    mean = model.features(samples, 16_000, layers="weighted").values
    assert torch.allclose(mean, (first + last) / 2, atol=1e-6)
    mean = model.features(samples, 16_000, layers="weighted", weights=[1, 3]).values
    assert torch.allclose(mean, 0.25 * first + 0.75 * last, atol=1e-6)
    assert torch.equal(model.features(samples, 16_000).mean(), last.mean(0))


def test_weighted_layers_are_those_of_extract(models, corpus, tmp_path):
    data = DataConfig(manifests=(corpus,))
    config = ExtractFeaturesConfig(
        out=tmp_path, data=data, model=str(models / "hubert"), layers="weighted", weights=(0.25, 0.75)
    )
    written = dict(FeatureFolder(extract_features(config)).read())
    found = speechssl.load(models / "hubert").features(read_manifest(corpus), layers="weighted", weights=(0.25, 0.75))
    for row, ours in zip(read_manifest(corpus).utterances, found, strict=True):
        assert torch.equal(ours.values, torch.as_tensor(written[row.id]))


def test_long_audio_goes_through_windows_as_in_the_commands(models, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, voice(70 * 16_000), 16_000)
    manifest = tmp_path / "long.tsv"
    manifest.write_text("id\tpath\tsamples\trate\tchannels\nlong\tlong.wav\t1120000\t16000\t1\n")
    pieces = commanded(models / "hubert", manifest, (2,))
    assert len(pieces) > 1
    found = speechssl.load(models / "hubert").features(path, layers=2)
    assert torch.equal(found.values, torch.cat([piece[0] for piece in pieces]))


def test_frames_have_times(models, tiny_encoder):
    found = speechssl.load(models / "encoder").features(voice(8_000), 16_000)
    assert len(found.times_s) == len(found.values) == (8_000 - tiny_encoder.window) // tiny_encoder.hop + 1
    middle = [(i * tiny_encoder.hop + tiny_encoder.window / 2) / 16_000 for i in range(3)]
    assert found.times_s[:3].tolist() == pytest.approx(middle)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": 1.0}, r"layers=1\.0: expected a number, several"),
        ({"layers": 3}, "layers=3: hubert has the layers 1 to 2"),
        ({"layers": 0}, "has the layers 1 to 2"),
        ({"layers": []}, "has the layers 1 to 2"),
        ({"layers": "last"}, 'expected a number, several, "all" or "weighted"'),
        ({"layers": "weighted", "weights": [1]}, "weights: expected 2, one a layer"),
        ({"layers": "weighted", "weights": [1, -1]}, "whose sum is not 0"),
        ({"layers": 1, "weights": [1, 1]}, 'weights are for layers="weighted"'),
    ],
)
def test_layers_that_are_not_there_are_refused(models, asked, message):
    with pytest.raises(ConfigError, match=message):
        speechssl.load(models / "hubert").features(voice(8_000), 16_000, **asked)


def test_bad_audio_is_named(models):
    model = speechssl.load(models / "hubert")
    with pytest.raises(AudioError, match=r"array 1: 40 samples at 16000 Hz, expected at least \d+"):
        model.features([voice(8_000), voice(40)], 16_000)
    with pytest.raises(ConfigError, match="a manifest records its files' rates"):
        model.features(Manifest(root=Path(), utterances=()), 16_000)
    with pytest.raises(ConfigError, match="a manifest numbers them in its column `channel`"):
        model.features(Manifest(root=Path(), utterances=()), channels=1)


def test_narrowband_audio_is_refused_until_it_is_admitted(models):
    narrow = voice(8_000, rate=8_000)
    with pytest.raises(AudioError, match="8000 Hz, expected at least 16000"):
        speechssl.load(models / "hubert").features(narrow, 8_000)
    assert speechssl.load(models / "hubert", min_sample_rate=8_000).features(narrow, 8_000).values.ndim == 2


@pytest.mark.parametrize("features", ["layer", "mfcc"])
def test_units_are_the_labels_of_cluster(models, corpus, tmp_path, features):
    data = DataConfig(manifests=(corpus,))
    config = ClusterConfig(
        out=tmp_path,
        data=data,
        features=features,
        checkpoint=models / "hubert",
        layer=1,
        clusters=4,
        cmn=features != "layer",
    )
    labels = read_labels(cluster(config))
    model, manifest = speechssl.load(models / "hubert"), read_manifest(corpus)
    found = model.units(arrays(corpus), 16_000, kmeans=tmp_path / "kmeans.safetensors")
    for row, units in zip(manifest.utterances, found, strict=True):
        assert units.ids.tolist() == labels.units[row.id].tolist()
        assert units.num_units == 4
    first = model.units(arrays(corpus)[0], 16_000, kmeans=KMeans.load(str(tmp_path / "kmeans.safetensors")))
    assert torch.equal(first.ids, found[0].ids)


def test_units_of_another_model_are_refused(models, corpus, tmp_path):
    config = ClusterConfig(
        out=tmp_path,
        data=DataConfig(manifests=(corpus,)),
        features="layer",
        checkpoint=models / "hubert",
        layer=1,
        clusters=4,
    )
    cluster(config)
    with pytest.raises(LabelError, match=r"kmeans.safetensors: fitted on hubert layer 1, these are ctc layer 1"):
        speechssl.load(models / "ctc").units(voice(8_000), 16_000, kmeans=tmp_path / "kmeans.safetensors")


def test_a_k_means_of_ones_own_needs_its_layer(models, corpus):
    model = speechssl.load(models / "wav2vec2")
    features = [found.values for found in model.features(arrays(corpus), 16_000, layers=1)]
    kmeans = KMeans(n_clusters=3).fit(torch.cat(features))
    with pytest.raises(LabelError, match="does not record its layer; set layer="):
        model.units(arrays(corpus)[0], 16_000, kmeans=kmeans)
    found = model.units(arrays(corpus)[0], 16_000, kmeans=kmeans, layer=1)
    assert torch.equal(found.ids, kmeans.predict(features[0]))
    with pytest.raises(LabelError, match="centroids of 7 dimensions, wav2vec2 has 32"):
        model.units(voice(8_000), 16_000, kmeans=KMeans(n_clusters=2).fit(torch.randn(50, 7)), layer=1)


def test_a_masked_prediction_head_says_its_units(models):
    model, samples = speechssl.load(models / "hubert"), voice(8_000)
    found = model.units(samples, 16_000)
    expected = model.objective.logits(model.features(samples, 16_000).values)[0].argmax(-1)
    assert torch.equal(found.ids, expected)
    assert found.num_units == 5
    with pytest.raises(LabelError, match="has no head that predicts units; name a k-means"):
        speechssl.load(models / "wav2vec2").units(samples, 16_000)


def test_a_layer_is_of_a_k_means_and_agrees_with_it(models, corpus, tmp_path):
    model, samples = speechssl.load(models / "hubert"), voice(8_000)
    with pytest.raises(ConfigError, match="layer belongs to a k-means, and none is given"):
        model.units(samples, 16_000, layer=1)
    config = ClusterConfig(out=tmp_path, data=DataConfig(manifests=(corpus,)), clusters=4)
    cluster(config)
    with pytest.raises(LabelError, match="is of mfcc, no layer, found layer=1"):
        model.units(samples, 16_000, kmeans=tmp_path / "kmeans.safetensors", layer=1)
    with pytest.raises(LabelError, match="the k-means: is not fitted yet"):
        model.units(samples, 16_000, kmeans=KMeans(n_clusters=2), layer=1)


@pytest.mark.parametrize("name", ["transcribe", "align", "log_probs"])
def test_what_is_not_fine_tuned_says_so(models, name):
    with pytest.raises(AttributeError, match=f"hubert: is of kind hubert, and {name} needs a fine-tuned model"):
        getattr(speechssl.load(models / "hubert"), name)
    with pytest.raises(AttributeError, match="'Pretrained' object has no attribute 'transcrbe'"):
        speechssl.load(models / "hubert").transcrbe  # noqa: B018


def test_units_have_runs():
    units = Units(ids=torch.tensor([3, 3, 1, 3]), num_units=4, frames=FrameTimes.of(4, hop=320, window=400))
    assert units.merged() == [3, 1, 3]
    assert units.segments() == [
        (3, pytest.approx(0.0025), pytest.approx(0.0425)),
        (1, pytest.approx(0.0425), pytest.approx(0.0625)),
        (3, pytest.approx(0.0625), pytest.approx(0.0825)),
    ]


def test_transcripts_and_log_probs_are_those_of_the_commands(models, corpus):
    model, manifest = speechssl.load(models / "ctc"), read_manifest(corpus)
    expected, _ = transcribe(models / "ctc", manifest)
    found = model.transcribe(arrays(corpus), 16_000)
    assert [each.text for each in found] == [each.text for each in expected]
    assert [each.words for each in found] == [each.words for each in expected]
    assert any(each.text for each in found)
    ours, _ = SavedModel.read(models / "ctc").recogniser()
    theirs = dict(log_posteriors(ours, manifest, SavedModel.read(models / "ctc").description.audio, PosteriorConfig()))
    for row, log_probs in zip(manifest.utterances, model.log_probs(manifest), strict=True):
        assert torch.equal(log_probs.values, theirs[row.id])
        assert log_probs.tokens == model.vocabulary.tokens
        assert len(log_probs.times_s) == len(log_probs.values)


def test_a_search_gives_alternatives(models):
    found = speechssl.load(models / "ctc").transcribe(voice(8_000), 16_000, beam=4, nbest=3)
    assert len(found.alternatives) == 3
    with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
        speechssl.load(models / "ctc").transcribe(voice(8_000), 16_000, width=4)


def test_alignments_are_those_of_the_command(models, corpus):
    model, manifest = speechssl.load(models / "ctc"), read_manifest(corpus)
    texts = ["a", "б a", "a", "н a", "a"]
    texts = [text.replace("н", "a") for text in texts]
    rows = tuple(dataclasses.replace(row, text=text) for row, text in zip(manifest.utterances, texts, strict=True))
    expected, _ = align(models / "ctc", dataclasses.replace(manifest, utterances=rows))
    found = model.align(arrays(corpus), texts, 16_000)
    assert [each.letters for each in found] == [each.letters for each in expected]
    assert model.align(arrays(corpus)[0], "a", 16_000).letters == expected[0].letters
    with pytest.raises(ConfigError, match="found 5 utterances and 1 texts"):
        model.align(arrays(corpus), ["a"], 16_000)
    with pytest.raises(VocabularyError, match="z"):
        model.align(arrays(corpus)[0], "z", 16_000)
    with pytest.raises(ManifestError, match="have no text"):
        model.align(arrays(corpus)[0], "", 16_000)


def test_any_format_is_loaded_by_a_string(models, tmp_path):
    samples = voice(8_000)
    expected = speechssl.load(str(models / "ctc")).features(samples, 16_000).values
    for format_ in ("transformers", "torchaudio", "fairseq"):
        convert(models / "ctc", tmp_path / f"{format_}.pt", format_)
        found = speechssl.load(str(tmp_path / f"{format_}.pt")).features(samples, 16_000).values
        assert torch.allclose(found, expected, atol=1e-5), format_


def test_what_is_loaded_is_what_it_is(models):
    kinds = {
        method: type(speechssl.load(models / method)).__name__ for method in ("encoder", "wav2vec2", "hubert", "ctc")
    }
    assert kinds == {"encoder": "Encoder", "wav2vec2": "Pretrained", "hubert": "Pretrained", "ctc": "Recogniser"}
    assert repr(speechssl.load(models / "ctc", device="cpu")) == "Recogniser(ctc: ctc, 2 layers of 32, cpu)"


def test_loading_says_what_is_wrong(models, tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        speechssl.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="not a model that can be read"):
        speechssl.load(tmp_path)
    with pytest.raises(ConfigError, match="where='': expected the name of a folder"):
        speechssl.load("")
    with pytest.raises(ConfigError, match="min_sample_rate=-3: expected a whole number above 0"):
        speechssl.load(models / "ctc", min_sample_rate=-3)
    with pytest.raises(ConfigError, match="device=nonsense: cannot be used"):
        speechssl.load(models / "ctc", device="nonsense")
    with pytest.raises(ConfigError, match="dtype=float16: expected float32, bfloat16, int8 or auto"):
        speechssl.load(models / "ctc", dtype=torch.float16)


@pytest.mark.parametrize("asked", [{"dtype": torch.bfloat16}, {"precision": "bfloat16"}, {"precision": "int8"}])
@pytest.mark.parametrize("name", ["encoder", "ctc", "hubert"])
def test_fewer_bits_change_features_by_rounding(models, name, asked):
    skip_without(str(*asked.values()).removeprefix("torch."))
    samples = voice(8_000)
    exact = speechssl.load(models / name).features(samples, 16_000).values
    rounded = speechssl.load(models / name, **asked).features(samples, 16_000).values
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.2 * exact.norm()


def test_precision_is_given_once(models):
    with pytest.raises(ConfigError, match="precision=int8 and dtype=bfloat16 are the same setting"):
        speechssl.load(models / "ctc", precision="int8", dtype="bfloat16")
    with pytest.raises(ConfigError, match="precision=int4: expected float32, bfloat16, int8 or auto"):
        speechssl.load(models / "ctc", precision="int4")
    assert speechssl.load(models / "ctc", precision="auto").precision in ("float32", "bfloat16", "int8")
