"""The trunk and the contrastive objective against fairseq2's wav2vec 2.0, with the same weights.

Where they differ by design: fairseq2 takes the group norm's statistics and the feature penalty over the padding too,
so padded batches are compared with layer norm only; it scales the extractor's gradient in training only, ours always;
it has room for a single number of masked frames in every row of a batch, so the masks here have that.
"""

import dataclasses

import pytest
import torch
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig, Wav2Vec2Model, create_wav2vec2_model
from fairseq2.nn import BatchLayout
from torch import Tensor, nn

from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.transformer import PositionalConv
from speechssl.objective.contrastive import ContrastiveConfig, ContrastiveObjective
from speechssl.objective.quantizer import QuantizerConfig
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, randomise
from tests.parity.weights import copy_into, copy_module

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:`hg_exporter` is deprecated:DeprecationWarning"),  # fairseq2's use of its own
]

FORMS = pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
QUANTIZER = QuantizerConfig(groups=2, entries=5, dim=12)
CONTRASTIVE = ContrastiveConfig(dim=8, distractors=6, feature_dropout=0.0, quantizer=QUANTIZER)
WAVEFORMS = noise(3, 430)
WHOLE = torch.full((3,), 430)
IS_MASKED = noise(3, 21, seed=1).argsort(1) < 8


def _theirs(config: EncoderConfig) -> Wav2Vec2Model:
    transformer = config.transformer
    encoder = Wav2Vec2EncoderConfig(
        model_dim=transformer.dim,
        feature_dim=config.conv[-1][0],
        layer_norm_features=transformer.norm == "post",
        feature_extractor_layer_descs=list(config.conv),
        feature_extractor_bias=config.conv_bias,
        feature_extractor_layer_norm_convs=config.conv_norm == "layer",
        feature_grad_scale=0.1,
        pos_conv_kernel_size=transformer.position_kernel,
        num_pos_conv_groups=transformer.position_groups,
        num_encoder_layers=transformer.num_layers,
        num_encoder_attn_heads=transformer.num_heads,
        ffn_inner_dim=transformer.ffn_dim,
        dropout_p=0.0,
        attn_dropout_p=0.0,
        layer_drop_p=0.0,
        norm_order={"post": TransformerNormOrder.POST, "pre": TransformerNormOrder.PRE}[transformer.norm],
    )
    model = create_wav2vec2_model(
        Wav2Vec2Config(
            encoder_config=encoder,
            final_dim=CONTRASTIVE.dim,
            quantized_dim=QUANTIZER.dim,
            num_codebooks=QUANTIZER.groups,
            num_codebook_entries=QUANTIZER.entries,
            num_distractors=CONTRASTIVE.distractors,
            logit_temp=CONTRASTIVE.temperature,
        )
    )
    model.masker.mask_factory = lambda **_: IS_MASKED
    randomise(model)
    return model.eval()


def _copy_positions(target: PositionalConv, source: nn.Conv1d) -> None:
    """Copy the convolution of positions; fairseq2 has torch's older weight norm."""
    copy_into(target.conv.bias, source.bias)
    copy_into(target.conv.parametrizations.weight.original0, source.weight_g)
    copy_into(target.conv.parametrizations.weight.original1, source.weight_v)


def _copy_encoder(target: SpeechEncoder, source: Wav2Vec2Model) -> None:
    frontend = source.encoder_frontend
    for index, block in enumerate(frontend.feature_extractor.layers):
        copy_module(target.conv.convs[index], block.conv)
        norm = block.group_norm or block.layer_norm
        if norm is not None:
            copy_module(target.conv.norms[index], norm)
    copy_module(target.norm, frontend.post_extract_layer_norm)
    copy_module(target.project, frontend.model_dim_proj)
    copy_into(target.mask_vector, source.masker.temporal_mask_embed)
    _copy_positions(target.transformer.positions, frontend.pos_encoder.conv)
    for ours, theirs in zip(target.transformer.layers, source.encoder.layers, strict=True):
        heads = (theirs.self_attn.q_proj, theirs.self_attn.k_proj, theirs.self_attn.v_proj)
        copy_into(ours.attention.project_in.weight, torch.cat([head.weight for head in heads]))
        copy_into(ours.attention.project_in.bias, torch.cat([head.bias for head in heads]))
        copy_module(ours.attention.project_out, theirs.self_attn.output_proj)
        copy_module(ours.attention_norm, theirs.self_attn_layer_norm)
        copy_module(ours.expand, theirs.ffn.inner_proj)
        copy_module(ours.contract, theirs.ffn.output_proj)
        copy_module(ours.ffn_norm, theirs.ffn_layer_norm)
    copy_module(
        target.transformer.norm, frontend.layer_norm or source.encoder.layer_norm
    )  # after post-norm's positions


def _copy_objective(target: ContrastiveObjective, source: Wav2Vec2Model) -> None:
    copy_module(target.quantizer.score, source.quantizer.entry_proj)
    copy_into(target.quantizer.codebook, source.quantizer.entries.view_as(target.quantizer.codebook))
    copy_module(target.project_quantized, source.final_target_proj)
    copy_module(target.project_context, source.final_proj)


def _trio(config: EncoderConfig) -> tuple[SpeechEncoder, ContrastiveObjective, Wav2Vec2Model]:
    encoder, objective = SpeechEncoder(config), ContrastiveObjective(CONTRASTIVE, dim=32, conv_dim=16)
    for parameter in (*encoder.parameters(), *objective.parameters()):
        nn.init.constant_(parameter, torch.nan)  # shows what is not copied
    theirs = _theirs(config)
    _copy_encoder(encoder, theirs)
    _copy_objective(objective, theirs)
    return encoder.eval(), objective.eval(), theirs


