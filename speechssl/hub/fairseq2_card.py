"""Asset cards of fairseq2 0.8 to our descriptions and back: families wav2vec2 and wav2vec2_asr; no parameters.

A card names an architecture and the settings that differ from it; the architectures are those of fairseq2 0.8.1.
"""

import re
from dataclasses import field
from pathlib import Path
from typing import Any

from speechssl.config import configuration
from speechssl.errors import CheckpointError
from speechssl.hub.fairseq_dictionaries import written_by_signs
from speechssl.hub.saved import Description
from speechssl.model.frames import BASE_STACK
from speechssl.model.masking import MaskConfig
from speechssl.tasks.contrastive import ContrastiveConfig

__all__ = ["PRETRAINED", "TUNED", "VOCABULARY", "AssetCard", "card_of", "card_values"]

PRETRAINED, TUNED = "wav2vec2", "wav2vec2_asr"
VOCABULARY = "vocabulary.txt"

# our field: their key
_TRUNK = {
    "conv_bias": "feature_extractor_bias",
    "conv_grad_scale": "feature_grad_scale",
    "feature_dropout": "first_pass_dropout_p",
}
_TRANSFORMER = {
    "dim": "model_dim",
    "num_layers": "num_encoder_layers",
    "num_heads": "num_encoder_attn_heads",
    "ffn_dim": "ffn_inner_dim",
    "position_kernel": "pos_conv_kernel_size",
    "position_groups": "num_pos_conv_groups",
    "dropout": "dropout_p",
    "attention_dropout": "attn_dropout_p",
    "activation_dropout": "ffn_inner_dropout_p",
    "layer_drop": "layer_drop_p",
}
_CONTRASTIVE = {"dim": "final_dim", "temperature": "logit_temp", "negatives": "num_distractors"}
_CODEBOOK = {"groups": "num_codebooks", "entries": "num_codebook_entries", "dim": "quantized_dim"}
_ONLY = {  # settings with a single supported value
    "use_fbank": False,
    "pos_encoder_type": "conv",
    "pos_encoder_depth": 1,
    "use_conformer": False,
    "final_proj_bias": True,
    "quantizer_encoder_grad": True,
}

_BASE: dict[str, Any] = {  # defaults of their encoder
    "model_dim": 768,
    "feature_dim": 512,
    "first_pass_dropout_p": 0.0,
    "layer_norm_features": True,
    "feature_extractor_layer_descs": [*BASE_STACK],
    "feature_extractor_bias": False,
    "feature_extractor_layer_norm_convs": False,
    "feature_grad_scale": 0.1,
    "pos_conv_kernel_size": 128,
    "num_pos_conv_groups": 16,
    "num_encoder_layers": 12,
    "num_encoder_attn_heads": 12,
    "ffn_inner_dim": 3072,
    "dropout_p": 0.1,
    "attn_dropout_p": 0.1,
    "ffn_inner_dropout_p": 0.0,
    "layer_drop_p": 0.05,
    "norm_order": "POST",
}
_LARGE: dict[str, Any] = {
    "model_dim": 1024,
    "num_encoder_layers": 24,
    "num_encoder_attn_heads": 16,
    "ffn_inner_dim": 4096,
}
_LARGE |= {"dropout_p": 0.0, "layer_drop_p": 0.2}
_LARGE_LV60K = _LARGE | {"layer_norm_features": False, "feature_extractor_bias": True, "norm_order": "PRE"}
_LARGE_LV60K |= {"feature_extractor_layer_norm_convs": True, "layer_drop_p": 0.0}
_TUNED_TRUNK: dict[str, Any] = {
    "feature_grad_scale": 1.0,
    "dropout_p": 0.0,
    "attn_dropout_p": 0.0,
    "ffn_inner_dropout_p": 0.1,
}
_MASKS: dict[str, Any] = {
    "temporal_mask_span_len": 10,
    "max_temporal_mask_prob": 0.69,
    "min_num_temporal_mask_spans": 2,
}
_PRETRAINING: dict[str, Any] = _MASKS | {
    "final_dim": 256,
    "quantized_dim": 256,
    "num_codebooks": 2,
    "num_codebook_entries": 320,
    "codebook_sampling_temperature": [2.0, 0.5, 0.999995],
    "num_distractors": 100,  # fairseq2's own key
    "logit_temp": 0.1,
}
_TUNING: dict[str, Any] = _MASKS | {
    "target_vocab_size": 32,
    "final_dropout_p": 0.0,
    "use_masking": True,
    "spatial_mask_span_len": 64,
    "max_spatial_mask_prob": 0.55,
    "min_num_spatial_mask_spans": 2,
}
_WIDE = {"quantized_dim": 768, "final_dim": 768}
_ARCHITECTURES: dict[
    str, dict[str | None, tuple[dict[str, Any], dict[str, Any]]]
] = {  # settings of the encoder, and of the model around it
    PRETRAINED: {
        None: ({}, {}),
        "base": ({}, {}),
        "large": (_LARGE, _WIDE),
        "large_lv60k": (_LARGE_LV60K, _WIDE | {"codebook_sampling_temperature": [2.0, 0.1, 0.999995]}),
    },
    TUNED: {
        None: (_TUNED_TRUNK, {}),
        "base_10h": (_TUNED_TRUNK, {}),
        "base_100h": (_TUNED_TRUNK | {"layer_drop_p": 0.1}, {}),
        **{
            f"{name}_{hours}": (trunk | _TUNED_TRUNK | {"layer_drop_p": 0.1}, masks)
            for name, trunk in (("large", _LARGE), ("large_lv60k", _LARGE_LV60K))
            for hours, masks in (
                ("10h", {"max_temporal_mask_prob": 0.80, "max_spatial_mask_prob": 0.30}),
                ("100h", {"max_temporal_mask_prob": 0.53, "max_spatial_mask_prob": 0.55}),
            )
        },
    },
}


