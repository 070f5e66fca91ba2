"""BASE of transformers, fairseq2 and torchaudio, each with the masks, losses and settings of its own recipe.

Imported when built, so that one that is not installed, or not measured, costs nothing.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from learners import Learner, Runner, plain_adamw
from sizes import VOCABULARY, Size
from torch import Tensor
from torch.nn import functional

from speechssl.data.batching import Batch
from speechssl.model.encoder import EncoderConfig
from speechssl.model.frames import within

if TYPE_CHECKING:
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
    from fairseq2.nn import BatchLayout

__all__ = ["PEERS"]


def _is_padded(batch: Batch) -> bool:
    """Say whether a peer has to be told lengths; without padding its recipe spares itself the masks."""
    return int(batch.num_samples.min()) < batch.waveforms.shape[1]


def _transformers_settings(size: Size, encoder: EncoderConfig) -> dict[str, Any]:
    transformer, contrastive = encoder.transformer, size.contrastive
    return {
        "conv_dim": [channels for channels, _, _ in encoder.conv],
        "conv_kernel": [kernel for _, kernel, _ in encoder.conv],
        "conv_stride": [stride for _, _, stride in encoder.conv],
        "hidden_size": transformer.dim,
        "num_hidden_layers": transformer.num_layers,
        "num_attention_heads": transformer.num_heads,
        "intermediate_size": transformer.ffn_dim,
        "num_conv_pos_embeddings": transformer.position_kernel,
        "num_conv_pos_embedding_groups": transformer.position_groups,
        "hidden_dropout": transformer.dropout,
        "attention_dropout": transformer.attention_dropout,
        "activation_dropout": transformer.activation_dropout,
        "layerdrop": transformer.layer_drop,
        "feat_proj_dropout": encoder.feature_dropout,
        "feat_quantizer_dropout": contrastive.feature_dropout,
        "feat_extract_norm": encoder.conv_norm,
        "conv_bias": encoder.conv_bias,
        "do_stable_layer_norm": transformer.norm == "pre",
        "num_codevectors_per_group": contrastive.quantizer.entries,
        "codevector_dim": contrastive.quantizer.dim,
        "proj_codevector_dim": contrastive.dim,
        "attn_implementation": "sdpa",
    }


def transformers_wav2vec2(size: Size, *, draws_once: bool = False) -> Learner:
    """Wav2Vec2ForPreTraining; masks and negatives drawn in the step, as its example's collator does.

    With `draws_once` those of a batch are drawn at its first step, as if processes beside the training had done it.
    """
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    mask = size.contrastive.mask
    config = Wav2Vec2Config(
        **_transformers_settings(size, size.encoder),
        mask_time_prob=mask.start_prob * mask.span,
        mask_time_length=mask.span,
    )
    model = Wav2Vec2ForPreTraining(config).train()

    def draw(batch: Batch) -> tuple[dict[str, Tensor], int]:
        attention_mask = within(batch.num_samples, batch.waveforms.shape[1]).long()
        frames = int(model._get_feat_extract_output_lengths(batch.waveforms.shape[1]))
        shape = (len(batch.ids), frames)
        is_real = model._get_feature_vector_attention_mask(frames, attention_mask)
        is_masked = _compute_mask_indices(shape, config.mask_time_prob, config.mask_time_length, is_real)
        negatives = _sample_negative_indices(shape, config.num_negatives, mask_time_indices=is_masked)
        drawn = {
            "attention_mask": attention_mask,
            "mask_time_indices": torch.tensor(is_masked, dtype=torch.long),
            "sampled_negative_indices": torch.tensor(negatives, dtype=torch.long),
        }
        return {name: tensor.to(batch.waveforms.device) for name, tensor in drawn.items()}, int(is_masked.sum())

    kept: dict[tuple[str, ...], tuple[dict[str, Tensor], int]] = {}

    def score(batch: Batch) -> tuple[Tensor, int]:
        if not draws_once:
            drawn, masked = draw(batch)
        else:
            drawn, masked = kept[batch.ids] if batch.ids in kept else kept.setdefault(batch.ids, draw(batch))
        return model(batch.waveforms, **drawn).loss, masked

    return Learner(model, score, plain_adamw(model, size.optim), size.optim.max_grad_norm)


def transformers_ctc(size: Size) -> Learner:
    """Wav2Vec2ForCTC with its extractor frozen and its own masks, as many as ours."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    mask, channels = size.ctc.mask, size.ctc.channel_mask
    config = Wav2Vec2Config(
        **_transformers_settings(size, size.ctc_encoder),
        mask_time_prob=mask.start_prob * mask.span,
        mask_time_length=mask.span,
        mask_feature_prob=channels.start_prob * channels.span,
        mask_feature_length=channels.span,
        final_dropout=size.ctc.dropout,
        vocab_size=VOCABULARY,
        pad_token_id=0,
        ctc_loss_reduction="sum",
        ctc_zero_infinity=True,
    )
    model = Wav2Vec2ForCTC(config).train()
    model.freeze_feature_encoder()

    def score(batch: Batch) -> tuple[Tensor, int]:
        assert batch.targets is not None and batch.target_lengths is not None
        device = batch.waveforms.device
        is_target = within(batch.target_lengths, batch.targets.shape[1]).to(device)
        attention_mask = within(batch.num_samples, batch.waveforms.shape[1]).long().to(device)
        labels = batch.targets.masked_fill(~is_target, -100)
        return model(batch.waveforms, attention_mask=attention_mask, labels=labels).loss, len(batch.ids)

    return Learner(model, score, plain_adamw(model, size.ctc_optim), size.ctc_optim.max_grad_norm)


