"""Embeddings of speakers: padding, and the loss of its equation."""

import math

import pytest
import torch

from speechssl.errors import ConfigError
from speechssl.tasks.head_registry import head_of
from speechssl.tasks.heads import HeadSizes
from speechssl.tasks.speaker_embedding import SpeakerEmbeddingConfig
from tests.model.tiny import noise

CONFIGS = [
    SpeakerEmbeddingConfig(projector=8, dim=5),
    SpeakerEmbeddingConfig(projector=8, dim=5, frames="tdnn"),
    SpeakerEmbeddingConfig(projector=8, dim=5, pooling="mean"),
]
SIZES = HeadSizes(layers=2, dim=6, outputs=3)


def built(config):
    torch.manual_seed(0)
    return head_of(config).network(config, SIZES).eval()


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_padding_does_not_change_an_embedding(config):
    network, counts = built(config), (20, 9, 14)
    each = [noise(2, count, 6, seed=count) for count in counts]
    layers = torch.full((3, 2, 20, 6), 7.0)
    for row, features in zip(layers, each, strict=True):
        row[:, : features.shape[1]] = features
    is_valid = torch.arange(20) < torch.tensor(counts)[:, None]
    found = network.embedding(layers, is_valid)
    assert found.shape == (3, 5)
    for features, vector in zip(each, found, strict=True):
        alone = network.embedding(features[None], torch.ones(1, features.shape[1], dtype=torch.bool))[0]
        torch.testing.assert_close(vector, alone, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_means_give_what_frames_give_where_the_head_reads_means():
    config = CONFIGS[2]
    assert [head_of(each).reads_means(each) for each in CONFIGS] == [False, False, True]
    network, layers = built(config), noise(1, 2, 11, 6)
    whole, mean = (
        network(each, torch.ones(1, each.shape[2], dtype=torch.bool)) for each in (layers, layers.mean(2, keepdim=True))
    )
    torch.testing.assert_close(whole, mean)


@pytest.mark.parametrize("margin", [0.0, 0.35])
@torch.no_grad()
def test_the_loss_is_that_of_the_equation(margin):
    config = SpeakerEmbeddingConfig(projector=8, dim=5, margin=margin, scale=10.0)
    head, network = head_of(config), built(config)
    layers, is_valid, answers = noise(4, 2, 7, 6), torch.ones(4, 7, dtype=torch.bool), torch.tensor([2, 0, 1, 1])
    outputs = network(layers, is_valid)
    wanted = 0.0
    for vector, answer in zip(network.embedding(layers, is_valid), answers.tolist(), strict=True):
        cosines = [float(vector @ voice / (vector.norm() * voice.norm())) for voice in network.speakers]
        shifted = [math.exp(10 * (cosine - margin * (i == answer))) for i, cosine in enumerate(cosines)]
        wanted -= math.log(shifted[answer] / sum(shifted))
    loss = head.loss(outputs, answers)
    assert float(loss.value) == pytest.approx(wanted, rel=1e-4)
    assert int(loss.count) == 4
    assert head.predictions(outputs).sum(1).tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"scale": 0.0}, {"margin": 1.0}, {"classes": ("a",)}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        SpeakerEmbeddingConfig(**wrong)
