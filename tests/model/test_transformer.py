"""Transformer layers over frames: speechssl.model.transformer."""

import dataclasses
import itertools

import pytest
import torch

from speechssl.errors import ConfigError
from speechssl.model.attention import SelfAttention
from speechssl.model.context import StepContext
from speechssl.model.positions import PositionalConv
from speechssl.model.transformer import Layer, Transformer, TransformerConfig
from tests.model.tiny import TINY_TRANSFORMER, noise, randomise
from tests.oracles.trunk import oracle_attention, oracle_grouped_conv


@torch.no_grad()
@pytest.mark.parametrize("valid", [7, 4])
def test_attention_equals_the_softmax_of_its_definition(valid: int) -> None:
    attention = SelfAttention(32, 4, dropout=0.0)
    randomise(attention)
    x = noise(7, 32)
    is_attended = (torch.arange(7) < valid)[None] if valid < 7 else None

    found = attention(x[None], is_attended)[0, :valid]

    query, key, value = attention.project_in(x[:valid]).chunk(3, dim=-1)
    expected = attention.project_out(oracle_attention(query, key, value, 4))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [5, 6])
def test_positions_are_a_weight_normed_convolution_centred_on_each_frame(kernel: int) -> None:
    positions = PositionalConv(8, kernel, groups=2)
    randomise(positions)
    x = noise(9, 8)
    magnitude, direction = (
        positions.conv.parametrizations.weight.original0,
        positions.conv.parametrizations.weight.original1,
    )
    weight = magnitude * direction / direction.square().sum((0, 1), keepdim=True).sqrt()  # one norm for each tap
    expected = torch.nn.functional.gelu(oracle_grouped_conv(x, weight, positions.conv.bias, groups=2))
    torch.testing.assert_close(positions(x[None])[0], expected, rtol=1e-4, atol=1e-5)


def test_post_norm_layer_normalises_each_sum() -> None:
    layer = Layer(TINY_TRANSFORMER)
    randomise(layer)
    x = noise(2, 7, 32)
    middle = layer.attention_norm(x + layer.attention(x, None))
    feed_forward = layer.contract(torch.nn.functional.gelu(layer.expand(middle)))
    torch.testing.assert_close(layer(x, None), layer.ffn_norm(middle + feed_forward))


def test_pre_norm_layer_normalises_what_enters_each_branch() -> None:
    layer = Layer(dataclasses.replace(TINY_TRANSFORMER, norm="pre"))
    randomise(layer)
    x = noise(2, 7, 32)
    middle = x + layer.attention(layer.attention_norm(x), None)
    feed_forward = layer.contract(torch.nn.functional.gelu(layer.expand(layer.ffn_norm(middle))))
    torch.testing.assert_close(layer(x, None), middle + feed_forward)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_stopping_early_returns_the_first_layers_before_the_final_norm(norm: str) -> None:
    transformer = Transformer(dataclasses.replace(TINY_TRANSFORMER, norm=norm, num_layers=3))
    randomise(transformer)
    x, is_valid = noise(2, 7, 32), torch.ones(2, 7, dtype=torch.bool)
    complete, early = transformer(x, is_valid), transformer(x, is_valid, num_layers=2)
    assert (len(complete), len(early)) == (3, 2)
    torch.testing.assert_close(early, complete[:2])


def test_pre_norm_passes_only_the_last_layer_through_the_final_norm() -> None:
    transformer = Transformer(dataclasses.replace(TINY_TRANSFORMER, norm="pre"))
    randomise(transformer)
    x, is_valid = noise(2, 7, 32), torch.ones(2, 7, dtype=torch.bool)
    first, last = transformer(x, is_valid)
    torch.testing.assert_close(last, transformer.norm(transformer.layers[1](first, None)))


