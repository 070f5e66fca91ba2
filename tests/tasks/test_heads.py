"""Heads: shapes, padding, means in place of frames, losses; and the numbers of s3prl."""

import itertools
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.errors import ConfigError
from speechssl.tasks.frame_classes import FrameClassesConfig
from speechssl.tasks.head_registry import HEADS, head_of
from speechssl.tasks.heads import UNLABELLED, HeadSizes, class_weights, cross_entropy
from speechssl.tasks.layer_sum import LayerSum, normalised
from speechssl.tasks.utterance_classes import UtteranceClassesConfig
from speechssl.tasks.utterance_values import UtteranceValuesConfig
from tests.model.tiny import noise
from tests.s3prl_package import imported_s3prl

LAYERS, FRAMES, DIM, CLASSES = 4, (7, 3, 5), 6, 3
CONFIGS = [
    UtteranceClassesConfig(column="speaker", projector=8),
    UtteranceClassesConfig(column="speaker", projector=0, pooling="attentive_statistics"),
    FrameClassesConfig(of="phones", projector=8),
    UtteranceValuesConfig(column="age", projector=8),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)


def built(config, seed=0):
    torch.manual_seed(seed)
    outputs = 1 if config.kind == "utterance_values" else CLASSES
    network = head_of(config).network(config, HeadSizes(layers=LAYERS, dim=DIM, outputs=outputs, mean=40.0, std=5.0))
    with torch.no_grad():
        network.sum.weights.copy_(noise(LAYERS, seed=3))
    return network


def padded(fill: float = 0.0) -> tuple[list[Tensor], Tensor, Tensor]:
    each = [noise(LAYERS, frames, DIM, seed=frames) for frames in FRAMES]
    layers = torch.full((len(each), LAYERS, max(FRAMES), DIM), fill)
    for row, features in zip(layers, each, strict=True):
        row[:, : features.shape[1]] = features
    return each, layers, torch.arange(max(FRAMES)) < torch.tensor(FRAMES)[:, None]


@every_config
@torch.no_grad()
def test_an_utterance_in_a_batch_gets_what_it_gets_alone(config):
    network = built(config).eval()
    each, layers, is_valid = padded(fill=9.0)
    for features, found, valid in zip(each, network(layers, is_valid), is_valid, strict=True):
        alone = network(features[None], torch.ones(1, features.shape[1], dtype=torch.bool))[0]
        found = found[valid] if config.kind == "frame_classes" else found
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


@every_config
@torch.no_grad()
def test_means_of_layers_give_what_the_frames_give_where_the_head_says_so(config):
    network = built(config).eval()
    each, layers, is_valid = padded()
    means = torch.stack([features.mean(1, keepdim=True) for features in each])
    if head_of(config).reads_means(config):
        found = network(means, torch.ones(len(each), 1, dtype=torch.bool))
        torch.testing.assert_close(found, network(layers, is_valid), rtol=1e-5, atol=1e-5)
    assert head_of(config).reads_means(config) == (getattr(config, "pooling", "") == "mean")


@torch.no_grad()
def test_attention_pools_weighted_mean_and_standard_deviation():
    pooling = built(CONFIGS[1]).pooling
    frames, is_valid = noise(1, 5, DIM), torch.tensor([[True, True, True, True, False]])
    mean_std = pooling(frames, is_valid)[0]
    scores = [float(pooling.score(pooling.hidden(frame).tanh())) for frame in frames[0, :4]]
    weights = np.exp(scores) / np.exp(scores).sum()
    values = frames[0, :4].double().numpy()
    mean = (weights[:, None] * values).sum(0)
    std = np.sqrt((weights[:, None] * values**2).sum(0) - mean**2)
    torch.testing.assert_close(mean_std, torch.from_numpy(np.r_[mean, std]).float(), rtol=1e-4, atol=1e-5)


def test_a_constant_signal_has_a_finite_gradient_through_its_deviation():
    network = built(CONFIGS[1])
    layers = torch.ones(1, LAYERS, 4, DIM, requires_grad=True)
    network(layers, torch.ones(1, 4, dtype=torch.bool)).sum().backward()
    assert torch.isfinite(layers.grad).all()


