"""State dicts of torchaudio's models: `wav2vec2_model`, with or without a CTC head, and `hubert_pretrain_model`.

    NAME.pt     the bare state dict
    NAME.json   {"constructor": ..., "arguments": {...}, "normalize": ..., "labels": [...]}; labels of a CTC head

A state dict holds neither strides nor heads nor the order of the norms, so they are stored beside it. Without the JSON
file a model is read if its shapes are those of the published families. torchaudio has no model for the pretraining of
wav2vec 2.0, of which only the trunk is written. Its inference models have no mask vector.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.config import from_dict
from speechssl.errors import CheckpointError, ConfigError
from speechssl.extras import import_torchaudio
from speechssl.hub.fairseq_dictionaries import written_by_signs
from speechssl.hub.names import Conversion, NameTable, expect_shared, lost_settings, name_table, rename_from, rename_to
from speechssl.hub.pickled import load_pickled, pickled_bytes, tensors_only, write_files
from speechssl.hub.saved import Description, SavedModel
from speechssl.model.frames import BASE_STACK
from speechssl.tasks.masked_prediction import MaskedPredictionConfig

__all__ = ["is_torchaudio", "read_torchaudio", "run_torchaudio", "write_torchaudio"]

PRETRAINING, INFERENCE = "hubert_pretrain_model", "wav2vec2_model"
TEMPERATURE = 0.1  # fixed temperature of torchaudio's cosine logits

# our field: their argument
_TRUNK = {"conv_bias": "extractor_conv_bias", "feature_dropout": "encoder_projection_dropout"}
_TRANSFORMER = {
    "dim": "encoder_embed_dim",
    "num_layers": "encoder_num_layers",
    "num_heads": "encoder_num_heads",
    "ffn_dim": "encoder_ff_interm_features",
    "position_kernel": "encoder_pos_conv_kernel",
    "position_groups": "encoder_pos_conv_groups",
    "dropout": "encoder_dropout",
    "attention_dropout": "encoder_attention_dropout",
    "activation_dropout": "encoder_ff_interm_dropout",
    "layer_drop": "encoder_layer_drop",
}
_MODES = {"group": "group_norm", "layer": "layer_norm"}
_FIXED = {  # pretraining arguments that are ignored, with the value that holds here
    "mask_selection": "static",
    "mask_other": 0.0,
    "no_mask_overlap": False,
    "mask_min_space": 1,
    "mask_channel_prob": 0.0,
    "mask_channel_selection": "static",
    "mask_channel_other": 0.0,
    "mask_channel_length": 10,
    "no_mask_channel_overlap": False,
    "mask_channel_min_space": 1,
}
_KERNELS = tuple(kernel for _, kernel, _ in BASE_STACK)
_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}  # heads by dim, for the published families
_OLD_NAMES = {  # names of the two parts of a weight norm in older versions of torch
    "encoder.transformer.pos_conv_embed.conv.weight_g": "parametrizations.weight.original0",
    "encoder.transformer.pos_conv_embed.conv.weight_v": "parametrizations.weight.original1",
}


def is_torchaudio(path: Path) -> bool:
    """Return whether a file looks like a state dict of torchaudio's wav2vec 2.0 or HuBERT."""
    content = pickled_bytes(path)
    return all(name in content for name in (b"encoder.transformer.pos_conv_embed.conv.", b"conv_layers.0.conv.weight"))


def read_torchaudio(path: Path) -> Conversion:
    """Read a state dict, and the JSON file beside it.

    Raises:
        CheckpointError: a file is missing, broken or contradicts the other; or the JSON is missing and the shapes
            match no published family.
    """
    theirs, settings, added = _read(path)
    try:
        description = from_dict(_values(settings, path), Description, where=str(path))
    except ConfigError as error:
        raise CheckpointError(f"{error}; the arguments in {path.with_suffix('.json').name} are broken") from error
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path.with_suffix('.json')}: its arguments cannot be understood ({error!r}); compare them with those of "
            f"torchaudio.models.{settings['constructor']}"
        ) from error
    table = _table(description)
    tensors, left = rename_from(theirs, table, where=str(path))
    if left:
        raise CheckpointError(
            f"{path}: {len(left)} parameters have no place in this architecture: {', '.join(left[:3])}"
        )
    if "encoder.mask_vector" not in tensors:
        tensors["encoder.mask_vector"] = torch.zeros(table.shapes["encoder.mask_vector"])
        added["encoder.mask_vector"] = "torchaudio has one in pretraining only; starts from zero"
    arguments = settings["arguments"]
    return Conversion(
        model=SavedModel(description=description, tensors=tensors, name=str(path)),
        dropped={
            f"{key}={arguments[key]}": f"training here is as with {fixed}"
            for key, fixed in _FIXED.items()
            if key in arguments and arguments[key] != fixed
        },
        added=added,
    )


