"""The probe of a model on unlabelled audio: speechssl.stages.probe."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from speechssl.data.batching import BatchConfig
from speechssl.data.manifest import read_manifest
from speechssl.errors import ManifestError
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.stages import probe as module
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.stages.probe import frame_intervals, probe, probe_layer, prober, read_probe_audio
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.train.learner import TrainConfig
from speechssl.train.monitor import HealthConfig
from speechssl.units.phone_alignments import Interval
from tests.oracles.clusters import oracle_effective_rank, oracle_perplexity, oracle_phone_purity, oracle_pnmi


class Model(nn.Module):
    """A trunk and nothing else."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = SpeechEncoder(config)


@pytest.fixture
def model(tiny_encoder) -> Model:
    return Model(tiny_encoder)


@pytest.fixture
def waveforms() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator) for size in (16_000, 9_000, 12_345)]


@pytest.fixture
def says(monkeypatch):
    """Let the trunk say given features."""

    def say(*features: Tensor) -> None:
        monkeypatch.setattr(module, "_features", lambda encoder, waveforms: list(features))

    return say


def blobs(clusters: int, frames: int, *, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw (frames, 6) points around far centres, and the centre of each."""
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.randn(clusters, 6, generator=generator)
    chosen = torch.arange(frames) % clusters
    return centres[chosen] + spread * torch.randn(frames, 6, generator=generator), chosen


def test_the_rank_is_that_of_all_frames_together(model, says) -> None:
    first, second = blobs(5, 40, spread=1.0)[0], blobs(5, 30, spread=1.0, seed=1)[0]
    says(first, second)
    expected = oracle_effective_rank(torch.cat([first, second]).numpy())
    assert probe(model, [], seed=0, clusters=5)["probe_rank"] == pytest.approx(expected, rel=1e-5)


def test_clusters_that_lie_apart_are_found_and_called_good(model, says) -> None:
    features, chosen = blobs(4, 200, spread=0.1)
    says(features)
    figures = probe(model, [], seed=0, clusters=4)
    centres = torch.stack([features[chosen == k].mean(0) for k in range(4)])
    distances = torch.cdist(features, centres).sort(1).values
    assert figures["probe_silhouette"] == pytest.approx(
        ((distances[:, 1] - distances[:, 0]) / distances[:, 1]).mean().item(), rel=1e-3
    )
    within = (features - centres[chosen]).square().sum() / (features - features.mean(0)).square().sum()
    assert figures["probe_explained"] == pytest.approx(1 - within.item(), abs=1e-5)
    assert figures["probe_perplexity"] == pytest.approx(4, rel=1e-4)


def test_worse_clusters_have_lower_figures(model, says) -> None:
    found = []
    for spread in (0.1, 1.0, 5.0):
        says(blobs(4, 400, spread=spread)[0])
        found.append(probe(model, [], seed=0, clusters=4))
    for name in ("probe_silhouette", "probe_explained"):
        values = [figures[name] for figures in found]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[2] + 0.2


def test_units_are_compared_with_phones_where_these_are_given(model, says) -> None:
    features, chosen = blobs(4, 200, spread=8.0)  # mixed up
    parts = [features[:120], features[120:]]
    says(*parts)
    hop, window = model.encoder.config.hop, model.encoder.config.window
    labels = [chosen[:120].numpy(), chosen[120:].numpy()]
    phones = [frame_intervals(row, hop=hop, window=window) for row in labels]
    figures = probe(model, [], seed=0, clusters=4, phones=phones)
    units = module.KMeans(n_clusters=4, max_iter=20, seed=0).fit(features).predict(features)
    pairs = list(zip(map(str, chosen.tolist()), units.tolist(), strict=True))
    assert figures["probe_pnmi"] == pytest.approx(oracle_pnmi(pairs), abs=1e-6)
    assert figures["probe_purity"] == pytest.approx(oracle_phone_purity(pairs), abs=1e-6)
    assert figures["probe_perplexity"] == pytest.approx(oracle_perplexity(units.tolist()), rel=1e-4)
    assert 0.05 < figures["probe_pnmi"] < 0.95


def test_the_label_of_a_frame_holds_around_its_centre() -> None:
    (first, second) = frame_intervals(np.array([7, 3]), hop=320, window=400)
    assert first == Interval(pytest.approx((200 - 160) / 16_000), pytest.approx((200 + 160) / 16_000), "7")
    assert second.start_s == pytest.approx(first.end_s)
    assert second.phone == "3"


def test_the_layer_is_two_thirds_up(tiny_encoder) -> None:
    for num_layers, expected in [(1, 1), (2, 1), (4, 3), (12, 8), (24, 16)]:
        transformer = dataclasses.replace(tiny_encoder.transformer, num_layers=num_layers)
        assert probe_layer(SpeechEncoder(dataclasses.replace(tiny_encoder, transformer=transformer))) == expected


def test_a_waveform_has_the_features_of_its_own(model, waveforms) -> None:
    together = module._features(model.encoder, waveforms)
    model.eval()
    for waveform, features in zip(waveforms, together, strict=True):
        alone = model.encoder(waveform[None], torch.tensor([len(waveform)])).layers[0][0]
        assert torch.equal(features, alone)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_probe_leaves_no_trace_and_is_the_same_each_time(model, waveforms, is_training) -> None:
    model.train(is_training)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = probe(model, waveforms, seed=3, clusters=8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert probe(model, waveforms, seed=3, clusters=8) == first
    assert all(module.training is is_training for module in model.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {*first} == {"probe_rank", "probe_explained", "probe_silhouette", "probe_perplexity"}
    assert all(value > 0 for value in first.values())


@pytest.mark.parametrize("phones", [None, [[Interval(0.0, 1.0, "a")]]])
def test_collapsed_features_are_no_error(model, says, phones) -> None:
    says(torch.full((100, 6), 2.5))
    figures = probe(model, [], seed=0, clusters=4, phones=phones)
    assert {*figures.values()} == {0.0}
    assert ("probe_pnmi" in figures) == (phones is not None)


def test_features_of_few_kinds_have_a_rank_and_no_clusters(model, says) -> None:
    says(torch.eye(6)[:3].repeat(20, 1))
    figures = probe(model, [], seed=0, clusters=4)
    assert figures["probe_rank"] == pytest.approx(2, rel=1e-3)
    assert figures["probe_silhouette"] == 0


def test_features_that_are_not_finite_are_no_error(model, says) -> None:
    says(torch.tensor([[1.0, torch.nan], [0.0, 1.0]]))
    assert {*probe(model, [], seed=0, clusters=2).values()} == {0.0}


def test_the_audio_is_drawn_by_the_seed_and_no_more_than_asked_for(make_corpus, tmp_path) -> None:
    path = make_corpus(tmp_path, range(16_000, 32_000, 2_000))
    manifest, data = read_manifest(path), DataConfig(manifests=(path,))

    def read(seed: int, minutes: float = 0.1) -> dict[str, Tensor]:
        return read_probe_audio(data, manifest, minutes=minutes, seed=seed, window=400)

    first = read(0)
    assert sum(map(len, first.values())) == 6 * 16_000
    assert all(torch.equal(read(0)[key], waveform) for key, waveform in first.items())
    assert len({tuple(read(seed)) for seed in range(5)}) > 1
    assert {*read(0, minutes=60)} == {row.id for row in manifest.utterances}


def test_one_long_recording_is_not_all_of_the_set(make_corpus, tmp_path) -> None:
    path = make_corpus(tmp_path, [16_000 * 50, 16_000, 16_000])
    found = read_probe_audio(DataConfig(manifests=(path,)), read_manifest(path), minutes=1.0, seed=0, window=400)
    assert sorted(map(len, found.values())) == [16_000, 16_000, 20 * 16_000]


def test_short_utterances_are_passed_over_and_named_when_there_are_no_others(make_corpus, tmp_path) -> None:
    path = make_corpus(tmp_path, [300, 500])
    manifest, data = read_manifest(path), DataConfig(manifests=(path,))
    assert [*read_probe_audio(data, manifest, minutes=1.0, seed=0, window=400)] == ["u0001"]
    with pytest.raises(ManifestError, match="no utterance has the 600 samples of one frame"):
        read_probe_audio(data, manifest, minutes=1.0, seed=0, window=600)


def test_a_prober_reads_its_audio_once_and_probes_the_same_each_time(make_corpus, tmp_path, tiny_encoder) -> None:
    path = make_corpus(tmp_path, [16_000] * 4)
    look = prober(DataConfig(manifests=(path,)), read_manifest(path), minutes=0.05, seed=1, window=400)
    model = Model(tiny_encoder)
    first = look(model)
    for file in tmp_path.glob("*.wav"):
        file.unlink()
    assert look(model) == first
    make_corpus(tmp_path, [16_000] * 4)
    again = read_probe_audio(DataConfig(manifests=(path,)), read_manifest(path), minutes=0.05, seed=1, window=400)
    assert probe(model, [*again.values()], seed=1) == first


def test_a_pretraining_run_is_probed_and_trains_as_without(make_corpus, tmp_path, tiny_encoder) -> None:
    path = make_corpus(tmp_path, [16_000] * 4)
    logs = []
    for name, every in (("with", 2), ("without", 0)):
        out = pretrain(
            PretrainConfig(
                out=tmp_path / name,
                data=DataConfig(manifests=(path,)),
                encoder=tiny_encoder,
                objective=ContrastiveConfig(dim=8, negatives=5, quantizer=QuantizerConfig(entries=4, dim=8)),
                batch=BatchConfig(seconds=2.5, max_crop_s=0.6, min_s=0.1),
                train=TrainConfig(steps=4, log_every=1, health=HealthConfig(probe_every=every, probe_minutes=0.05)),
            )
        ).parent
        logs.append([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()])
    probed = [line for line in logs[0] if "probe_rank" in line]
    assert [line["step"] for line in probed] == [2, 4]
    assert probed[0] != probed[1]
    assert not any("probe_rank" in line for line in logs[1])
    losses = [[line["loss"] for line in log if "loss" in line] for log in logs]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 4