def _assert_gradients_equal(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for ours, other in pairs:
        difference = (ours.grad - other.grad).abs().max() / other.grad.abs().max()
        assert difference.item() < 1e-4


def _encoder_pairs(encoder: SpeechEncoder, theirs: Wav2Vec2Model) -> list[tuple[Tensor, Tensor]]:
    blocks = theirs.encoder_frontend.feature_extractor.layers
    return [
        *((conv.weight, block.conv.weight) for conv, block in zip(encoder.conv.convs, blocks, strict=True)),
        (encoder.project.weight, theirs.encoder_frontend.model_dim_proj.weight),
        (encoder.mask_vector, theirs.masker.temporal_mask_embed),
        (encoder.transformer.layers[0].expand.weight, theirs.encoder.layers[0].ffn.inner_proj.weight),
    ]


@FORMS
def test_every_parameter_of_fairseq2_has_a_place(config: EncoderConfig) -> None:
    encoder, objective, theirs = _trio(config)
    ours = [*encoder.parameters(), *objective.parameters()]
    assert not any(bool(parameter.isnan().any()) for parameter in ours)
    assert sum(parameter.numel() for parameter in ours) == sum(parameter.numel() for parameter in theirs.parameters())


@FORMS
def test_features_equal_fairseq2s(config: EncoderConfig) -> None:
    encoder, _, theirs = _trio(config)
    found = encoder(WAVEFORMS, WHOLE)
    normed, _, raw = theirs.encoder_frontend.extract_features(WAVEFORMS, BatchLayout.of(WAVEFORMS))
    torch.testing.assert_close(found.conv, raw, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.features, normed, rtol=1e-5, atol=1e-5)


@FORMS
def test_every_layer_equals_fairseq2s(config: EncoderConfig) -> None:
    encoder, _, theirs = _trio(config)
    expected: list[Tensor] = []
    theirs.encoder.register_layer_hook(lambda _index, output, *_: expected.append(output) or True)
    last = theirs.encoder(*theirs.encoder_frontend(WAVEFORMS, BatchLayout.of(WAVEFORMS)))
    found = encoder(WAVEFORMS, WHOLE).layers
    for layer, other in zip(found, [*expected[:-1], last], strict=True):  # the hook sees no final norm
        torch.testing.assert_close(layer, other, rtol=1e-5, atol=1e-5)


@FORMS
def test_masked_output_equals_fairseq2s(config: EncoderConfig) -> None:
    encoder, _, theirs = _trio(config)
    found = encoder(WAVEFORMS, WHOLE, IS_MASKED).last
    expected = theirs.extract_features(WAVEFORMS, BatchLayout.of(WAVEFORMS)).seqs
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_padded_batch_equals_fairseq2s_with_layer_norm() -> None:
    encoder, _, theirs = _trio(LARGE_LIKE)
    lengths = torch.tensor([430, 610, 820])
    waveforms = noise(3, 820) * (torch.arange(820) < lengths[:, None])
    found = encoder(waveforms, lengths)
    seqs, layout = theirs.encoder_frontend(waveforms, BatchLayout.of(waveforms, lengths.tolist()))
    assert found.is_valid.sum(1).tolist() == list(layout.seq_lens)
    expected = theirs.encoder(seqs, layout)
    torch.testing.assert_close(found.last[found.is_valid], expected[found.is_valid], rtol=1e-5, atol=2e-5)


@FORMS
def test_loss_and_its_gradient_equal_fairseq2s(config: EncoderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, objective, theirs = _trio(config)
    torch.manual_seed(7)
    positions = theirs._sample_distractors(torch.arange(24).view(3, 8, 1)).view(
        24, 6
    )  # it draws among what it is given
    monkeypatch.setattr("speechssl.objective.contrastive.draw_distractors", lambda *_: positions)
    found = objective(encoder(WAVEFORMS, WHOLE, IS_MASKED), IS_MASKED, step=0, generator=torch.Generator())
    torch.manual_seed(7)
    with torch.compiler.set_stance("force_eager"):  # its quantizer compiles a sum
        loss, output = theirs(WAVEFORMS, BatchLayout.of(WAVEFORMS))

    assert int(found.count) == output.num_targets == 24
    expected = {
        "contrastive_loss": loss.contrastive / 24,
        "diversity_loss": loss.diversity / 24,
        "feature_penalty": loss.features_penalty / 24,
        "soft_perplexity": output.quantizer_output.prob_perplexity,
        "code_perplexity": output.quantizer_output.code_perplexity,
    }
    assert {name: found.parts[name].item() for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-5
    )
    assert found.value.item() == pytest.approx(loss.aggregate.item(), rel=1e-5)

    found.value.backward()
    loss.aggregate.backward()
    _assert_gradients_equal(
        [
            *_encoder_pairs(encoder, theirs),
            (objective.project_quantized.weight, theirs.final_target_proj.weight),
            (objective.project_context.weight, theirs.final_proj.weight),
            (objective.quantizer.score.weight, theirs.quantizer.entry_proj.weight),
        ]
    )


@FORMS
def test_scaled_gradient_of_the_extractor_equals_fairseq2s_in_training(config: EncoderConfig) -> None:
    encoder, _, theirs = _trio(config)
    encoder.config = dataclasses.replace(config, conv_grad_scale=0.1)
    direction = noise(3, 21, 32, seed=2)
    (encoder.train()(WAVEFORMS, WHOLE, IS_MASKED).last * direction).sum().backward()
    (theirs.train().extract_features(WAVEFORMS, BatchLayout.of(WAVEFORMS)).seqs * direction).sum().backward()
    _assert_gradients_equal(_encoder_pairs(encoder, theirs))