def write_torchaudio(model: SavedModel, target: Path) -> dict[str, str]:
    """Write a state dict, and the arguments of its constructor beside it.

    Args:
        model: a model of any method; heads that torchaudio does not have are left out.
        target: file to write, NAME.pt.

    Returns:
        Reasons by our name, for what was dropped.

    Raises:
        CheckpointError: a file exists already, or the encoder has layers that torchaudio lacks.
    """
    described = model.description
    expect_shared(described.encoder, "torchaudio")
    settings = _settings(described)
    again = from_dict(_values(settings, target), Description, where=str(target))
    table = _table(again)
    tensors = rename_to(model.tensors, table)
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    write_files(
        {
            target.with_suffix(".json"): lambda path: path.write_text(text, encoding="utf-8"),
            target: lambda path: torch.save(tensors, path),
        }
    )
    dropped = dict.fromkeys(sorted(set(model.tensors) - set(table.names)), "torchaudio has no such model for it")
    return dropped | lost_settings(described, again, "torchaudio")


@torch.no_grad()
def run_torchaudio(path: Path, waveform: Tensor) -> Tensor:
    """Run torchaudio's own model on one utterance.

    Args:
        path: path of the state dict.
        waveform: (time,) at 16 kHz, normalised if the model wants it.

    Returns:
        (frames, vocab) logits of a CTC model, else (frames, dim) of the last layer.
    """
    models = import_torchaudio("models")
    theirs, settings, _ = _read(path)
    model = getattr(models, settings["constructor"])(**settings["arguments"]).eval()
    model.load_state_dict(theirs)
    return getattr(model, "wav2vec2", model)(waveform[None])[0][0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """Return the state dict, the settings beside it, and what had to be assumed."""
    theirs = {}
    for name, tensor in tensors_only(load_pickled(path), where=str(path)).items():
        old = next((old for old in _OLD_NAMES if name.endswith(old)), None)
        theirs[name if old is None else f"{name.rpartition('.')[0]}.{_OLD_NAMES[old]}"] = tensor
    file = path.with_suffix(".json")
    if not file.exists():
        settings = _deduced(theirs, path)
        return theirs, settings, {
            "encoder": f"deduced from the shapes, as {file.name} is missing; dropouts are those of BASE",
            "audio.normalize": "normalised, as published models with layer norm are, unlike those with group norm",
        }  # fmt: skip
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error}); write the arguments of the model's constructor"
        ) from error
    is_known = isinstance(settings, dict) and settings.get("constructor") in (INFERENCE, PRETRAINING)
    if not is_known or not isinstance(settings.get("arguments"), dict):
        raise CheckpointError(
            f"{file}: expected constructor={INFERENCE} or {PRETRAINING}, with its arguments; write them"
        )
    return theirs, settings, {}


def _table(described: Description) -> NameTable:
    return name_table(
        described, "torchaudio", trunk=described.task.prefixes.get("torchaudio", "") if described.task else ""
    )


