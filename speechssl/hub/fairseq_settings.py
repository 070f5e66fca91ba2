"""Settings of a fairseq checkpoint to our configurations and back; no parameters.

There are two layouts: `args`, one flat namespace (until 2020), and `cfg`, nested sections. Settings missing in an old
file have the defaults of fairseq 0.12.2. Architecture settings with a single supported value are checked; training
settings that we lack are reported.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.errors import CheckpointError
from speechssl.hub.pickled import plain
from speechssl.model.encoder import EncoderConfig
from speechssl.model.frames import BASE_STACK
from speechssl.model.masking import MaskConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig

__all__ = [
    "Settings",
    "contrastive",
    "ctc",
    "encoder",
    "masked_prediction",
    "read_settings",
    "their_contrastive",
    "their_ctc",
    "their_encoder",
    "their_masked_prediction",
    "unused",
]

ARCHITECTURES = ("wav2vec2", "hubert", "wav2vec_ctc", "hubert_ctc")

# our field: their key
_TRUNK = {"conv_bias": "conv_bias", "conv_grad_scale": "feature_grad_mult", "feature_dropout": "dropout_input"}
_TRANSFORMER = {
    "dim": "encoder_embed_dim",
    "num_layers": "encoder_layers",
    "num_heads": "encoder_attention_heads",
    "ffn_dim": "encoder_ffn_embed_dim",
    "position_kernel": "conv_pos",
    "position_groups": "conv_pos_groups",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "layer_drop": "encoder_layerdrop",
}
_CONTRASTIVE = {
    "temperature": "logit_temp",
    "negatives": "num_negatives",
    "cross_negatives": "cross_sample_negatives",
    "feature_dropout": "dropout_features",
}
_CODEBOOK = {"groups": "latent_groups", "entries": "latent_vars"}
_TUNED = {  # trunk settings that fine-tuning overrides: their key in the trunk, their key in the fine-tuned model
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "dropout_input",
    "encoder_layerdrop": "layerdrop",
}

_DEFAULTS: dict[str, Any] = {  # defaults of Wav2Vec2Config and HubertConfig
    "extractor_mode": "default",
    "conv_feature_layers": str([*BASE_STACK]),
    "conv_bias": False,
    "feature_grad_mult": 1.0,
    "encoder_embed_dim": 768,
    "encoder_layers": 12,
    "encoder_attention_heads": 12,
    "encoder_ffn_embed_dim": 3072,
    "layer_norm_first": False,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "dropout_features": 0.0,
    "encoder_layerdrop": 0.0,
    "final_dim": 0,
    "logit_temp": 0.1,
    "mask_prob": 0.65,
    "mask_length": 10,
    "num_negatives": 100,
    "cross_sample_negatives": 0,
    "latent_groups": 2,
    "latent_vars": 320,
    "latent_dim": 0,
    "latent_temp": (2.0, 0.5, 0.999995),
    "untie_final_proj": False,
    "skip_masked": False,
    "skip_nomask": False,
}
_TUNED_DEFAULTS: dict[str, Any] = {  # defaults of Wav2Vec2CtcConfig and HubertCtcConfig
    **dict.fromkeys(_TUNED.values(), 0.0),
    "feature_grad_mult": 0.0,
    "final_dropout": 0.0,
    "apply_mask": False,
    "mask_prob": 0.5,
    "mask_length": 10,
    "mask_channel_prob": 0.0,
    "mask_channel_length": 10,
    "freeze_finetune_updates": 0,
}
_ONLY = {  # architecture settings with a single supported value
    "activation_fn": "gelu",
    "layer_type": "transformer",
    "pos_conv_depth": 1,
    "conv_pos_batch_norm": False,
    "crop_seq_to_multiple": 1,
    "quantize_input": False,
    "target_glu": False,
    "quantizer_depth": 1,
    "negatives_from_everywhere": False,
    "codebook_negatives": 0,
    "blank_weight": 0,
}
_UNUSED = {  # training settings that are ignored, with the value that holds here
    "mask_selection": "static",
    "mask_channel_selection": "static",
    "no_mask_overlap": False,
    "no_mask_channel_overlap": False,
    "mask_dropout": 0.0,
    "mask_channel_before": False,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a checkpoint that describe its model, with defaults filled in."""

    architecture: str  # one of ARCHITECTURES
    model: dict[str, Any]  # settings of the trunk and its pretraining
    task: dict[str, Any]
    criterion: dict[str, Any]
    tuned: dict[str, Any] | None = None  # settings of the fine-tuned model around the trunk
    trunk_task: dict[str, Any] | None = None  # task settings of the pretraining, for a fine-tuned model

    @property
    def normalize(self) -> bool:
        """Whether waveforms are normalised; old fine-tuned models store it with their trunk."""
        for section in (self.task, self.trunk_task or {}, self.model):
            if isinstance(section.get("normalize"), bool):
                return section["normalize"]
        return False

    @property
    def dim(self) -> int:
        """Dimensions of the space in which predictions are compared."""
        return self.model["final_dim"] if self.model["final_dim"] > 0 else self.model["encoder_embed_dim"]


