"""The two sizes that are measured, as the recipes set them, and batches of equal length for them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.config import load
from speechssl.data.batching import Batch
from speechssl.model.encoder import EncoderConfig
from speechssl.model.frames import frame_count
from speechssl.stages.finetune import FinetuneConfig, finetuned_encoder
from speechssl.stages.pretrain import PretrainConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.train.optim import OptimConfig

__all__ = ["SIZES", "VOCABULARY", "Size", "equal_batch"]

RECIPES = Path(__file__).parents[1]
VOCABULARY = 32  # letters and the blank, where the text is made up
LETTERS_A_SECOND = 12


@dataclass(frozen=True, kw_only=True)
class Size:
    """A trunk with its objectives, and the batch of equal lengths that it is measured on."""

    name: str
    encoder: EncoderConfig
    contrastive: ContrastiveConfig
    masked_prediction: MaskedPredictionConfig
    clusters: tuple[int, ...]
    optim: OptimConfig  # of pretraining
    ctc_encoder: EncoderConfig
    ctc: CTCConfig
    ctc_optim: OptimConfig
    utterances: int
    seconds: float
    turns: int  # steps in a turn, so that a turn lasts long enough to be timed


def _base() -> Size:
    """BASE with the dropouts of the reference; fine-tuning as for ten hours, past the steps with a frozen trunk.

    Masks and epsilon are those of the papers and of torch, so that all contenders mask and update alike.
    """
    encoder = EncoderConfig.base()
    pretrain = load(RECIPES / "wav2vec2_base" / "pretrain.yaml", PretrainConfig)
    finetune = load(RECIPES / "finetune" / "ctc_10h.yaml", FinetuneConfig)
    masks = {
        name: dataclasses.replace(getattr(finetune.ctc, name), last_frame=True, same_count=False)
        for name in ("mask", "channel_mask")
    }
    return Size(
        name="base",
        encoder=encoder,
        contrastive=ContrastiveConfig(),
        masked_prediction=MaskedPredictionConfig(),
        clusters=(100,),
        optim=dataclasses.replace(pretrain.optim, eps_before_correction=False),
        ctc_encoder=finetuned_encoder(encoder, finetune),
        ctc=dataclasses.replace(finetune.ctc, freeze_steps=0, **masks),
        ctc_optim=dataclasses.replace(finetune.optim, eps_before_correction=False),
        utterances=4,
        seconds=5.0,
        turns=1,
    )


def _small() -> Size:
    """The CPU configuration of recipes/registry_pool."""
    folder = RECIPES / "registry_pool"
    hubert, wav2vec2 = (load(folder / f"{name}.yaml", PretrainConfig) for name in ("hubert", "wav2vec2"))
    finetune = load(folder / "pretrained.yaml", FinetuneConfig)
    assert hubert.encoder is not None and hubert.encoder == wav2vec2.encoder
    assert isinstance(hubert.objective, MaskedPredictionConfig) and isinstance(wav2vec2.objective, ContrastiveConfig)
    return Size(
        name="small",
        encoder=hubert.encoder,
        contrastive=wav2vec2.objective,
        masked_prediction=hubert.objective,
        clusters=(100, 500),
        optim=hubert.optim,
        ctc_encoder=finetuned_encoder(hubert.encoder, finetune),
        ctc=finetune.ctc,
        ctc_optim=finetune.optim,
        utterances=8,
        seconds=4.0,
        turns=4,
    )


def _small_with_dropout() -> Size:
    """The same with a tenth dropped out wherever BASE does."""
    small = _small()
    transformer = dataclasses.replace(small.encoder.transformer, dropout=0.1, attention_dropout=0.1)
    encoder = dataclasses.replace(small.encoder, transformer=transformer, feature_dropout=0.1)
    return dataclasses.replace(
        small,
        name="small-dropout",
        encoder=encoder,
        contrastive=dataclasses.replace(small.contrastive, feature_dropout=0.1),
        ctc_encoder=encoder,
    )


SIZES = {"base": _base, "small": _small, "small-dropout": _small_with_dropout}


def equal_batch(size: Size, *, seed: int) -> Batch:
    """Make up utterances of one length, with labels of every stream and text."""
    generator = torch.Generator().manual_seed(seed)
    time = int(size.seconds * SAMPLE_RATE)
    frames = frame_count(time, size.encoder.conv)
    tokens = int(size.seconds * LETTERS_A_SECOND)
    shape = (size.utterances, frames)
    return Batch(
        ids=tuple(f"u{index}" for index in range(size.utterances)),
        waveforms=0.1 * torch.randn((size.utterances, time), generator=generator),
        num_samples=torch.full((size.utterances,), time),
        labels=torch.stack([torch.randint(clusters, shape, generator=generator) for clusters in size.clusters]),
        targets=torch.randint(1, VOCABULARY, (size.utterances, tokens), generator=generator),
        target_lengths=torch.full((size.utterances,), tokens),
    )
