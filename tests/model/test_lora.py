"""Adapters: speechssl.model.lora."""

import pytest
import torch
from torch import nn

from speechssl.errors import ConfigError
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.lora import AdaptedLinear, LoraConfig, add_adapters, merged_tensors
from tests.model.tiny import noise, tiny_encoder

KINDS = [("query",), ("key", "out"), ("value", "query"), ("query", "key", "value", "out")]
LENGTHS = torch.tensor([110, 70])


def adapted(*projections: str, dropout: float = 0.0) -> tuple[SpeechEncoder, LoraConfig]:
    """Return an encoder with trained adapters."""
    config = LoraConfig(rank=3, alpha=5.0, projections=projections, dropout=dropout)  # type: ignore[arg-type]
    torch.manual_seed(1)
    encoder = add_adapters(tiny_encoder(), config)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith(".up"):
                parameter.normal_()
    return encoder.eval(), config


def encode(encoder: SpeechEncoder) -> torch.Tensor:
    return encoder(noise(2, 110), LENGTHS).last


@pytest.mark.parametrize("projections", KINDS, ids="-".join)
def test_merged_and_unmerged_encode_alike_and_unlike_the_plain_one(projections):
    encoder, config = adapted(*projections)
    plain = tiny_encoder().eval()
    plain.load_state_dict(merged_tensors(encoder.state_dict(), config))  # strictly: no adapter is left
    torch.testing.assert_close(encode(encoder), encode(plain), rtol=0, atol=1e-5)
    before = {name: value for name, value in encoder.state_dict().items() if not name.endswith((".up", ".down"))}
    plain.load_state_dict(before)
    assert (encode(encoder) - encode(plain)).abs().max() > 1e-2


@pytest.mark.parametrize(("name", "block"), [("query", 0), ("key", 1), ("value", 2)])
def test_an_adapter_changes_the_rows_of_its_own_projection_alone(name, block):
    encoder, config = adapted(name)
    weight = "transformer.layers.0.attention.project_in.weight"
    changed = (merged_tensors(encoder.state_dict(), config)[weight] != encoder.state_dict()[weight]).any(1)
    dim = encoder.config.transformer.dim
    assert changed.tolist() == [block * dim <= row < (block + 1) * dim for row in range(3 * dim)]


def test_what_is_added_is_alpha_by_rank_times_the_product():
    torch.manual_seed(0)
    layer = AdaptedLinear(nn.Linear(4, 6), LoraConfig(rank=2, alpha=3.0, projections=("key",)), (1,), 3)
    layer.up.data.normal_()
    x = noise(5, 4)
    expected = x @ layer.weight.T + layer.bias
    expected[:, 2:4] += 1.5 * (x @ layer.down[0].T) @ layer.up[0].T
    torch.testing.assert_close(layer(x), expected)


def test_new_adapters_change_nothing_and_alone_learn():
    encoder = tiny_encoder().eval()
    before = encode(encoder)
    add_adapters(encoder, LoraConfig())
    assert torch.equal(encode(encoder), before)
    learning = {name.split(".")[-1] for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert learning == {"down", "up"}
    encode(encoder.train()).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters() if parameter.requires_grad)


def test_dropout_is_of_the_adapters_input_alone():
    encoder, _ = adapted("query", dropout=0.5)
    layer = encoder.transformer.layers[0].attention.project_in
    layer.train()
    x = noise(3, encoder.config.transformer.dim)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    one, other = layer(x), layer(x)
    dim = encoder.config.transformer.dim
    assert torch.equal(one[:, dim:], plain[:, dim:])
    assert not torch.equal(one[:, :dim], other[:, :dim])


@pytest.mark.parametrize(("rank", "projections"), [(0, ("query",)), (4, ()), (4, ("query", "query"))])
def test_adapters_of_nothing_or_twice_are_refused(rank, projections):
    with pytest.raises(ConfigError, match=r"lora\.rank must be 1 or more and lora\.projections name some of query"):
        LoraConfig(rank=rank, projections=projections)
