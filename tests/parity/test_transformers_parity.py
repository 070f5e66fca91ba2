"""The trunk, the contrastive objective and CTC against transformers, with the same weights.

Where they differ by design: transformers takes the group norm's statistics over the padding too, so padded batches
are compared with layer norm only; it takes the perplexity of the chosen entries instead of the softmax when not in
training; it has no feature penalty.
"""

import dataclasses

import pytest
import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining, Wav2Vec2Model

from speechssl.data.batching import Batch
from speechssl.model.conv import frame_count
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.masking import MaskConfig
from speechssl.objective.contrastive import ContrastiveConfig, ContrastiveObjective, draw_distractors
from speechssl.objective.ctc import CTCConfig, CTCModel
from speechssl.objective.quantizer import QuantizerConfig
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, TINY_STACK, noise, randomise, tiny_encoder
from tests.parity.weights import copy_into, copy_module, copy_trunk

pytestmark = pytest.mark.parity

FORMS = pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
QUANTIZER = QuantizerConfig(groups=2, entries=5, dim=12)
CONTRASTIVE = ContrastiveConfig(dim=8, distractors=6, feature_dropout=0.0, feature_penalty=0.0, quantizer=QUANTIZER)
LENGTHS = torch.tensor([430, 610, 820])


def _their_config(config: EncoderConfig) -> Wav2Vec2Config:
    transformer = config.transformer
    return Wav2Vec2Config(
        conv_dim=[channels for channels, _, _ in config.conv],
        conv_kernel=[kernel for _, kernel, _ in config.conv],
        conv_stride=[stride for _, _, stride in config.conv],
        num_feat_extract_layers=len(config.conv),
        feat_extract_norm=config.conv_norm,
        conv_bias=config.conv_bias,
        do_stable_layer_norm=transformer.norm == "pre",
        hidden_size=transformer.dim,
        num_hidden_layers=transformer.num_layers,
        num_attention_heads=transformer.num_heads,
        intermediate_size=transformer.ffn_dim,
        num_conv_pos_embeddings=transformer.position_kernel,
        num_conv_pos_embedding_groups=transformer.position_groups,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        feat_quantizer_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        num_codevector_groups=QUANTIZER.groups,
        num_codevectors_per_group=QUANTIZER.entries,
        codevector_dim=QUANTIZER.dim,
        proj_codevector_dim=CONTRASTIVE.dim,
        contrastive_logits_temperature=CONTRASTIVE.temperature,
        diversity_loss_weight=CONTRASTIVE.diversity_weight,
        vocab_size=4,
        pad_token_id=0,
        ctc_loss_reduction="sum",
        ctc_zero_infinity=True,
    )


def _copy_encoder(model: Wav2Vec2Model, encoder: SpeechEncoder) -> None:
    for index, block in enumerate(model.feature_extractor.conv_layers):
        copy_module(block.conv, encoder.conv.convs[index])
        if index < len(encoder.conv.norms):
            copy_module(block.layer_norm, encoder.conv.norms[index])
    copy_module(model.feature_projection.layer_norm, encoder.norm)
    copy_module(model.feature_projection.projection, encoder.project)
    copy_into(model.masked_spec_embed, encoder.mask_vector)
    copy_trunk(model.encoder, encoder)


def _pair(config: EncoderConfig) -> tuple[SpeechEncoder, Wav2Vec2Model]:
    ours, theirs = tiny_encoder(config), Wav2Vec2Model(_their_config(config)).eval()
    _copy_encoder(theirs, ours)
    return ours, theirs


def _is_real(lengths: Tensor) -> Tensor:
    return (torch.arange(int(lengths.max())) < lengths[:, None]).long()


