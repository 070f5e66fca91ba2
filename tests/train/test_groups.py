"""Layer-wise learning rates and their description: speechssl.train.groups."""

import re

import pytest
import torch
from torch import nn

from speechssl.errors import ConfigError
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.lora import LoraConfig
from speechssl.model.transformer import TransformerConfig
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.train.groups import describe_learning, parameter_groups
from speechssl.train.optim import OptimConfig, build_optimizer, set_learning_rate


def model(norm: str = "post", **ctc: object) -> CTCModel:
    transformer = TransformerConfig(
        dim=8, num_layers=2, num_heads=2, ffn_dim=8, position_kernel=4, position_groups=2, norm=norm
    )
    encoder = SpeechEncoder(EncoderConfig(conv=((4, 10, 5), (4, 4, 4)), transformer=transformer))
    return CTCModel(encoder, CTCConfig(freeze_steps=0, **ctc), 3)


def scales(model: nn.Module, decay: float, encoder_rate: float = 1.0) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, decay, encoder_rate)
    return {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}


def test_the_whole_encoder_may_learn_at_another_rate_than_the_head():
    tiny = model(freeze_conv=False)
    plain, slow = scales(tiny, 0.5), scales(tiny, 0.5, 0.1)
    assert {name: scale / plain[name] for name, scale in slow.items()} == pytest.approx(
        {name: 0.1 if name.startswith("encoder.") else 1.0 for name in plain}
    )
    assert "learning rate x 0.1 " in describe_learning(tiny, 1.0, 0.1)[0]
    with pytest.raises(ValueError, match="has no encoder, expected a TaskModel; set encoder_rate to 1"):
        parameter_groups(nn.Linear(2, 3), 1.0, 0.5)
    with pytest.raises(ConfigError, match=r"optim\.encoder_rate must not be negative, found -0\.1"):
        OptimConfig(encoder_rate=-0.1)


def test_an_encoder_with_the_rate_0_stays_as_it_is():
    tiny = model(freeze_conv=False)
    before = {name: each.detach().clone() for name, each in tiny.named_parameters()}
    optimizer = build_optimizer(tiny, OptimConfig(encoder_rate=0.0, weight_decay=0.5))
    set_learning_rate(optimizer, 5, 10, OptimConfig(lr=0.1))
    for parameter in tiny.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    same = {name for name, each in tiny.named_parameters() if torch.equal(each, before[name])}
    assert same == {name for name in before if name.startswith("encoder.")}


@pytest.mark.parametrize(
    ("norm", "name", "expected"),
    [
        ("post", "head.weight", 1.0),
        ("post", "encoder.transformer.layers.1.expand.bias", 0.5),
        ("post", "encoder.transformer.layers.0.attention.project_in.weight", 0.25),
        ("post", "encoder.transformer.positions", 0.125),
        ("post", "encoder.mask_vector", 0.125),
        ("post", "encoder.conv", 0.125),
        ("post", "encoder.transformer.norm.weight", 0.125),  # before the layers
        ("pre", "encoder.transformer.norm.weight", 1.0),  # after them
    ],
)
def test_each_layer_learns_slower_than_the_one_above_it(norm, name, expected):
    found = {value for key, value in scales(model(norm, freeze_conv=False), 0.5).items() if key.startswith(name)}
    assert found == {expected}


def test_groups_hold_what_learns_in_the_order_of_the_model():
    tiny = model(freeze_below=1)
    listed = [id(parameter) for group in parameter_groups(tiny, 0.5) for parameter in group["params"]]
    assert listed == [id(parameter) for parameter in tiny.parameters() if parameter.requires_grad]


def test_without_decay_there_is_one_group_of_any_model():
    (group,) = parameter_groups(nn.Linear(2, 3), 1.0)
    assert (len(group["params"]), group["lr_scale"]) == (2, 1.0)
    with pytest.raises(ValueError, match="a Linear has no encoder, expected a TaskModel; set layer_decay to 1"):
        parameter_groups(nn.Linear(2, 3), 0.9)


@pytest.mark.parametrize("decay", [0.0, -0.1, 1.1])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ConfigError, match=rf"optim\.layer_decay must lie above 0 and at most at 1, found {decay}"):
        OptimConfig(layer_decay=decay)


def test_a_step_moves_each_part_by_its_rate():
    tiny = model(freeze_conv=False)
    before = {name: parameter.detach().clone() for name, parameter in tiny.named_parameters()}
    optimizer = build_optimizer(tiny, OptimConfig(layer_decay=0.5, weight_decay=0.0))
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["lr_scale"]
    for parameter in tiny.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: (before[name] - parameter).mean().item() for name, parameter in tiny.named_parameters()}
    assert moved == pytest.approx({name: 0.1 * scale for name, scale in scales(tiny, 0.5).items()}, rel=1e-3)


@pytest.mark.parametrize(
    ("tiny", "decay", "expected"),
    [
        (model(), 1.0, ["frozen extractor", "x 1 projection, positions, norms to head"]),
        (model(freeze_below=1), 0.5, ["frozen extractor to layer 0", "x 0.5 layer 1", "x 1 head"]),
        (model(lora=LoraConfig(rank=2)), 1.0, ["frozen extractor to layer 1", "x 1 adapters to head"]),
        (model(lora=LoraConfig(rank=2)), 0.5, ["frozen extractor to layer 1", "x 0.25 adapters", "x 0.5 adapters"]),
    ],
)
def test_what_learns_is_listed_from_the_waveform_up_with_every_parameter_counted(tiny, decay, expected):
    lines = describe_learning(tiny, decay)
    found = [re.sub(r"^learning rate (\w+(?: [\d.]+)?) +[\d,]+ parameters: ", r"\1 ", line) for line in lines]
    assert found[: len(expected)] == expected
    numbers = [int(re.search(r"([\d,]+) parameters", line)[1].replace(",", "")) for line in lines]
    assert sum(numbers) == sum(parameter.numel() for parameter in tiny.parameters())
