"""Small models of every method, with random weights, and what they compute."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechssl.hub.saved import Description, SavedModel, build_model
from speechssl.model.encoder import EncoderConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.quantizer import QuantizerConfig
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, randomise

SQUARE = dataclasses.replace(BASE_LIKE, conv=((8, 10, 5), (12, 3, 2), (32, 2, 2)))  # as many channels as dim
FORMS = pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
NINE_LAYERS = {  # transformers' settings of an architecture like that of BASE, each layer small
    "conv_dim": [8, 12, 16],
    "conv_kernel": [10, 4, 8],
    "conv_stride": [5, 4, 8],
    "num_feat_extract_layers": 3,
    "hidden_size": 32,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 4,
}
CONTRASTIVE = ContrastiveConfig(dim=8, feature_dropout=0.2, quantizer=QuantizerConfig(groups=2, entries=5, dim=12))
VOCABULARY = ("<blank>", "|", "a", "б", "न")
WAVEFORM = noise(1, 4300)[0]

_HEADS = {
    "encoder": {},
    "wav2vec2": {"objective": CONTRASTIVE},
    "hubert": {"objective": MaskedPredictionConfig(dim=8), "clusters": (5,)},
    "ctc": {"ctc": CTCConfig(dropout=0.2), "vocabulary": VOCABULARY},
}


def model_of(method: str, config: EncoderConfig = BASE_LIKE, **described: object) -> SavedModel:
    description = Description(encoder=config, **{**_HEADS[method], **described})
    model = build_model(description)
    randomise(model)
    return SavedModel(description=description, tensors=model.state_dict(), name="made here")


@torch.no_grad()
def our_output(model: SavedModel, waveform: Tensor = WAVEFORM) -> Tensor:
    encoded = model.encoder()(waveform[None], torch.tensor([len(waveform)]))
    return encoded.last[0] if model.description.ctc is None else model.recogniser()[0].head(encoded.last)[0]


def batch_of(lengths: list[int], hop: int) -> tuple[Tensor, Tensor]:
    """Return waveforms of so many hops and a few samples, with noise in the padding too, and their lengths."""
    num_samples = torch.tensor(lengths) * hop + 7
    return noise(len(lengths), int(num_samples.max())), num_samples


@torch.no_grad()
def run_eagerly(model: SavedModel, waveforms: Tensor, num_samples: Tensor) -> list[Tensor]:
    """Return (frames, dim or vocab) of each row, without its padding."""
    encoded = model.encoder()(waveforms, num_samples)
    output = model.recogniser()[0].head(encoded.last) if model.description.ctc else encoded.last
    return [row[valid] for row, valid in zip(output, encoded.is_valid, strict=True)]


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def broken_copies(whole: bytes) -> Iterator[bytes]:
    """Yield what a file becomes when it is cut, emptied, or was never one."""
    yield from (whole[:-10], whole[: len(whole) // 2], whole[:1000], b"", b"no checkpoint" * 100, b"PK\x03\x04" * 50)
