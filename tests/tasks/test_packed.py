"""Packed layers give every objective the loss and the gradients that padded ones do."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from speechssl.data.batching import Batch
from speechssl.model.context import StepContext
from speechssl.model.masking import MaskConfig
from speechssl.parallel import Ranks
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.online_codebooks import OnlineCodebookConfig
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.random_projection import RandomProjectionConfig
from speechssl.tasks.random_quantizer import CodebookConfig
from speechssl.tasks.registry import task_of
from speechssl.tasks.task import DataSizes
from speechssl.tasks.teacher import TeacherConfig
from speechssl.train.distributed import ParallelConfig, distribute
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, tiny_encoder

MASK = MaskConfig(start_prob=0.1, span=3)
CONTRASTIVE = ContrastiveConfig(
    dim=8, negatives=6, feature_dropout=0.0, quantizer=QuantizerConfig(groups=2, entries=5, dim=12), mask=MASK
)
HUBERT = MaskedPredictionConfig(dim=8, mask=MASK, unmasked_weight=0.5)
RANDOM = RandomProjectionConfig(codebook=CodebookConfig(entries=5, dim=4, bins=6), mask=MASK, unmasked_weight=0.5)
TEACHER = TeacherConfig(form="codebooks", layers=2, mask=MASK, codebooks=OnlineCodebookConfig(entries=5))
CTC = CTCConfig(freeze_conv=False, freeze_steps=0, mask=MASK, channel_mask=MASK)
Config = ContrastiveConfig | MaskedPredictionConfig | RandomProjectionConfig | TeacherConfig | CTCConfig
ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


def build(config: Config, norm: str) -> nn.Module:
    torch.manual_seed(0)
    encoder = BASE_LIKE if norm == "post" else LARGE_LIKE
    transformer = dataclasses.replace(encoder.transformer, num_layers=4, layer_drop=0.3)
    trunk = tiny_encoder(dataclasses.replace(encoder, transformer=transformer))
    if isinstance(config, CTCConfig):
        return CTCModel(trunk, config, vocabulary_size=4).train().double()
    clusters = (5,) if isinstance(config, MaskedPredictionConfig) else ()
    model = task_of(config).build(config, trunk, DataSizes(clusters=clusters)).train()
    return model.double() if isinstance(config, MaskedPredictionConfig) else model  # quantizers, targets are float32


def step(model: nn.Module, lengths: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor | None]]:
    batch = Batch(
        ids=tuple("abc"),
        waveforms=noise(3, 820).to(next(model.parameters()).dtype),
        num_samples=torch.tensor(lengths),
        labels=torch.arange(3 * 40).view(1, 3, 40) % 5,
        targets=torch.tensor([[1, 2, 2], [3, 1, 0], [3, 0, 0]]),
        target_lengths=torch.tensor([3, 2, 1]),
    )
    loss = model(batch, StepContext(step=0, generator=torch.Generator().manual_seed(1), layer_seed=2))
    loss.value.backward()
    return loss.value.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("lengths", [(820, 430, 40), (820, 820, 820), (600, 35, 820)])  # 35 samples: one frame
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize(
    "config",
    [CONTRASTIVE, HUBERT, RANDOM, TEACHER, CTC],
    ids=["wav2vec2", "hubert", "best-rq", "teacher", "ctc"],
)
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_of_padded_layers(
    config: Config, norm: str, lengths: tuple[int, ...], recompute: bool
) -> None:
    padded = step(build(config, norm), lengths)
    model = build(config, norm)
    parallel = ParallelConfig(packed=True, activation_checkpointing=recompute)
    packed = step(distribute(model, parallel, ALONE, bfloat16=False, accumulate=1), lengths)
    assert model.encoder.transformer.packed
    torch.testing.assert_close(packed, padded)