@configuration
class AssetCard:
    """Fields of an asset card; the last three are not fields of fairseq2."""

    name: str
    model_family: str
    checkpoint: str  # URI, or path relative to the card
    model_arch: str | None = None
    model_config: dict[str, Any] = field(default_factory=dict)
    tokenizer_ref: str | None = None
    vocabulary: str | None = None  # path relative to the card
    normalize_audio: bool | None = None
    pretrained_by: str | None = None


def card_values(card: AssetCard, path: Path, vocabulary: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of a `Description`.

    Args:
        card: the card, of either family.
        path: path of the card, for errors.
        vocabulary: tokens of a CTC model, by id.

    Raises:
        CheckpointError: the card describes an unsupported model, or belongs to another vocabulary.
    """
    encoder, around = _config(card, path)
    conv_norm = "layer" if encoder["feature_extractor_layer_norm_convs"] else "group"
    is_normalized = card.normalize_audio if card.normalize_audio is not None else conv_norm == "layer"
    values: dict[str, Any] = {
        "encoder": {
            **{ours: encoder[theirs] for ours, theirs in _TRUNK.items()},
            "conv": encoder["feature_extractor_layer_descs"],
            "conv_norm": conv_norm,
            "transformer": {
                **{ours: encoder[theirs] for ours, theirs in _TRANSFORMER.items()},
                "norm": {"POST": "post", "PRE": "pre"}[encoder["norm_order"]],
            },
        },
        "audio": {"normalize": is_normalized},
        "origin": f"fairseq2 {card.name}",
    }
    if card.model_family == PRETRAINED:
        warmest, coldest, decay = around["codebook_sampling_temperature"]
        objective = {
            **{ours: around[theirs] for ours, theirs in _CONTRASTIVE.items()},
            "kind": "contrastive",
            "quantizer": {
                **{ours: around[theirs] for ours, theirs in _CODEBOOK.items()},
                "max_temperature": warmest,
                "min_temperature": coldest,
                "decay": decay,
            },
            "mask": _mask(around, "temporal"),
        }
        return values | {"objective": objective}
    if len(vocabulary) != around["target_vocab_size"]:
        raise CheckpointError(
            f"{path}: its vocabulary has {len(vocabulary)} tokens, expected target_vocab_size="
            f"{around['target_vocab_size']}; it belongs to another model"
        )
    none = {"start_prob": 0.0, "min_spans": 0}
    tuned = {
        "dropout": around["final_dropout_p"],
        "mask": _mask(around, "temporal") if around["use_masking"] else none,
        "channel_mask": _mask(around, "spatial") if around["use_masking"] else none,
    }
    return values | {"ctc": tuned, **written_by_signs(vocabulary), "family": card.pretrained_by}


def card_of(described: Description, *, name: str, checkpoint: str) -> dict[str, Any]:
    """Return the fields of a model's card."""
    trunk, transformer, ctc = described.encoder, described.encoder.transformer, described.ctc
    encoder = {
        **{theirs: getattr(trunk, ours) for ours, theirs in _TRUNK.items()},
        **{theirs: getattr(transformer, ours) for ours, theirs in _TRANSFORMER.items()},
        "feature_dim": trunk.conv[-1][0],
        "feature_grad_scale": trunk.conv_grad_scale
        if 0 < trunk.conv_grad_scale <= 1
        else 1.0,  # fairseq2 accepts no other value
        "feature_extractor_layer_descs": [[*layer] for layer in trunk.conv],
        "feature_extractor_layer_norm_convs": trunk.conv_norm == "layer",
        "layer_norm_features": transformer.norm == "post",
        "norm_order": transformer.norm.upper(),
    }
    card = {
        "name": re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "model",
        "model_family": PRETRAINED if ctc is None else TUNED,
        "checkpoint": checkpoint,
        "normalize_audio": bool(described.audio.normalize),
    }
    if isinstance(described.objective, ContrastiveConfig):
        objective, quantizer = described.objective, described.objective.quantizer
        around = {
            **{theirs: getattr(objective, ours) for ours, theirs in _CONTRASTIVE.items()},
            **{theirs: getattr(quantizer, ours) for ours, theirs in _CODEBOOK.items()},
            "codebook_sampling_temperature": [quantizer.max_temperature, quantizer.min_temperature, quantizer.decay],
            **_their_mask(objective.mask, "temporal"),
        }
        return card | {"model_config": {"encoder_config": encoder, **around}}
    assert ctc is not None
    around = {"target_vocab_size": len(described.vocabulary), "final_dropout_p": ctc.dropout}
    around["use_masking"] = ctc.mask.start_prob > 0
    if ctc.mask.start_prob > 0:  # fairseq2's masker always masks frames
        around |= _their_mask(ctc.mask, "temporal") | _their_mask(ctc.channel_mask, "spatial")
    card |= {"vocabulary": VOCABULARY, "pretrained_by": described.pretrained_by}
    return card | {"model_config": {"encoder_config": encoder, **around}}


def _config(card: AssetCard, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configurations of the encoder and of the model around it, with defaults filled in."""
    architectures = _ARCHITECTURES.get(card.model_family)
    if architectures is None or card.model_arch not in architectures:
        raise CheckpointError(
            f"{path}: describes {card.model_arch or 'a model'} of family {card.model_family}, expected "
            f"{PRETRAINED} or {TUNED} of the architectures that fairseq2 0.8 has"
        )
    around = dict(card.model_config)
    encoder = around.pop("encoder_config", {})
    inner, outer = architectures[card.model_arch]
    encoder = _BASE | inner | encoder
    around = (_PRETRAINING if card.model_family == PRETRAINED else _TUNING) | outer | around
    for key, only in _ONLY.items():
        for section in (encoder, around):
            if section.get(key, only) != only:
                raise CheckpointError(f"{path}: has {key}={section[key]!r}, supported is only {only!r}")
    if encoder["layer_norm_features"] != (encoder["norm_order"] == "POST"):
        raise CheckpointError(f"{path}: has a norm before the layers and one after, or neither; expected one")
    return encoder, around


def _mask(around: dict[str, Any], axis: str) -> dict[str, Any]:
    span = around[f"{axis}_mask_span_len"]
    probability = around[f"max_{axis}_mask_prob"]
    return {
        "start_prob": probability / span,
        "span": span,
        "min_spans": around[f"min_num_{axis}_mask_spans"],
    }


def _their_mask(mask: MaskConfig, axis: str) -> dict[str, Any]:
    return {
        f"{axis}_mask_span_len": mask.span,
        f"max_{axis}_mask_prob": round(mask.start_prob * mask.span, 12),
        f"min_num_{axis}_mask_spans": mask.min_spans,
    }