@torch.no_grad()
def test_layers_are_summed_with_softmax_weights_that_start_equal():
    layer_sum, layers = LayerSum(LAYERS), noise(2, LAYERS, 5, DIM)
    torch.testing.assert_close(layer_sum(layers), layers.mean(1))
    layer_sum.weights.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    shares = np.exp([0, 1, 2, 3]) / np.exp([0, 1, 2, 3]).sum()
    assert layer_sum.shares().tolist() == pytest.approx(shares.tolist())
    expected = sum(float(share) * layers[:, number] for number, share in enumerate(shares))
    torch.testing.assert_close(layer_sum(layers), expected)


def test_each_frame_is_normalised_without_parameters():
    found = normalised(7 + 3 * noise(2, 3, 5, 64))
    torch.testing.assert_close(found.mean(-1), torch.zeros(2, 3, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.var(-1, unbiased=False), torch.ones(2, 3, 5), rtol=1e-4, atol=1e-4)


def test_frames_without_a_class_count_in_no_loss():
    outputs, answers = noise(2, 4, CLASSES), torch.tensor([[0, 1, UNLABELLED, 2], [2, UNLABELLED, UNLABELLED, 0]])
    loss = cross_entropy(outputs, answers, None)
    labelled = [(row, frame) for row, frame in itertools.product(range(2), range(4)) if answers[row, frame] >= 0]
    expected = -sum(float(outputs[place].log_softmax(-1)[answers[place]]) for place in labelled)
    assert float(loss.value) == pytest.approx(expected, rel=1e-5)
    assert int(loss.count) == len(labelled) == 5


def test_balanced_weights_give_every_class_the_same_total():
    weights = class_weights("balanced", [10, 5, 1])
    assert (weights * torch.tensor([10, 5, 1])).tolist() == pytest.approx([16 / 3] * 3)
    outputs, answers = noise(16, CLASSES), torch.tensor([0] * 10 + [1] * 5 + [2])
    loss = cross_entropy(outputs, answers, weights)
    assert float(loss.value / loss.count) == pytest.approx(float(functional.cross_entropy(outputs, answers, weights)))
    assert class_weights("none", [10, 5, 1]) is None


def test_the_loss_of_values_is_in_units_of_the_training_sets_variance():
    head, network = HEADS["utterance_values"], built(CONFIGS[3])
    _, layers, is_valid = padded()
    outputs = network(layers, is_valid).detach()
    answers = torch.tensor([30.0, 40.0, 50.0])
    loss = head.loss(outputs, answers)
    values = head.predictions(outputs)
    assert float(loss.value / loss.count) == pytest.approx(float(((values - answers) ** 2 / 25).mean()), rel=1e-5)
    assert float(values.mean()) == pytest.approx(40, abs=5)  # it starts near the mean


@every_config
def test_every_parameter_learns(config):
    network, head = built(config), head_of(config)
    _, layers, is_valid = padded()
    answers = {"classes": torch.tensor([0, 1, 2]), "values": torch.tensor([1.0, 2.0, 3.0])}
    answers["frame_classes"] = torch.zeros(3, max(FRAMES), dtype=torch.long)
    head.loss(network(layers, is_valid), answers[head.answers]).value.backward()
    attention = {"pooling.score.bias"}  # the softmax does not depend on it
    assert all(p.grad.abs().sum() > 0 for name, p in network.named_parameters() if name not in attention)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projector": -1}, "projector must not be negative, found -1"),
        ({"classes": ("a",)}, r"two different classes or more, found \['a'\]"),
        ({"classes": ("a", "a")}, "two different classes"),
    ],
)
def test_settings_that_make_no_head_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        UtteranceClassesConfig(column="speaker", **change)


def test_an_unknown_head_is_refused():
    with pytest.raises(ConfigError, match="no head is called 'other', expected one of utterance_classes"):
        head_of(SimpleNamespace(kind="other"))


