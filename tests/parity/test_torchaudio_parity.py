"""The trunk and masked prediction against torchaudio's HuBERT, with the same weights.

Where they differ by design: torchaudio's logits hold the true unit twice, first and then struck out at its own
place; it takes the feature penalty over padded frames too.
"""

import pytest
import torch
from torch import nn
from torchaudio.models import HuBERTPretrainModel, hubert_pretrain_model

from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.objective.masked_prediction import MaskedPredictionConfig, MaskedPredictionObjective
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, randomise, tiny_encoder
from tests.parity.weights import copy_into, copy_module, copy_trunk

pytestmark = pytest.mark.parity

FORMS = pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
IS_MASKED = noise(2, 21, seed=1) > 0
LABELS = torch.randint(5, (2, 21), generator=torch.Generator().manual_seed(0))


class _FixedMask(nn.Module):
    """Stands in for torchaudio's mask generator, which draws from numpy."""

    def __init__(self, mask_vector: torch.Tensor) -> None:
        super().__init__()
        self.mask_vector = mask_vector

    def forward(self, x: torch.Tensor, _: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.where(IS_MASKED[..., None], self.mask_vector, x), IS_MASKED


def _theirs(config: EncoderConfig) -> HuBERTPretrainModel:
    transformer = config.transformer
    return hubert_pretrain_model(
        extractor_mode={"group": "group_norm", "layer": "layer_norm"}[config.conv_norm],
        extractor_conv_layer_config=list(config.conv),
        extractor_conv_bias=config.conv_bias,
        encoder_embed_dim=transformer.dim,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=transformer.position_kernel,
        encoder_pos_conv_groups=transformer.position_groups,
        encoder_num_layers=transformer.num_layers,
        encoder_num_heads=transformer.num_heads,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=transformer.ffn_dim,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=transformer.norm == "pre",
        encoder_layer_drop=0.0,
        mask_prob=0.8,
        mask_selection="static",
        mask_other=0.0,
        mask_length=10,
        no_mask_overlap=False,
        mask_min_space=1,
        mask_channel_prob=0.0,
        mask_channel_selection="static",
        mask_channel_other=0.0,
        mask_channel_length=10,
        no_mask_channel_overlap=False,
        mask_channel_min_space=1,
        skip_masked=False,
        skip_nomask=False,
        num_classes=5,
        final_dim=8,
        feature_grad_mult=None,
    ).eval()


def _pair(config: EncoderConfig) -> tuple[SpeechEncoder, MaskedPredictionObjective, HuBERTPretrainModel]:
    encoder, theirs = tiny_encoder(config), _theirs(config)
    settings = MaskedPredictionConfig(dim=8, unmasked_weight=1.0)
    objective = MaskedPredictionObjective(settings, dim=32, clusters=(5,))
    randomise(objective)
    for index, block in enumerate(theirs.wav2vec2.feature_extractor.conv_layers):
        copy_module(block.conv, encoder.conv.convs[index])
        if index < len(encoder.conv.norms):
            copy_module(block.layer_norm, encoder.conv.norms[index])
    projection = theirs.wav2vec2.encoder.feature_projection
    copy_module(projection.layer_norm, encoder.norm)
    copy_module(projection.projection, encoder.project)
    copy_trunk(theirs.wav2vec2.encoder.transformer, encoder)
    copy_into(theirs.logit_generator.label_embeddings, objective.embeddings[0])
    copy_module(theirs.logit_generator.final_proj, objective.project)
    theirs.mask_generator = _FixedMask(encoder.mask_vector)
    return encoder, objective, theirs


@FORMS
def test_masked_and_unmasked_logits_equal_torchaudios(config: EncoderConfig) -> None:
    encoder, objective, theirs = _pair(config)
    waveforms = noise(2, 430)
    encoded = encoder(waveforms, torch.tensor([430, 430]), IS_MASKED)
    for is_chosen, expected in zip((IS_MASKED, ~IS_MASKED), theirs(waveforms, LABELS), strict=False):
        found = objective.logits(encoded.last[is_chosen])[0]
        target = LABELS[is_chosen][:, None]
        torch.testing.assert_close(found.gather(1, target), expected[:, :1], rtol=1e-4, atol=1e-4)
        struck_out = found.scatter(1, target, -torch.inf)
        torch.testing.assert_close(struck_out, expected[:, 1:], rtol=1e-4, atol=1e-4)


@FORMS
def test_loss_equals_torchaudios(config: EncoderConfig) -> None:
    encoder, objective, theirs = _pair(config)
    waveforms = noise(2, 430)
    found = objective(encoder(waveforms, torch.tensor([430, 430]), IS_MASKED), IS_MASKED, LABELS[None])
    on_masked, on_unmasked, penalty = theirs(waveforms, LABELS)
    losses = [
        nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="sum")
        for logits in (on_masked, on_unmasked)
    ]
    expected = sum(losses) + 10 * penalty * LABELS.numel()  # torchaudio's recipe: weight 10, times the frames
    assert found.value.item() == pytest.approx(expected.item(), rel=1e-4)


def test_layers_equal_torchaudios_features() -> None:
    encoder, _, theirs = _pair(BASE_LIKE)
    waveforms = noise(2, 430)
    found = encoder(waveforms, torch.tensor([430, 430])).layers
    expected, _ = theirs.wav2vec2.extract_features(waveforms)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)


def test_padded_batch_equals_torchaudios_with_layer_norm() -> None:
    encoder, _, theirs = _pair(LARGE_LIKE)
    waveforms, lengths = noise(2, 430), torch.tensor([430, 250])
    waveforms[1, 250:] = 0
    found = encoder(waveforms, lengths)
    expected, counts = theirs.wav2vec2(waveforms, lengths)
    assert found.is_valid.sum(1).tolist() == counts.tolist()
    torch.testing.assert_close(found.last[found.is_valid], expected[found.is_valid], rtol=1e-4, atol=1e-4)
