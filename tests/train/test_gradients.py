"""Gradient norms by part: speechssl.train.gradients."""

import dataclasses
import math

import pytest
import torch

from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.objective.contrastive import ContrastiveConfig
from speechssl.objective.ctc import CTCConfig, CTCModel
from speechssl.objective.masked_prediction import MaskedPredictionConfig
from speechssl.objective.pretraining import PretrainModel, build_objective
from speechssl.objective.quantizer import QuantizerConfig
from speechssl.train.gradients import gradient_norms


def _models(encoder: EncoderConfig) -> dict[str, PretrainModel | CTCModel]:
    encoder = dataclasses.replace(encoder, transformer=dataclasses.replace(encoder.transformer, num_layers=3))
    contrastive = ContrastiveConfig(
        dim=8, distractors=7, cross_distractors=2, quantizer=QuantizerConfig(entries=4, dim=8)
    )
    units = MaskedPredictionConfig(dim=8)
    return {
        "contrastive": PretrainModel(
            SpeechEncoder(encoder), build_objective(contrastive, dim=32, conv_dim=16, clusters=())
        ),
        "masked_prediction": PretrainModel(
            SpeechEncoder(encoder), build_objective(units, dim=32, conv_dim=16, clusters=(5, 3))
        ),
        "ctc": CTCModel(SpeechEncoder(encoder), CTCConfig(freeze_steps=17), 6),
    }


@pytest.mark.parametrize("kind", ["contrastive", "masked_prediction", "ctc"])
def test_the_norms_of_the_parts_make_up_the_whole(tiny_encoder, kind: str) -> None:
    model = _models(tiny_encoder)[kind]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    norms = gradient_norms(model)
    parts = ["projection", "positions", "first_layers", "middle_layers", "last_layers", "head"]
    parts += [] if kind == "ctc" else ["extractor"]  # which CTC freezes
    assert {*norms} == {f"grad_norm_{part}" for part in parts}
    whole = math.sqrt(sum(norm.item() ** 2 for norm in norms.values()))
    assert whole == pytest.approx(math.sqrt(sum(p.grad.square().sum().item() for p in parameters)), rel=1e-5)


def test_a_part_is_where_its_parameters_are(tiny_encoder) -> None:
    model = _models(tiny_encoder)["masked_prediction"]
    chosen = {
        "extractor": model.encoder.conv.convs[0].weight,
        "projection": model.encoder.mask_vector,
        "first_layers": model.encoder.transformer.layers[0].expand.bias,
        "middle_layers": model.encoder.transformer.layers[1].expand.bias,
        "last_layers": model.encoder.transformer.layers[2].expand.bias,
        "head": model.objective.embeddings[0],
        "positions": model.encoder.transformer.positions.conv.bias,
    }
    for part, parameter in chosen.items():
        model.zero_grad()
        parameter.grad = torch.ones_like(parameter)
        assert {name: norm.item() for name, norm in gradient_norms(model).items()} == pytest.approx(
            {f"grad_norm_{part}": math.sqrt(parameter.numel())}
        )