def _values(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the values of a `Description`."""
    arguments = settings["arguments"]
    conv_norm = {theirs: ours for ours, theirs in _MODES.items()}[arguments["extractor_mode"]]
    grad_scale = 0.1 if conv_norm == "group" else 1.0  # default: as in the papers
    if settings["constructor"] == PRETRAINING:
        grad_scale = 1.0 if arguments["feature_grad_mult"] is None else arguments["feature_grad_mult"]
    values: dict[str, Any] = {
        "encoder": {
            **{ours: arguments[theirs] for ours, theirs in _TRUNK.items()},
            "conv": arguments["extractor_conv_layer_config"] or BASE_STACK,
            "conv_norm": conv_norm,
            "conv_grad_scale": grad_scale,
            "transformer": {
                **{ours: arguments[theirs] for ours, theirs in _TRANSFORMER.items()},
                "norm": "pre" if arguments["encoder_layer_norm_first"] else "post",
            },
        },
        "audio": {"normalize": settings["normalize"]},
        "origin": f"torchaudio {path.name}",
    }
    if settings["constructor"] == PRETRAINING:
        return values | {"objective": _objective(arguments), "clusters": [arguments["num_classes"]]}
    if arguments["aux_num_out"] is None:
        return values
    labels = settings.get("labels")
    if not isinstance(labels, list) or len(labels) != arguments["aux_num_out"]:
        raise CheckpointError(
            f"{path.with_suffix('.json')}: has {len(labels or [])} labels, expected aux_num_out="
            f"{arguments['aux_num_out']}; write the letters of the head there, the blank first"
        )
    return values | {"ctc": {}, **written_by_signs(labels)}


def _objective(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a `MaskedPredictionConfig`."""
    probability, length = arguments["mask_prob"], arguments["mask_length"]
    return {
        "kind": "masked_prediction",
        "dim": arguments["final_dim"],
        "temperature": TEMPERATURE,
        "masked_weight": 0.0 if arguments["skip_masked"] else 1.0,
        "unmasked_weight": 1.0 if arguments["skip_masked"] else 0.0,
        "mask": {"start_prob": probability / length, "span": length, "min_spans": 2},
    }


def _settings(described: Description) -> dict[str, Any]:
    """Return the content of the JSON file."""
    encoder, objective = described.encoder, described.objective
    arguments: dict[str, Any] = {
        "extractor_mode": _MODES[encoder.conv_norm],
        "extractor_conv_layer_config": [[*layer] for layer in encoder.conv],
        **{theirs: getattr(encoder, ours) for ours, theirs in _TRUNK.items()},
        **{theirs: getattr(encoder.transformer, ours) for ours, theirs in _TRANSFORMER.items()},
        "encoder_layer_norm_first": encoder.transformer.norm == "pre",
    }
    settings = {"constructor": INFERENCE, "arguments": arguments, "normalize": bool(described.audio.normalize)}
    is_cosine = isinstance(objective, MaskedPredictionConfig) and objective.logits == "cosine"
    if isinstance(objective, MaskedPredictionConfig) and is_cosine and len(described.clusters) == 1:
        scale = encoder.conv_grad_scale
        arguments |= {
            **_FIXED,
            "mask_prob": round(objective.mask.start_prob * objective.mask.span, 12),
            "mask_length": objective.mask.span,
            "skip_masked": objective.masked_weight == 0,
            "skip_nomask": objective.unmasked_weight == 0,
            "num_classes": described.clusters[0],
            "final_dim": objective.dim,
            "feature_grad_mult": scale if 0 < scale < 1 else None,  # torchaudio accepts no other value
        }
        return settings | {"constructor": PRETRAINING}
    arguments["aux_num_out"] = len(described.vocabulary) or None
    return settings | ({"labels": [*described.vocabulary]} if described.vocabulary else {})


def _deduced(theirs: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Deduce the settings of a model of a published family from the shapes of its parameters."""
    is_pretraining = "logit_generator.label_embeddings" in theirs
    prefix = "wav2vec2." if is_pretraining else ""
    shapes = {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in theirs.items()}
    layer = "encoder.transformer.layers.{}.feed_forward.intermediate_dense.weight"
    num_layers = next(number for number in range(len(shapes) + 1) if layer.format(number) not in shapes)
    convs = [shapes.get(f"feature_extractor.conv_layers.{index}.conv.weight", ()) for index in range(len(_KERNELS) + 1)]
    positions = shapes.get("encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1", ())
    dim = sum(shapes.get("encoder.feature_projection.projection.bias", ()))
    kernels = tuple(size for conv in convs for size in conv[2:])
    is_family = kernels == _KERNELS and dim in _HEADS and num_layers > 0
    if not is_family or len(positions) != 3 or "aux.bias" in shapes:
        raise CheckpointError(
            f"{path}: strides, heads and letters do not follow from its shapes; write "
            f'{path.with_suffix(".json").name} beside it: {{"constructor": "{INFERENCE}", "arguments": {{...}}, '
            '"normalize": ..., "labels": [...]}, labels for a model with a CTC head'
        )
    is_layer_norm = "feature_extractor.conv_layers.1.layer_norm.weight" in shapes
    arguments: dict[str, Any] = {
        "extractor_mode": "layer_norm" if is_layer_norm else "group_norm",
        "extractor_conv_layer_config": [
            [conv[0], kernel, stride] for conv, (_, kernel, stride) in zip(convs, BASE_STACK, strict=False)
        ],
        "extractor_conv_bias": "feature_extractor.conv_layers.0.conv.bias" in shapes,
        "encoder_embed_dim": dim,
        "encoder_num_layers": num_layers,
        "encoder_num_heads": _HEADS[dim],
        "encoder_ff_interm_features": shapes[layer.format(0)][0],
        "encoder_pos_conv_kernel": positions[2],
        "encoder_pos_conv_groups": dim // positions[1],
        "encoder_layer_norm_first": is_layer_norm,
        "encoder_projection_dropout": 0.1,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.1,
        "encoder_layer_drop": 0.05,
    }
    settings = {"constructor": INFERENCE, "arguments": arguments, "normalize": is_layer_norm}
    if not is_pretraining:
        arguments["aux_num_out"] = None
        return settings
    clusters, final_dim = shapes["logit_generator.label_embeddings"]
    arguments |= _FIXED | {"mask_prob": 0.8, "mask_length": 10, "skip_masked": False, "skip_nomask": False}
    arguments |= {"num_classes": clusters, "final_dim": final_dim}
    return settings | {
        "constructor": PRETRAINING,
        "arguments": arguments | {"feature_grad_mult": None if is_layer_norm else 0.1},
    }
