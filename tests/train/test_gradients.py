"""Gradient norms by part: speechssl.train.gradients."""

import math

import pytest
import torch

from speechssl.train.gradients import gradient_norms


@pytest.mark.parametrize("kind", ["contrastive", "masked_prediction", "teacher", "ctc"])
def test_the_norms_of_the_parts_make_up_the_whole(models, kind: str) -> None:
    model = models[kind]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    norms = gradient_norms(model)
    parts = ["projection", "positions", "first_layers", "middle_layers", "last_layers", "head"]
    parts += [] if kind == "ctc" else ["extractor"]  # which CTC freezes
    assert {*norms} == {f"grad_norm_{part}" for part in parts}
    whole = math.sqrt(sum(norm.item() ** 2 for norm in norms.values()))
    assert whole == pytest.approx(math.sqrt(sum(p.grad.square().sum().item() for p in parameters)), rel=1e-5)


def test_a_part_is_where_its_parameters_are(models) -> None:
    model = models["masked_prediction"]
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
