"""Operations counted from a configuration: speechssl.tasks.flops. Those of plain models: test_benchmarks.py."""

import dataclasses

import pytest
import torch

from speechssl.model.encoder import EncoderConfig
from speechssl.model.hourglass import HourglassConfig
from speechssl.model.masking import MaskConfig, draw_spans
from speechssl.model.transformer import TransformerConfig
from speechssl.plan.costs import pretraining_flops
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.contrastive_targets import CopyConfig
from speechssl.tasks.flops import masked_share, trunk_products
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.visible import VisibleConfig


@pytest.mark.parametrize("utterances", [2, 8])
def test_the_least_masked_utterance_says_how_much_is_masked_where_all_are_masked_alike(utterances: int) -> None:
    config, generator = MaskConfig(same_count=True), torch.Generator().manual_seed(7)
    free = dataclasses.replace(config, same_count=False)
    drawn = [draw_spans(torch.full((utterances,), 300), 300, free, generator).sum(1).min().item() for _ in range(300)]
    found = masked_share(config, frames=300, utterances=utterances)
    assert found == pytest.approx(sum(drawn) / 300 / 300, abs=0.012)
    assert found < masked_share(free, frames=300, utterances=utterances)
    assert masked_share(config, frames=300) == masked_share(free)  # alone, it is the least masked


def test_log_mel_input_counts_its_filters_and_the_two_convolutions() -> None:
    encoder = dataclasses.replace(EncoderConfig.small(), input="log_mel", conv=((256, 3, 2), (128, 3, 2)))
    found = {each.part: each for each in trunk_products(encoder, 2, 64_000)}
    steps = 2 * torch.tensor([398, 198, 98])  # (64,000 - 400) / 160 + 1, and so on
    expected = {  # additions and multiplications, with the gradients that there are
        "log-mel": 2 * int(steps[0]) * 257 * 80,
        "extractor 1": 3 * 2 * int(steps[1]) * 80 * 3 * 256,
        "extractor 2": 3 * 2 * int(steps[2]) * 256 * 3 * 128,
        "projection": 3 * 2 * int(steps[2]) * 128 * 192,
    }
    assert {part: found[part].flops for part in expected} == expected


def test_layers_at_a_lower_frame_rate_cost_less() -> None:
    encoder = EncoderConfig.small()
    hourglass = dataclasses.replace(encoder.transformer, hourglass=HourglassConfig(factor=2))  # two layers of four

    def flops(transformer: TransformerConfig, part: str) -> float:
        products = trunk_products(dataclasses.replace(encoder, transformer=transformer), 1, 64_000)  # 99 frames
        return sum(product.flops for product in products if product.part == part)

    for part, lower in {
        "feed-forward": 50 / 99,
        "attention, maps": 50 / 99,
        "attention, products": (50 / 99) ** 2,
    }.items():
        assert flops(hourglass, part) == pytest.approx((1 + lower) / 2 * flops(encoder.transformer, part))
    for part in ("projection", "positions", "extractor 0"):
        assert flops(hourglass, part) == flops(encoder.transformer, part)


@pytest.mark.parametrize("decoder", ["conv", "transformer"])
def test_layers_of_visible_frames_cost_their_share_and_the_extractor_serves_all_masks(decoder) -> None:
    encoder, mask = EncoderConfig.small(), MaskConfig(start_prob=0.16, span=5)

    def flops(visible: VisibleConfig | None) -> float:
        return pretraining_flops(
            encoder, MaskedPredictionConfig(mask=mask, visible=visible), clusters=(100,), samples=80_000
        )

    visible = VisibleConfig(masks=3, layers=2, kernel=8, decoder=decoder)
    frames, seen = encoder_frames(encoder), round((1 - masked_share(mask)) * encoder_frames(encoder))
    whole = trunk_products(encoder, 1, 80_000)
    extractor = sum(each.flops for each in whole if each.part.startswith("extractor"))
    before = sum(each.flops for each in whole if each.part in ("projection", "positions"))
    per_layer = sum(each.flops for each in whole if each.part in ("attention, maps", "feed-forward")) / 4 / frames
    scores = sum(each.flops for each in whole if each.part == "attention, products") / 4 / frames**2
    heads = flops(None) - extractor - before - 4 * (per_layer * frames + scores * frames**2)
    conv = 3 * 2 * frames * 8 * 192 * 192 / 16  # one of the decoder, with its gradients
    one_mask = before + 4 * (per_layer * seen + scores * seen**2) + heads
    one_mask += 2 * conv if decoder == "conv" else conv + 2 * (per_layer * frames + scores * frames**2)
    assert flops(visible) == pytest.approx(extractor + 3 * one_mask, rel=1e-6)


def test_fewer_masked_frames_cost_fewer_operations() -> None:
    def flops(**mask: object) -> float:
        objective = MaskedPredictionConfig(mask=MaskConfig(**mask), unmasked_weight=0.0)  # type: ignore[arg-type]
        return pretraining_flops(EncoderConfig.small(), objective, clusters=(100,), samples=80_000, utterances=16)

    assert flops(same_count=True) < flops()


def test_log_mel_targets_cost_the_quantizer_other_products_and_a_copy_of_the_extractor_one_more_pass() -> None:
    encoder = EncoderConfig.small()  # frames of 40 ms, 256 channels
    plain = ContrastiveConfig()
    log_mel = dataclasses.replace(plain, targets="log_mel", copy=CopyConfig(tilt=0.1))
    copy = dataclasses.replace(plain, copy=CopyConfig(tilt=0.1))

    def flops(config: ContrastiveConfig) -> float:
        return pretraining_flops(encoder, config, clusters=(), samples=80_000)

    masked = round(masked_share(plain.mask) * encoder_frames(encoder))
    scored = 2 * masked * 640 * 2  # of an input of 256 channels with its gradient, or of 4 x 40 bins without
    assert flops(log_mel) - flops(plain) == pytest.approx(scored * (2 * 160 - 3 * 256) / 2)
    extractor = sum(
        product.flops for product in trunk_products(encoder, 1, 80_000) if product.part.startswith("extractor")
    )
    assert flops(copy) - flops(plain) == pytest.approx(extractor, rel=1e-2)  # of whole frames


def encoder_frames(encoder: EncoderConfig) -> int:
    return (80_000 - encoder.window) // encoder.hop + 1