class PlainUtterances(nn.Module):
    """SUPERB's head in the plainest torch: utterance by utterance, layer by layer."""

    def __init__(self, *, projector: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(LAYERS))
        self.project, self.classify = nn.Linear(DIM, projector), nn.Linear(projector, CLASSES)

    def forward(self, each: list[Tensor]) -> Tensor:
        shares = torch.exp(self.weights) / torch.exp(self.weights).sum()
        sums = [sum(share * layer for share, layer in zip(shares, layers, strict=True)) for layers in each]
        return torch.stack([self.classify(self.project(frames).mean(0)) for frames in sums])


def test_training_gives_the_losses_of_the_plainest_form():
    config, answers = UtteranceClassesConfig(column="speaker", projector=8), torch.tensor([2, 0, 1])
    torch.manual_seed(5)
    network = head_of(config).network(config, HeadSizes(layers=LAYERS, dim=DIM, outputs=CLASSES))
    torch.manual_seed(5)
    plain = PlainUtterances(projector=8)
    each, layers, is_valid = padded()
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in (network, plain)]
    for _ in range(20):
        loss = head_of(config).loss(network(layers, is_valid), answers)
        losses = [loss.value / loss.count, functional.cross_entropy(plain(each), answers)]
        torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
        for optimizer, one in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            one.backward()
            optimizer.step()
    torch.testing.assert_close(network.sum.weights, plain.weights, rtol=1e-4, atol=1e-5)
    assert network.sum.weights.abs().max() > 0.05


@pytest.fixture(scope="module")
def s3prl_nn() -> Iterator[ModuleType]:
    """s3prl's own modules, where it is installed."""
    if find_spec("s3prl") is None:
        pytest.skip("s3prl is not installed")
    with imported_s3prl() as module:
        yield module


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("kind", ["utterance_classes", "frame_classes"])
def test_logits_and_losses_are_those_of_s3prl(s3prl_nn, kind, layer_norm):
    """Same features, weights and seed; the loss is that of its tasks, torch's cross-entropy of the mean."""
    config = (
        UtteranceClassesConfig(column="speaker") if kind == "utterance_classes" else FrameClassesConfig(of="phones")
    )
    upstream = SimpleNamespace(hidden_sizes=[DIM] * LAYERS, downsample_rates=[320] * LAYERS, num_layers=LAYERS)
    torch.manual_seed(7)
    theirs = s3prl_nn.linear.MeanPoolingLinear if kind == "utterance_classes" else s3prl_nn.linear.FrameLevelLinear
    featurizer, downstream = s3prl_nn.Featurizer(upstream, normalize=layer_norm), theirs(DIM, CLASSES)
    torch.manual_seed(7)
    network = head_of(config).network(config, HeadSizes(layers=LAYERS, dim=DIM, outputs=CLASSES))
    _, layers, is_valid = padded()
    counts = is_valid.sum(1)
    answers = torch.tensor([2, 0, 1]) if kind == "utterance_classes" else torch.arange(21).view(3, 7) % CLASSES
    answers = answers if kind == "utterance_classes" else answers.masked_fill(~is_valid, UNLABELLED)
    ours = normalised(layers) if layer_norm else layers
    pair = [[*featurizer.parameters(), *downstream.parameters()], [*network.parameters()]]
    optimizers = [torch.optim.Adam(parameters, lr=1e-3) for parameters in pair]
    for _ in range(10):
        summed, found_counts = featurizer([*layers.unbind(1)], [counts] * LAYERS)
        logits = downstream(summed, found_counts)
        logits = logits if kind == "utterance_classes" else logits[0]
        mine = network(ours, is_valid)
        loss = head_of(config).loss(mine, answers)
        mean = loss.value / loss.count
        expected = functional.cross_entropy(logits.reshape(-1, CLASSES), answers.reshape(-1), ignore_index=UNLABELLED)
        is_there = torch.ones_like(answers, dtype=torch.bool) if kind == "utterance_classes" else is_valid
        torch.testing.assert_close(mine[is_there], logits[is_there], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mean, expected, rtol=0, atol=1e-5)
        for optimizer, one in zip(optimizers, (expected, mean), strict=True):
            optimizer.zero_grad()
            one.backward()
            optimizer.step()