def test_stopping_early_does_not_run_the_layers_above() -> None:
    transformer = Transformer(TINY_TRANSFORMER)
    calls: list[int] = []
    for index, layer in enumerate(transformer.layers):
        layer.register_forward_hook(lambda *_, index=index: calls.append(index))
    transformer(noise(1, 7, 32), torch.ones(1, 7, dtype=torch.bool), num_layers=1)
    assert calls == [0]


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_layer_drop_skips_that_share_of_the_layers_and_keeps_their_number(probability: float) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY_TRANSFORMER, num_layers=100, layer_drop=probability, ffn_dim=4)
    transformer = Transformer(config)
    outputs = transformer(noise(1, 3, 32), torch.ones(1, 3, dtype=torch.bool))
    skipped = sum(torch.equal(one, other) for one, other in itertools.pairwise(outputs))
    assert len(outputs) == 100
    assert abs(skipped / 99 - probability) < 0.12


def dropping(probability: float = 0.4, **changes: object) -> Transformer:
    transformer = Transformer(dataclasses.replace(TINY_TRANSFORMER, num_layers=6, layer_drop=probability, **changes))
    randomise(transformer)
    return transformer


def layers_run(transformer: Transformer, seed: int | None) -> list[int]:
    calls: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_, index=index: calls.append(index))
        for index, layer in enumerate(transformer.layers)
    ]
    transformer(noise(1, 3, 32), torch.ones(1, 3, dtype=torch.bool), context=StepContext(layer_seed=seed))
    for hook in hooks:
        hook.remove()
    return calls


def test_which_layers_are_dropped_depends_on_the_seed_alone_and_takes_nothing_from_the_default_generator() -> None:
    transformer = dropping()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = [layers_run(transformer, seed) for seed in range(20)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert [layers_run(transformer, seed) for seed in range(20)] == first
    assert len({tuple(run) for run in first}) > 10


def test_without_a_seed_each_call_drops_other_layers() -> None:
    transformer = dropping()
    assert len({tuple(layers_run(transformer, None)) for _ in range(20)}) > 5


@pytest.mark.parametrize("seed", [3, None])
def test_evaluation_drops_no_layer_whatever_the_seed(seed: int | None) -> None:
    assert layers_run(dropping().eval(), seed) == [*range(6)]


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_recomputed_layers_give_the_same_gradients_bit_for_bit_with_dropout(norm: str) -> None:
    transformer = dropping(norm=norm, dropout=0.2, attention_dropout=0.2, activation_dropout=0.2)
    gradients = []
    for transformer.recompute in (False, True):
        torch.manual_seed(0)
        x, is_valid = noise(2, 7, 32), torch.arange(7) < torch.tensor([[7], [5]])
        transformer(x, is_valid, context=StepContext(layer_seed=1))[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in transformer.parameters()])
        transformer.zero_grad()
    assert sum(gradient is None for gradient in gradients[0]) > 0
    for one, other in zip(*gradients, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_a_recomputed_layer_keeps_its_input_alone() -> None:
    transformer, sizes = dropping(probability=0.0), {}
    x, is_valid = noise(4, 50, 32), torch.ones(4, 50, dtype=torch.bool)
    for transformer.recompute in (False, True):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            transformer(x, is_valid)
        sizes[transformer.recompute] = sum(saved)
    assert sizes[True] < sizes[False] / 3


def test_evaluation_drops_no_layer() -> None:
    transformer = Transformer(dataclasses.replace(TINY_TRANSFORMER, layer_drop=1.0)).eval()
    first, last = transformer(noise(1, 3, 32), torch.ones(1, 3, dtype=torch.bool))
    assert not torch.equal(first, last)


@pytest.mark.parametrize("site", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_acts_in_training_only(site: str) -> None:
    transformer = Transformer(dataclasses.replace(TINY_TRANSFORMER, **{site: 0.5}))
    randomise(transformer)
    x, is_valid = noise(1, 7, 32), torch.ones(1, 7, dtype=torch.bool)
    torch.manual_seed(0)
    assert not torch.equal(transformer(x, is_valid)[-1], transformer(x, is_valid)[-1])
    transformer.eval()
    assert torch.equal(transformer(x, is_valid)[-1], transformer(x, is_valid)[-1])


@pytest.mark.parametrize("change", [{"num_heads": 5}, {"position_groups": 5}])
def test_dim_must_be_a_multiple_of_heads_and_groups(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"transformer\.dim is 768, expected a multiple of num_heads"):
        TransformerConfig(**change)
