"""The Gumbel product quantizer: speechssl.tasks.quantizer."""

from collections import Counter

import pytest
import torch

from speechssl.errors import ConfigError
from speechssl.tasks.quantizer import Quantized, Quantizer, QuantizerConfig
from tests.model.tiny import noise, randomise
from tests.oracles.contrastive import oracle_perplexity

TINY = QuantizerConfig(groups=2, entries=5, dim=12)


def _quantizer(config: QuantizerConfig = TINY) -> Quantizer:
    quantizer = Quantizer(config, 16)
    randomise(quantizer)
    return quantizer


def _quantize(quantizer: Quantizer, features: torch.Tensor, temperature: float = 1.0, seed: int = 0) -> Quantized:
    return quantizer(features, temperature=temperature, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("is_training", [True, False])
def test_vectors_are_exactly_the_chosen_entries(is_training: bool) -> None:
    quantizer = _quantizer().train(is_training)
    quantized = _quantize(quantizer, noise(50, 16))
    expected = torch.stack(
        [torch.cat([quantizer.codebook[g, code] for g, code in enumerate(codes)]) for codes in quantized.codes.tolist()]
    )
    assert torch.equal(quantized.vectors, expected)


def test_evaluation_chooses_the_best_entry_without_drawing() -> None:
    quantizer = _quantizer().eval()
    features = noise(50, 16)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    quantized = quantizer(features, temperature=1.0, generator=generator)
    scores = quantizer.score(features).tolist()
    expected = [[row[5 * g : 5 * g + 5].index(max(row[5 * g : 5 * g + 5])) for g in range(2)] for row in scores]
    assert quantized.codes.tolist() == expected
    assert torch.equal(generator.get_state(), before)


def test_training_draws_from_the_generator_and_nothing_else() -> None:
    quantizer, features = _quantizer(), noise(50, 16)
    torch.manual_seed(0)
    first = _quantize(quantizer, features, seed=1).codes
    torch.manual_seed(1)
    assert torch.equal(first, _quantize(quantizer, features, seed=1).codes)
    assert not torch.equal(first, _quantize(quantizer, features, seed=2).codes)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_of_the_scores(temperature: float) -> None:
    quantizer = _quantizer()
    feature, frames = noise(1, 16), 20_000
    codes = _quantize(quantizer, feature.expand(frames, -1), temperature).codes
    expected = quantizer.score(feature).view(2, 5).softmax(-1)
    for group in range(2):
        counts = Counter(codes[:, group].tolist())
        for entry in range(5):
            assert counts[entry] / frames == pytest.approx(expected[group, entry].item(), abs=0.015)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_gradient_reaches_the_scores_as_if_the_choice_were_soft(temperature: float) -> None:
    quantizer, features, cotangent = _quantizer(), noise(7, 16), noise(7, 12, seed=1)
    _quantize(quantizer, features, temperature, seed=3).vectors.backward(cotangent)

    uniform = torch.rand(7, 2, 5, generator=torch.Generator().manual_seed(3))
    noisy = quantizer.score(features).view(7, 2, 5) - torch.log(-torch.log(uniform))
    probabilities = (noisy / temperature).softmax(-1)
    soft = torch.cat([probabilities[:, group] @ quantizer.codebook[group].detach() for group in range(2)], 1)
    expected = torch.autograd.grad(soft, [quantizer.score.weight, quantizer.score.bias], cotangent)

    assert float(expected[0].abs().max()) > 1e-3
    torch.testing.assert_close(quantizer.score.weight.grad, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quantizer.score.bias.grad, expected[1], rtol=1e-4, atol=1e-5)


def test_codebook_gradient_reaches_the_chosen_entries_only() -> None:
    quantizer = _quantizer()
    quantized = _quantize(quantizer, noise(3, 16))
    quantized.vectors.sum().backward()
    for group in range(2):
        uses = Counter(quantized.codes[:, group].tolist())
        expected = [[float(uses[entry])] * 6 for entry in range(5)]
        assert quantizer.codebook.grad[group].tolist() == expected


def test_perplexities_are_summed_over_the_groups() -> None:
    quantizer, features = _quantizer().eval(), noise(50, 16)
    quantized = _quantize(quantizer, features)
    average = quantizer.score(features).view(50, 2, 5).softmax(-1).mean(0)
    soft = sum(oracle_perplexity(row) for row in average.tolist())
    counts = [Counter(quantized.codes[:, group].tolist()) for group in range(2)]
    hard = sum(oracle_perplexity([count / 50 for count in row.values()]) for row in counts)
    assert quantized.soft_perplexity.item() == pytest.approx(soft, rel=1e-4)
    assert float(quantized.hard_perplexity) == pytest.approx(hard, rel=1e-4)


def test_even_use_gives_the_largest_perplexity_and_one_entry_the_smallest() -> None:
    quantizer = _quantizer().eval()
    with torch.no_grad():
        quantizer.score.weight.zero_()
        quantizer.score.bias.zero_()
        even = _quantize(quantizer, noise(50, 16))
        quantizer.score.bias[0], quantizer.score.bias[7] = 100.0, 100.0
        single = _quantize(quantizer, noise(50, 16))
    assert even.soft_perplexity.item() == pytest.approx(10, abs=1e-3)
    assert single.soft_perplexity.item() == pytest.approx(2, abs=1e-3)
    assert float(single.hard_perplexity) == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_perplexities_lie_between_one_and_all_entries_of_each_group(seed: int) -> None:
    quantized = _quantize(_quantizer(), noise(30, 16, seed=seed), seed=seed)
    for perplexity in (quantized.soft_perplexity, quantized.hard_perplexity):
        assert 2 <= perplexity.item() <= 10


def test_only_the_soft_perplexity_carries_a_gradient() -> None:
    quantizer = _quantizer()
    quantized = _quantize(quantizer, noise(30, 16))
    assert not quantized.hard_perplexity.requires_grad
    quantized.soft_perplexity.backward()
    assert float(quantizer.score.weight.grad.abs().max()) > 0


def test_vectors_stay_in_float32_under_autocast() -> None:
    quantizer = _quantizer()
    with torch.autocast("cpu", torch.bfloat16):
        quantized = _quantize(quantizer, noise(5, 16))
    assert quantized.soft_perplexity.dtype == torch.float32
    assert torch.isfinite(quantized.vectors).all()


@pytest.mark.parametrize(
    ("step", "temperature"), [(0, 2.0), (1, 1.99999), (100_000, 2 * 0.999995**100_000), (400_000, 0.5), (10**7, 0.5)]
)
def test_temperature_decays_from_two_to_one_half(step: int, temperature: float) -> None:
    assert QuantizerConfig().temperature(step) == pytest.approx(temperature)


def test_dim_must_be_a_multiple_of_the_groups() -> None:
    with pytest.raises(ConfigError, match=r"quantizer\.dim is 256, expected a multiple of quantizer\.groups \(3\)"):
        QuantizerConfig(groups=3)
