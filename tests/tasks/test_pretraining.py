"""Encoder and objective together: speechssl.tasks.pretraining."""

import dataclasses

import pytest
import torch

from speechssl.data.batching import Batch
from speechssl.errors import LabelError
from speechssl.model.context import INFERENCE, StepContext
from speechssl.model.encoder import EncoderConfig
from speechssl.model.frames import frame_count
from speechssl.model.masking import MaskConfig
from speechssl.tasks.contrastive import ContrastiveConfig, ContrastiveObjective
from speechssl.tasks.masked_prediction import MaskedPredictionConfig, MaskedPredictionObjective
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.random_projection import RandomProjectionConfig
from speechssl.tasks.random_quantizer import CodebookConfig
from speechssl.tasks.registry import build_objective, task_of
from speechssl.tasks.task import DataSizes
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, TINY_STACK, noise, randomise, tiny_encoder
from tests.tasks.labelled import labelled

MASK = MaskConfig(start_prob=0.1, span=3)
CONTRASTIVE = ContrastiveConfig(
    dim=8, negatives=6, feature_dropout=0.0, quantizer=QuantizerConfig(groups=2, entries=5, dim=12), mask=MASK
)
MASKED_PREDICTION = MaskedPredictionConfig(dim=8, mask=MASK)
LINEAR = dataclasses.replace(MASKED_PREDICTION, logits="linear")
RANDOM = RandomProjectionConfig(codebook=CodebookConfig(number=2, entries=5, dim=4, bins=6), mask=MASK)
Config = ContrastiveConfig | MaskedPredictionConfig | RandomProjectionConfig
OBJECTIVES = pytest.mark.parametrize(
    "config", [CONTRASTIVE, MASKED_PREDICTION, LINEAR, RANDOM], ids=["contrastive", "cosine", "linear", "random"]
)
LENGTHS = (820, 430, 610)
FRAMES = int(frame_count(torch.tensor(820), TINY_STACK))


def _model(config: Config, encoder: EncoderConfig = BASE_LIKE) -> PretrainModel:
    clusters = (5,) if isinstance(config, MaskedPredictionConfig) else ()
    torch.manual_seed(0)
    model = task_of(config).build(config, tiny_encoder(encoder), DataSizes(clusters=clusters))
    randomise(model.objective)
    return model.train()


def _batch() -> Batch:
    labels = torch.randint(5, (1, 3, FRAMES), generator=torch.Generator().manual_seed(0))
    return Batch(ids=tuple("abc"), waveforms=noise(3, 820), num_samples=torch.tensor(LENGTHS), labels=labels)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_configuration_builds_its_objective() -> None:
    assert isinstance(build_objective(CONTRASTIVE, dim=32, conv_dim=16, clusters=()), ContrastiveObjective)
    built = build_objective(MASKED_PREDICTION, dim=32, conv_dim=16, clusters=(5, 3))
    assert isinstance(built, MaskedPredictionObjective)
    assert built.clusters == (5, 3)


def test_contrastive_objective_takes_no_labels() -> None:
    with pytest.raises(LabelError, match=r"objective\.kind=contrastive takes no labels; remove the key labels"):
        build_objective(CONTRASTIVE, dim=32, conv_dim=16, clusters=(5,))


def test_masked_prediction_needs_labels() -> None:
    with pytest.raises(LabelError, match=r"objective\.kind=masked_prediction needs labels"):
        build_objective(MASKED_PREDICTION, dim=32, conv_dim=16, clusters=())


def test_batch_without_labels_is_refused() -> None:
    with pytest.raises(LabelError, match="the batch carries no labels"):
        _model(MASKED_PREDICTION)(
            dataclasses.replace(_batch(), labels=None), StepContext(step=0, generator=_generator())
        )


@pytest.mark.parametrize("encoder", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
@OBJECTIVES
def test_every_parameter_receives_a_finite_gradient(config: Config, encoder: EncoderConfig) -> None:
    model = _model(config, encoder)
    model(_batch(), StepContext(step=0, generator=_generator())).value.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@OBJECTIVES
def test_loss_follows_the_generator_and_nothing_else(config: Config) -> None:
    model, losses = _model(config), []
    for global_seed, seed in ((0, 1), (1, 1), (1, 2)):
        torch.manual_seed(global_seed)
        losses.append(model(_batch(), StepContext(step=0, generator=_generator(seed))).value.item())
    assert losses[0] == losses[1] != losses[2]


@OBJECTIVES
def test_masks_are_drawn_within_each_utterance_and_their_share_reported(
    config: Config,
) -> None:
    model, seen = _model(config), []
    with model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2])):
        loss = model(_batch(), StepContext(step=0, generator=_generator()))
    counts = frame_count(torch.tensor(LENGTHS), TINY_STACK)
    assert int(seen[0].sum()) == int(loss.count)
    for row, count in zip(seen[0], counts, strict=True):
        assert row[:count].any()
        assert not row[count:].any()
    assert loss.parts["masked_share"].item() == pytest.approx(int(loss.count) / int(counts.sum()))


@OBJECTIVES
def test_padding_does_not_change_the_loss(config: Config) -> None:
    model, batch = _model(config).eval(), _batch()
    is_masked = torch.zeros(3, FRAMES, dtype=torch.bool)
    is_masked[:, 2:9] = True
    losses = []
    for surplus in (0, 7):
        waveforms = torch.nn.functional.pad(batch.waveforms, (0, 20 * surplus), value=3.0)
        mask = torch.nn.functional.pad(is_masked, (0, surplus))
        labels = torch.nn.functional.pad(batch.labels, (0, surplus), value=-1)
        encoded = model.encoder(waveforms, batch.num_samples, mask)
        if isinstance(config, ContrastiveConfig):
            losses.append(model.objective(encoded, mask, labelled(), StepContext(step=0, generator=_generator())))
        elif isinstance(config, RandomProjectionConfig):
            padded = dataclasses.replace(batch, waveforms=waveforms)
            losses.append(model.objective(encoded, mask, padded, INFERENCE))
        else:
            losses.append(model.objective(encoded, mask, labelled(labels), INFERENCE))
    assert int(losses[0].count) == int(losses[1].count) == 21
    assert losses[1].value.item() == pytest.approx(losses[0].value.item(), rel=1e-5)