def read_settings(state: Mapping[str, Any], path: Path) -> Settings:
    """Read `args` or `cfg` of a checkpoint.

    Raises:
        CheckpointError: there are no settings, or the architecture is not supported.
    """
    model, task, criterion = _sections(state["args"] if state.get("args") is not None else state.get("cfg"), path)
    architecture = _architecture(model)
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{path}: is a model of architecture {architecture!r}, expected one of {', '.join(ARCHITECTURES)}"
        )
    tuned = trunk_task = None
    if architecture.endswith("_ctc"):
        tuned = model
        model, trunk_task, _ = _sections(tuned.get("w2v_args"), path)
        if _architecture(model) not in ("wav2vec2", "hubert"):
            raise CheckpointError(
                f"{path}: is tuned from architecture {_architecture(model)!r}, expected wav2vec2, hubert"
            )
    for key, only in _ONLY.items():
        for section in (model, tuned or {}):
            if section.get(key, only) != only:
                raise CheckpointError(f"{path}: has {key}={section[key]!r}, supported is only {only!r}")
    if architecture == "wav2vec2" and not model.get("quantize_targets", False):
        raise CheckpointError(f"{path}: has quantize_targets=False, supported is only True")
    if task.get("sample_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise CheckpointError(f"{path}: takes {task['sample_rate']} samples a second, expected {SAMPLE_RATE}")
    return Settings(
        architecture=architecture,
        model=_DEFAULTS | model,
        task=task,
        criterion=criterion,
        tuned=None if tuned is None else _TUNED_DEFAULTS | tuned,
        trunk_task=trunk_task,
    )


def unused(settings: Settings) -> dict[str, str]:
    """Return the training settings that are ignored, with reasons."""
    section = settings.tuned or settings.model
    found = {
        f"{key}={section[key]}": f"training here is as with {only}"
        for key, only in _UNUSED.items()
        if section.get(key, only) != only
    }
    if settings.tuned is None and settings.model.get("mask_channel_prob", 0):
        found[f"mask_channel_prob={settings.model['mask_channel_prob']}"] = "pretraining here masks no channels"
    return found


def encoder(settings: Settings) -> dict[str, Any]:
    """Return the values of an `EncoderConfig`."""
    model = settings.model
    if settings.tuned is not None:
        model = model | {trunk: settings.tuned[key] for trunk, key in _TUNED.items()}
        if settings.tuned["feature_grad_mult"] > 0:
            model["feature_grad_mult"] = settings.tuned["feature_grad_mult"]
    return {
        **{ours: model[theirs] for ours, theirs in _TRUNK.items()},
        "conv": _stack(model["conv_feature_layers"]),
        "conv_norm": {"default": "group", "layer_norm": "layer"}[model["extractor_mode"]],
        "transformer": {
            **{ours: model[theirs] for ours, theirs in _TRANSFORMER.items()},
            "norm": "pre" if model["layer_norm_first"] else "post",
        },
    }


def contrastive(settings: Settings) -> dict[str, Any]:
    """Return the values of a `ContrastiveConfig`."""
    model = settings.model
    warmest, coldest, decay = _literal(model["latent_temp"])
    usual = ContrastiveConfig()
    weights = _loss_weights(settings.criterion, [usual.diversity_weight, usual.feature_penalty])
    return {
        **{ours: model[theirs] for ours, theirs in _CONTRASTIVE.items()},
        "kind": "contrastive",
        "dim": settings.dim,
        "diversity_weight": weights[0],
        "feature_penalty": weights[1],
        "quantizer": {
            **{ours: model[theirs] for ours, theirs in _CODEBOOK.items()},
            "dim": model["latent_dim"] if model["latent_dim"] > 0 else settings.dim,
            "max_temperature": warmest,
            "min_temperature": coldest,
            "decay": decay,
        },
        "mask": _mask(model, "mask", min_spans=2),
    }


def masked_prediction(settings: Settings) -> dict[str, Any]:
    """Return the values of a `MaskedPredictionConfig`."""
    model, criterion = settings.model, settings.criterion
    usual = MaskedPredictionConfig()
    return {
        "kind": "masked_prediction",
        "dim": settings.dim,
        "temperature": model["logit_temp"],
        "masked_weight": 0.0 if model["skip_masked"] else criterion.get("pred_masked_weight", usual.masked_weight),
        "unmasked_weight": 0.0 if model["skip_nomask"] else criterion.get("pred_nomask_weight", usual.unmasked_weight),
        "feature_penalty": _loss_weights(criterion, [usual.feature_penalty])[0],
        "mask": _mask(model, "mask", min_spans=2),
    }


def ctc(settings: Settings) -> dict[str, Any]:
    """Return the values of a `CTCConfig`."""
    tuned = settings.tuned or {}
    masked = tuned if tuned["apply_mask"] else tuned | {"mask_prob": 0.0, "mask_channel_prob": 0.0}
    return {
        "dropout": tuned["final_dropout"],
        "freeze_conv": tuned["feature_grad_mult"] == 0,
        "freeze_steps": tuned["freeze_finetune_updates"],
        "mask": _mask(masked, "mask", min_spans=2),
        "channel_mask": _mask(masked, "mask_channel", min_spans=0),
    }


def their_encoder(config: EncoderConfig) -> dict[str, Any]:
    """Return the settings of a trunk."""
    return {
        **{theirs: getattr(config, ours) for ours, theirs in _TRUNK.items()},
        **{theirs: getattr(config.transformer, ours) for ours, theirs in _TRANSFORMER.items()},
        "conv_feature_layers": str([tuple(layer) for layer in config.conv]),
        "extractor_mode": {"group": "default", "layer": "layer_norm"}[config.conv_norm],
        "layer_norm_first": config.transformer.norm == "pre",
    }


def their_contrastive(config: ContrastiveConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of model and criterion."""
    quantizer = config.quantizer
    model = {
        **{theirs: getattr(config, ours) for ours, theirs in _CONTRASTIVE.items()},
        **{theirs: getattr(quantizer, ours) for ours, theirs in _CODEBOOK.items()},
        "quantize_targets": True,
        "final_dim": config.dim,
        "latent_dim": quantizer.dim,
        "latent_temp": [quantizer.max_temperature, quantizer.min_temperature, quantizer.decay],
        **_their_mask(config.mask, "mask"),
    }
    weights = [config.diversity_weight, config.feature_penalty]
    return model, {"_name": "wav2vec", "infonce": True, "loss_weights": weights}


def their_masked_prediction(config: MaskedPredictionConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of model and criterion."""
    model = {
        "final_dim": config.dim,
        "untie_final_proj": True,
        "logit_temp": config.temperature,
        "skip_masked": config.masked_weight == 0,
        "skip_nomask": config.unmasked_weight == 0,
        **_their_mask(config.mask, "mask"),
    }
    criterion = {
        "_name": "hubert",
        "pred_masked_weight": config.masked_weight,
        "pred_nomask_weight": config.unmasked_weight,
        "loss_weights": [config.feature_penalty],
    }
    return model, criterion


def their_ctc(config: CTCConfig, trunk: EncoderConfig) -> dict[str, Any]:
    """Return the settings of a fine-tuned model, without those of its trunk."""
    inner = their_encoder(trunk)
    return {
        **{key: inner[trunk_key] for trunk_key, key in _TUNED.items()},
        "feature_grad_mult": 0.0 if config.freeze_conv else trunk.conv_grad_scale,
        "final_dropout": config.dropout,
        "freeze_finetune_updates": config.freeze_steps,
        "apply_mask": True,
        **_their_mask(config.mask, "mask"),
        **_their_mask(config.channel_mask, "mask_channel"),
    }


def _sections(settings: object, path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return model, task and criterion: three sections, or three times the one flat namespace."""
    values = plain(settings)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: lacks the settings of its model (`cfg`, `args` or `w2v_args`)")
    if not isinstance(values.get("model"), dict):
        return values, values, values
    model, task, criterion = (values.get(name) for name in ("model", "task", "criterion"))
    return dict(model or {}), dict(task or {}), dict(criterion or {})


def _architecture(model: Mapping[str, Any]) -> str:
    return str(model.get("_name") or model.get("arch"))


def _mask(section: Mapping[str, Any], name: str, *, min_spans: int) -> dict[str, Any]:
    probability, length = section[f"{name}_prob"], section[f"{name}_length"]
    return {"start_prob": probability / length, "span": length, "min_spans": min_spans if probability > 0 else 0}


def _their_mask(config: MaskConfig, name: str) -> dict[str, Any]:
    return {f"{name}_prob": round(config.start_prob * config.span, 12), f"{name}_length": config.span}


def _loss_weights(criterion: Mapping[str, Any], usual: list[float]) -> list[float]:
    """Return the weights of the additional losses; a single one applies to all, None means zero."""
    weights = _literal(criterion.get("loss_weights", usual))
    if weights is None:
        return [0.0] * len(usual)
    weights = list(weights) if isinstance(weights, list | tuple) else [weights]
    return weights * len(usual) if len(weights) == 1 else weights


def _literal(value: Any) -> Any:
    """Return the value of a setting that old files store as an expression."""
    return ast.literal_eval(value) if isinstance(value, str) else value


def _stack(expression: str) -> Any:
    """Evaluate the expression for the convolutions: lists and tuples of integers, their sums and multiples.

    Raises:
        ValueError: the expression holds anything else, or lists more than a thousand entries.
    """
    return _evaluate(ast.parse(expression.strip(), mode="eval").body)


def _evaluate(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_evaluate(part) for part in parts]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _evaluate(left) + _evaluate(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            values, times = _evaluate(left), _evaluate(right)
            values, times = (times, values) if isinstance(times, list) else (values, times)
            if isinstance(values, list) and isinstance(times, int) and len(values) * times <= 1000:
                return values * times
    raise ValueError(f"{ast.unparse(node)} is no list of (channels, kernel, stride)")