def transformers_extract(size: Size) -> Runner:
    """Wav2Vec2Model in evaluation mode."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    model = Wav2Vec2Model(Wav2Vec2Config(**_transformers_settings(size, size.encoder))).eval()

    def forward(batch: Batch) -> Tensor:
        attention_mask = None
        if _is_padded(batch):
            attention_mask = within(batch.num_samples, batch.waveforms.shape[1]).long().to(batch.waveforms.device)
        return model(batch.waveforms, attention_mask=attention_mask).last_hidden_state

    return Runner(model, forward)


def _fairseq2_encoder(encoder: EncoderConfig, features_dropout: float = 0.0) -> "Wav2Vec2EncoderConfig":
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig

    transformer = encoder.transformer
    return Wav2Vec2EncoderConfig(
        model_dim=transformer.dim,
        feature_dim=encoder.conv[-1][0],
        feature_extractor_layer_descs=list(encoder.conv),
        feature_grad_scale=encoder.conv_grad_scale,
        first_pass_dropout_p=features_dropout,
        pos_conv_kernel_size=transformer.position_kernel,
        num_pos_conv_groups=transformer.position_groups,
        num_encoder_layers=transformer.num_layers,
        num_encoder_attn_heads=transformer.num_heads,
        ffn_inner_dim=transformer.ffn_dim,
        dropout_p=transformer.dropout,
        attn_dropout_p=transformer.attention_dropout,
        ffn_inner_dropout_p=transformer.activation_dropout,
        layer_drop_p=transformer.layer_drop,
    )


def fairseq2_wav2vec2(size: Size) -> Learner:
    """fairseq2's model with its own masks, negatives and losses; its other defaults are BASE."""
    from fairseq2.models.wav2vec2 import Wav2Vec2Config, create_wav2vec2_model

    encoder = _fairseq2_encoder(size.encoder, size.contrastive.feature_dropout)
    model = create_wav2vec2_model(Wav2Vec2Config(encoder_config=encoder)).train()

    def score(batch: Batch) -> tuple[Tensor, int]:
        loss, output = model(batch.waveforms, _layout(batch))
        return loss.aggregate, output.num_targets

    return Learner(model, score, plain_adamw(model, size.optim), size.optim.max_grad_norm)


def fairseq2_ctc(size: Size) -> Learner:
    """fairseq2's model for speech recognition with its own masks, the extractor frozen as its recipe does."""
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, create_wav2vec2_asr_model
    from fairseq2.nn import BatchLayout

    encoder = _fairseq2_encoder(size.ctc_encoder)
    model = create_wav2vec2_asr_model(Wav2Vec2AsrConfig(encoder_config=encoder, target_vocab_size=VOCABULARY)).train()
    assert model.encoder_frontend.feature_extractor is not None
    model.encoder_frontend.feature_extractor.requires_grad_(False)

    def score(batch: Batch) -> tuple[Tensor, int]:
        assert batch.targets is not None and batch.target_lengths is not None
        targets = BatchLayout.of(batch.targets, batch.target_lengths.tolist())
        return model(batch.waveforms, _layout(batch), batch.targets, targets), len(batch.ids)

    return Learner(model, score, plain_adamw(model, size.ctc_optim), size.ctc_optim.max_grad_norm)


def _layout(batch: Batch) -> "BatchLayout":
    """Describe a batch to fairseq2, which spares work where nothing is padded."""
    from fairseq2.nn import BatchLayout

    return BatchLayout.of(batch.waveforms, batch.num_samples.tolist() if _is_padded(batch) else None)


def torchaudio_hubert(size: Size) -> Learner:
    """hubert_pretrain_base with the loss of torchaudio's example: masked frames and feature penalty."""
    from torchaudio.models import hubert_pretrain_base

    (clusters,) = size.clusters
    model = hubert_pretrain_base(num_classes=clusters).train()
    weight = size.masked_prediction.feature_penalty

    def score(batch: Batch) -> tuple[Tensor, int]:
        assert batch.labels is not None
        masked, unmasked, penalty = model(
            batch.waveforms, batch.labels[0], batch.num_samples if _is_padded(batch) else None
        )
        on_masked, on_unmasked = (
            functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="sum")
            for logits in (masked, unmasked)
        )
        return on_masked + 0.0 * on_unmasked + weight * penalty, len(masked)

    return Learner(model, score, plain_adamw(model, size.optim), size.optim.max_grad_norm)


def torchaudio_extract(size: Size) -> Runner:
    """wav2vec2_base in evaluation mode."""
    from torchaudio.models import wav2vec2_base

    model = wav2vec2_base().eval()

    def forward(batch: Batch) -> Tensor:
        layers, _ = model.extract_features(batch.waveforms, batch.num_samples if _is_padded(batch) else None)
        return layers[-1]

    return Runner(model, forward)


PEERS: dict[str, dict[str, Callable[[Size], Learner | Runner]]] = {
    "wav2vec2": {"transformers": transformers_wav2vec2, "fairseq2": fairseq2_wav2vec2},
    "hubert": {"torchaudio": torchaudio_hubert},
    "ctc": {"transformers": transformers_ctc, "fairseq2": fairseq2_ctc},
    "extract": {"transformers": transformers_extract, "torchaudio": torchaudio_extract},
}
