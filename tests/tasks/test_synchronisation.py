"""No step synchronises with the device: forward and backward pass on a fake device that records synchronisations."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from speechssl.data.batching import Batch
from speechssl.model.context import StepContext
from speechssl.model.encoder import EncoderConfig
from speechssl.model.masking import MaskConfig
from speechssl.parallel import Ranks
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.contrastive_targets import CopyConfig
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.online_codebooks import OnlineCodebookConfig
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.random_projection import RandomProjectionConfig
from speechssl.tasks.random_quantizer import CodebookConfig
from speechssl.tasks.registry import task_of
from speechssl.tasks.task import DataSizes
from speechssl.tasks.teacher import TeacherConfig
from speechssl.train.checkpoint import TrainState
from speechssl.train.gradients import gradient_norms
from speechssl.train.learner import Learner, TrainConfig
from speechssl.train.optim import OptimConfig
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, tiny_encoder
from tests.tasks.stubbed_device import DEVICE, move_parameters, on_device, stubbed_device

MASK = MaskConfig(start_prob=0.1, span=3)
CONTRASTIVE = ContrastiveConfig(dim=8, negatives=6, quantizer=QuantizerConfig(groups=2, entries=5, dim=12), mask=MASK)
CROSS = dataclasses.replace(CONTRASTIVE, cross_negatives=3)
CHANGED = dataclasses.replace(CONTRASTIVE, loudness_neighbours=3, copy=CopyConfig(gain_db=6.0, tilt=0.5))
LOG_MEL = dataclasses.replace(CHANGED, targets="log_mel")
COSINE = MaskedPredictionConfig(dim=8, mask=MASK)
LINEAR = dataclasses.replace(COSINE, logits="linear", unmasked_weight=0.5)
RANDOM = RandomProjectionConfig(codebook=CodebookConfig(entries=5, dim=4, bins=6, update="ema"), mask=MASK)
REGRESSION = TeacherConfig(layers=2, mask=MASK, feature_penalty=1.0)
CODEBOOKS = TeacherConfig(form="codebooks", layers=2, mask=MASK, codebooks=OnlineCodebookConfig(entries=5))
CTC = CTCConfig(dropout=0.1, freeze_conv=False, freeze_steps=0, mask=MASK, channel_mask=MASK)
REGULARISED = dataclasses.replace(
    BASE_LIKE,
    conv_grad_scale=0.1,
    feature_dropout=0.1,
    transformer=dataclasses.replace(
        BASE_LIKE.transformer, dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, layer_drop=0.05
    ),
)
Config = ContrastiveConfig | MaskedPredictionConfig | RandomProjectionConfig | TeacherConfig | CTCConfig


def _model(config: Config, encoder: EncoderConfig) -> nn.Module:
    torch.manual_seed(0)
    if isinstance(config, CTCConfig):
        return CTCModel(tiny_encoder(encoder), config, vocabulary_size=4).train()
    if isinstance(config, ContrastiveConfig) and config.targets == "log_mel":
        encoder = dataclasses.replace(encoder, conv=((8, 10, 5), (12, 8, 8), (16, 4, 4)))  # a frame every 10 ms
    clusters = (5, 3) if isinstance(config, MaskedPredictionConfig) else ()
    return task_of(config).build(config, tiny_encoder(encoder), DataSizes(clusters=clusters)).train()


def _batch(lengths: tuple[int, ...]) -> Batch:
    """Make a batch as the loop moves it: with its lengths on the host."""
    waveforms = noise(3, 820)
    frames = BASE_LIKE.frames_per_second * 820 / 16_000
    return Batch(
        ids=tuple("abc"),
        waveforms=on_device(waveforms),
        num_samples=torch.tensor(lengths),
        labels=on_device(torch.ones((2, 3, int(frames) - 1), dtype=torch.long)),
        targets=on_device(torch.tensor([[1, 2, 2], [3, 1, 0], [3, 0, 0]])),
        target_lengths=torch.tensor([3, 2, 1]),
    )


@pytest.mark.parametrize("lengths", [(820, 430, 610), (820, 820, 820)], ids=["padded", "unpadded"])
@pytest.mark.parametrize("encoder", [REGULARISED, LARGE_LIKE], ids=["base", "large"])
@pytest.mark.parametrize(
    "config",
    [CONTRASTIVE, CROSS, CHANGED, LOG_MEL, COSINE, LINEAR, RANDOM, REGRESSION, CODEBOOKS, CTC],
    ids=["own", "cross", "changed", "log_mel", "cosine", "linear", "random", "regression", "codebooks", "ctc"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_step_never_waits_for_the_device(
    config: Config, encoder: EncoderConfig, lengths: tuple[int, ...], packed: bool
) -> None:
    model, batch = _model(config, encoder), _batch(lengths)
    model.encoder.transformer.packed = packed
    move_parameters(model)
    with stubbed_device() as waits:
        loss = model(batch, StepContext(step=0, generator=torch.Generator()))
        loss.value.backward()
        devices = {name: part.device for name, part in {"count": loss.count, **loss.parts, **loss.tallies}.items()}
    assert waits == []
    assert {name: device for name, device in devices.items() if device != DEVICE} == {}
    assert any(parameter.grad is not None for parameter in model.parameters())


class NoOptimizer:
    """An optimiser without steps, since torch's optimisers do not support the device."""

    param_groups: ClassVar[list[dict[str, float]]] = [{"lr": 0.0}]

    def step(self) -> None:
        pass

    def zero_grad(self, set_to_none: bool) -> None:
        pass


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize(
    "config",
    [CONTRASTIVE, COSINE, RANDOM, CODEBOOKS, CTC],
    ids=["own", "cosine", "random", "codebooks", "ctc"],
)
def test_an_update_waits_once_when_all_is_queued(config: Config, max_grad_norm: float | None) -> None:
    model, batch = _model(config, REGULARISED), _batch((820, 430, 610))
    move_parameters(model)
    learner = Learner(
        model,
        NoOptimizer(),
        seed=0,
        optim=OptimConfig(max_grad_norm=max_grad_norm),
        config=TrainConfig(steps=2),
        ranks=Ranks(rank=0, world_size=1, device=DEVICE),
    )
    with stubbed_device() as waits:
        update = learner.update(iter([(0, 1, batch)] * 2), TrainState(), say=print, watch=lambda: gradient_norms(model))
    assert update.is_finite and update.norm > 0
    assert [wait.split(":")[0] for wait in waits] == ["a copy that waits at learner.py"]


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("item", lambda x: x.sum().item()),
        ("bool", lambda x: bool((x > 0).any())),
        ("cpu", lambda x: x.cpu()),
        ("nonzero", lambda x: x.nonzero()),
        ("boolean index", lambda x: x[x > 0]),
        ("boolean index on the left", lambda x: x.__setitem__(x > 0, torch.ones(3, device=DEVICE)[:1])),
        ("masked_select", lambda x: x.masked_select(x > 0)),
        ("bincount", lambda x: torch.bincount(x.long())),
        ("repeat_interleave", lambda x: x.repeat_interleave(x.long())),
        ("unique", lambda x: x.unique()),
        ("equal", lambda x: torch.equal(x, x)),
        ("blocking copy", lambda _: torch.ones(3).to(DEVICE)),
        ("a tensor of the host", lambda x: x + torch.ones(3)),
        ("an index of the host", lambda x: x.index_select(0, torch.tensor([0]))),
    ],
)
def test_the_stub_notes_what_waits(name: str, look: Callable[[Tensor], object]) -> None:
    with stubbed_device() as waits:
        look(on_device(torch.tensor([0.0, 1.0, 2.0])))
    assert waits, name


def test_the_stub_lets_pass_what_does_not_wait() -> None:
    with stubbed_device() as waits:
        x = on_device(torch.tensor([0.0, 1.0, 2.0])).requires_grad_()
        index = torch.tensor([2, 0]).to(DEVICE, non_blocking=True)
        y = (x.index_select(0, index) * 2 + torch.arange(2, device=DEVICE)).clamp(min=0).sum()
        y.backward()
        assert len(torch.zeros(3, 2).sum(1).nonzero()) == 0  # a host tensor
    assert waits == []
    assert x.grad.inner.tolist() == [2.0, 0.0, 2.0]