@FORMS
def test_every_layer_equals_transformers(config: EncoderConfig) -> None:
    ours, theirs = _pair(config)
    waveforms, is_masked = noise(2, 430), noise(2, 21, seed=1) > 0
    found = ours(waveforms, torch.tensor([430, 430]), is_masked)
    expected = theirs(waveforms, mask_time_indices=is_masked, output_hidden_states=True)
    torch.testing.assert_close(found.features, expected.extract_features, rtol=1e-5, atol=1e-5)
    assert len(found.layers) == len(expected.hidden_states) - 1  # theirs begin with the input
    for layer, other in zip(found.layers, expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(layer, other, rtol=1e-5, atol=1e-5)


def test_padded_batch_equals_transformers_with_layer_norm() -> None:
    ours, theirs = _pair(LARGE_LIKE)
    waveforms = noise(3, 820) * _is_real(LENGTHS)
    found = ours(waveforms, LENGTHS)
    expected = theirs(waveforms, attention_mask=_is_real(LENGTHS))
    torch.testing.assert_close(
        found.last[found.is_valid], expected.last_hidden_state[found.is_valid], rtol=1e-5, atol=2e-5
    )


def test_padding_changes_the_group_norm_of_transformers_but_not_ours() -> None:
    ours, theirs = _pair(BASE_LIKE)
    waveforms = noise(1, 430)
    padded = torch.nn.functional.pad(waveforms, (0, 390))
    alone, together = (ours(x, torch.tensor([430])).last[:, :21] for x in (waveforms, padded))
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    mask = _is_real(torch.tensor([430]))
    alone = theirs(waveforms, attention_mask=mask).last_hidden_state
    together = theirs(padded, attention_mask=torch.nn.functional.pad(mask, (0, 390))).last_hidden_state[:, :21]
    assert (alone - together).abs().max() > 0.01


def _objective_pair(config: EncoderConfig) -> tuple[SpeechEncoder, ContrastiveObjective, Wav2Vec2ForPreTraining]:
    encoder, theirs = tiny_encoder(config), Wav2Vec2ForPreTraining(_their_config(config)).eval()
    objective = ContrastiveObjective(CONTRASTIVE, dim=32, conv_dim=16)
    randomise(objective)
    _copy_encoder(theirs.wav2vec2, encoder)
    copy_module(theirs.quantizer.weight_proj, objective.quantizer.score)
    copy_into(theirs.quantizer.codevectors, objective.quantizer.codebook.flatten(0, 1)[None])
    copy_module(theirs.project_q, objective.project_quantized)
    copy_module(theirs.project_hid, objective.project_context)
    return encoder, objective.eval(), theirs


def _their_negatives(is_masked: Tensor, distractors: Tensor) -> Tensor:
    """Turn positions among the masked frames into positions in the flattened batch."""
    negatives = torch.zeros(*is_masked.shape, distractors.shape[1], dtype=torch.long)
    negatives[is_masked] = is_masked.flatten().nonzero()[:, 0][distractors]
    return negatives


@FORMS
def test_contrastive_loss_equals_transformers(config: EncoderConfig) -> None:
    encoder, objective, theirs = _objective_pair(config)
    waveforms, is_masked = noise(3, 430), noise(3, 21, seed=1) > 0
    distractors = draw_distractors(is_masked.nonzero()[:, 0], 6, 0, torch.Generator().manual_seed(7))

    encoded = encoder(waveforms, torch.full((3,), 430), is_masked)
    found = objective(encoded, is_masked, step=0, generator=torch.Generator().manual_seed(7))
    expected = theirs(
        waveforms, mask_time_indices=is_masked, sampled_negative_indices=_their_negatives(is_masked, distractors)
    )

    count = int(is_masked.sum())
    assert int(found.count) == count
    loss = found.parts["contrastive_loss"].item() * count
    assert loss == pytest.approx(expected.contrastive_loss.item(), rel=1e-5)
    assert found.parts["code_perplexity"].item() == pytest.approx(expected.codevector_perplexity.item(), rel=1e-5)


@FORMS
def test_gradient_of_the_contrastive_loss_equals_transformers(config: EncoderConfig) -> None:
    encoder, objective, theirs = _objective_pair(config)
    waveforms, is_masked = noise(3, 430), noise(3, 21, seed=1) > 0
    distractors = draw_distractors(is_masked.nonzero()[:, 0], 6, 0, torch.Generator().manual_seed(7))
    objective.config = dataclasses.replace(CONTRASTIVE, diversity_weight=0.0)  # theirs has no gradient in evaluation

    encoded = encoder(waveforms, torch.full((3,), 430), is_masked)
    objective(encoded, is_masked, step=0, generator=torch.Generator().manual_seed(7)).value.backward()
    negatives = _their_negatives(is_masked, distractors)
    theirs(waveforms, mask_time_indices=is_masked, sampled_negative_indices=negatives).contrastive_loss.backward()

    blocks = theirs.wav2vec2.feature_extractor.conv_layers
    pairs = [
        *((ours.weight, block.conv.weight) for ours, block in zip(encoder.conv.convs, blocks, strict=True)),
        (encoder.mask_vector, theirs.wav2vec2.masked_spec_embed),
        (
            encoder.transformer.layers[0].expand.weight,
            theirs.wav2vec2.encoder.layers[0].feed_forward.intermediate_dense.weight,
        ),
        (objective.project_quantized.weight, theirs.project_q.weight),
        (objective.project_context.weight, theirs.project_hid.weight),
    ]
    for ours, other in pairs:
        difference = (ours.grad - other.grad).abs().max() / other.grad.abs().max()
        assert difference.item() < 1e-4


@FORMS
def test_diversity_loss_equals_transformers_in_training(config: EncoderConfig) -> None:
    encoder, objective, theirs = _objective_pair(config)
    waveforms, is_masked = noise(3, 430), noise(3, 21, seed=1) > 0
    distractors = draw_distractors(is_masked.nonzero()[:, 0], 6, 0, torch.Generator().manual_seed(7))
    encoded = encoder.train()(waveforms, torch.full((3,), 430), is_masked)
    found = objective.train()(encoded, is_masked, step=0, generator=torch.Generator())
    negatives = _their_negatives(is_masked, distractors)
    expected = theirs.train()(waveforms, mask_time_indices=is_masked, sampled_negative_indices=negatives)
    diversity = found.parts["diversity_loss"].item() * int(is_masked.sum())
    assert diversity == pytest.approx(expected.diversity_loss.item(), rel=1e-5)
    assert found.parts["soft_perplexity"].item() == pytest.approx(expected.codevector_perplexity.item(), rel=1e-5)


@pytest.mark.parametrize("is_padded", [False, True])
def test_ctc_loss_equals_transformers(is_padded: bool) -> None:
    no_mask = MaskConfig(start_prob=0, min_spans=0)
    ours = CTCModel(tiny_encoder(LARGE_LIKE), CTCConfig(mask=no_mask, channel_mask=no_mask), vocabulary_size=4).eval()
    randomise(ours.head)
    theirs = Wav2Vec2ForCTC(_their_config(LARGE_LIKE)).eval()
    _copy_encoder(theirs.wav2vec2, ours.encoder)
    copy_module(theirs.lm_head, ours.head)
    lengths = LENGTHS if is_padded else torch.full((3,), 820)
    targets, target_lengths = torch.tensor([[1, 2, 2], [3, 1, 0], [2, 0, 0]]), torch.tensor([3, 2, 1])
    is_target = torch.arange(3) < target_lengths[:, None]
    batch = Batch(
        ids=tuple("abc"),
        waveforms=noise(3, 820) * _is_real(lengths),
        num_samples=lengths,
        targets=targets,
        target_lengths=target_lengths,
    )
    found = ours(batch, step=0, generator=torch.Generator())
    expected = theirs(batch.waveforms, attention_mask=_is_real(lengths), labels=targets.masked_fill(~is_target, -100))
    assert found.value.item() == pytest.approx(expected.loss.item(), rel=1e-5)


def test_frame_counts_equal_transformers() -> None:
    lengths = torch.arange(30, 1000)
    expected = Wav2Vec2Model(_their_config(BASE_LIKE))._get_feat_extract_output_lengths(lengths)
    assert torch.equal(frame_count(lengths, TINY_STACK), expected)
