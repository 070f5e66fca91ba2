"""Models of every task, with three layers."""

import dataclasses

import pytest

from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.registry import build_objective
from speechssl.tasks.teacher import TeacherConfig


@pytest.fixture
def models(tiny_encoder: EncoderConfig) -> dict[str, PretrainModel | CTCModel]:
    """Return a model of each task."""
    encoder = dataclasses.replace(tiny_encoder, transformer=dataclasses.replace(tiny_encoder.transformer, num_layers=3))
    contrastive = ContrastiveConfig(dim=8, negatives=7, cross_negatives=2, quantizer=QuantizerConfig(entries=4, dim=8))
    units = MaskedPredictionConfig(dim=8)
    return {
        "contrastive": PretrainModel(
            SpeechEncoder(encoder), build_objective(contrastive, dim=32, conv_dim=16, clusters=())
        ),
        "masked_prediction": PretrainModel(
            SpeechEncoder(encoder), build_objective(units, dim=32, conv_dim=16, clusters=(5, 3))
        ),
        "teacher": PretrainModel(
            SpeechEncoder(encoder), build_objective(TeacherConfig(layers=3), dim=32, conv_dim=16, clusters=())
        ),
        "ctc": CTCModel(SpeechEncoder(encoder), CTCConfig(freeze_steps=17), 6),
    }
