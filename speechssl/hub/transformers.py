"""Folders of Hugging Face transformers: wav2vec2 and hubert, bare, for pretraining (wav2vec2 only) and for CTC.

    config.json         architecture     preprocessor_config.json            sample rate, normalisation
    model.safetensors   parameters       vocab.json, tokenizer_config.json   of a CTC model
                                         processor_config.json               of a CTC model: all of the processor

Version 5 stores the feature extractor in processor_config.json if a processor is saved, and then writes no
preprocessor_config.json; version 4 writes only the latter. Both are read, with precedence for the former as in version
5; both are written for a CTC model.
Reading and writing do not need transformers; `run_transformers` does. Settings that their configuration cannot hold are
taken from the papers: the gradient of a group-norm extractor is scaled by 0.1. Their group norm includes padding: give
their BASE models one utterance at a time, or set `padding_in_norm` here to get their numbers.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from speechssl.atomic import atomic
from speechssl.audio.reading import SAMPLE_RATE, AudioConfig
from speechssl.errors import CheckpointError
from speechssl.hub.names import Conversion, name_table, rename_from, rename_to
from speechssl.hub.pickled import load_pickled, read_json, tensors_only
from speechssl.hub.saved import Description, SavedModel
from speechssl.hub.tokenizers import read_tokenizer, their_tokenizer
from speechssl.model.encoder import EncoderConfig
from speechssl.model.masking import MaskConfig
from speechssl.model.transformer import TransformerConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.train.checkpoint import load_tensors

__all__ = ["is_transformers", "read_transformers", "run_transformers", "write_transformers"]

_CLASSES = {  # class names by method, for either model_type
    "encoder": {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel"},
    "hubert": {"hubert": "HubertModel"},
    "wav2vec2": {"wav2vec2": "Wav2Vec2ForPreTraining"},
    "ctc": {"wav2vec2": "Wav2Vec2ForCTC", "hubert": "HubertForCTC"},
}
_ONLY = {  # settings with a single supported value, and their default in transformers
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "add_adapter": False,
    "adapter_attn_dim": None,
    "conv_pos_batch_norm": False,
    "feat_proj_layer_norm": True,
}


def is_transformers(path: Path) -> bool:
    """Return whether a folder looks like a model of transformers."""
    config = path / "config.json"
    return config.is_file() and "model_type" in read_json(config)


def read_transformers(path: Path) -> Conversion:
    """Read a model folder.

    Args:
        path: folder with config.json, and model.safetensors or pytorch_model.bin (tensors only, never unpickled).

    Raises:
        CheckpointError: the architecture is not supported, or a file is missing, broken or contradicts the others.
    """
    config = read_json(path / "config.json")
    theirs = _modern_names(_parameters(path))
    _check_supported(config, path)
    method = "ctc" if "lm_head.weight" in theirs else "wav2vec2" if "project_hid.weight" in theirs else "encoder"
    added, audio = _audio(path, config)
    tokenizer = read_tokenizer(path, config) if method == "ctc" else None
    described = {}
    if tokenizer is not None:
        described = {key: getattr(tokenizer, key) for key in ("written_in", "text", "writing")}
        added |= tokenizer.added
    description = Description(
        encoder=_encoder(config),
        objective=_contrastive(config) if method == "wav2vec2" else None,
        ctc=_ctc(config) if method == "ctc" else None,
        vocabulary=tokenizer.tokens if tokenizer is not None else (),
        **described,
        audio=audio,
        family=config["model_type"] if method != "wav2vec2" else None,
        origin=f"transformers {path.name}",
    )
    prefix = f"{config['model_type']}."
    table = name_table(description, "transformers", trunk=prefix if any(k.startswith(prefix) for k in theirs) else "")
    (mask_name,) = table.names["encoder.mask_vector"]
    if mask_name not in theirs:  # transformers creates it only if the model masks
        theirs[mask_name] = torch.zeros(table.shapes["encoder.mask_vector"])
        added["encoder.mask_vector"] = "the model was saved without masking; starts from zero"
    tensors, left = rename_from(theirs, table, where=str(path))
    if left:
        raise CheckpointError(
            f"{path}: {len(left)} parameters have no place in this architecture: {', '.join(left[:3])}"
        )
    order = tokenizer.order if tokenizer is not None else ()
    for name in ("head.weight", "head.bias") if order else ():
        tensors[name] = tensors[name][[*order]]
    return Conversion(
        model=SavedModel(description=description, tensors=tensors, name=str(path)),
        dropped=tokenizer.dropped if tokenizer is not None else {},
        added=added,
        order=order,
    )


def write_transformers(model: SavedModel, target: Path) -> dict[str, str]:
    """Write a folder that transformers loads.

    Returns:
        Reasons by our name, for what was dropped: the label head of HuBERT, for which transformers has no class.

    Raises:
        CheckpointError: the target exists, or the model has settings that transformers lacks.
    """
    if target.exists():
        raise CheckpointError(f"{target}: exists already; name another folder, or remove it")
    described = model.description
    family = described.pretrained_by or "wav2vec2"
    is_bare = described.task is None or not any(row.transformers for row in described.task.head_names)
    table = name_table(described, "transformers", trunk="" if is_bare else f"{family}.")
    files = {"config.json": _their_config(described, family), "preprocessor_config.json": _their_audio(described)}
    if described.vocabulary:
        files |= {
            "vocab.json": {token: index for index, token in enumerate(described.vocabulary)},
            "tokenizer_config.json": their_tokenizer(described),
            "processor_config.json": {
                "processor_class": "Wav2Vec2Processor",
                "feature_extractor": files["preprocessor_config.json"],
            },
        }
    with atomic(target) as temporary:
        temporary.mkdir()
        save_file(rename_to(model.tensors, table), temporary / "model.safetensors", metadata={"format": "pt"})
        for name, content in files.items():
            (temporary / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return dict.fromkeys(table.without, "transformers has no class for HuBERT's pretraining")


@torch.no_grad()
def run_transformers(path: Path, waveform: Tensor) -> Tensor:
    """Run transformers' own model on one utterance.

    Args:
        path: model folder.
        waveform: (time,) at 16 kHz, normalised if the model wants it.

    Returns:
        (frames, vocab) logits of a CTC model, else (frames, dim) of the last layer.
    """
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError("transformers is not installed; pip install 'speechssl[interop]'") from error
    config = read_json(path / "config.json")
    (architecture,) = config["architectures"]
    model = getattr(transformers, architecture).from_pretrained(path).eval()
    if hasattr(model, "lm_head"):
        return model(waveform[None]).logits[0]
    return getattr(model, config["model_type"], model)(waveform[None]).last_hidden_state[0]


def _parameters(path: Path) -> dict[str, Tensor]:
    """Read the parameters from one or several files; safetensors have precedence, as in transformers."""
    whole, pickled = path / "model.safetensors", path / "pytorch_model.bin"
    if whole.exists():
        return load_tensors(whole)
    if (index := path / "model.safetensors.index.json").exists():
        return _shards(index, load_tensors)
    if pickled.exists():
        return tensors_only(load_pickled(pickled), where=str(pickled))
    if (index := path / "pytorch_model.bin.index.json").exists():
        return _shards(index, lambda shard: tensors_only(load_pickled(shard), where=str(shard)))
    kinds = ("*.safetensors", "*.bin", "*.msgpack", "*.h5", "*.pt", "*.ckpt")
    others = sorted(file.name for kind in kinds for file in path.glob(kind))
    raise CheckpointError(
        f"{path}: has no parameters in model.safetensors, pytorch_model.bin or the shards that MODEL.index.json names"
        f"{f', found {chr(44).join(others[:4])}' if others else ''}; load the model with transformers and save it again"
    )


def _shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Read the files that an index names; a shard that holds less than it says is an error."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: names no files in weight_map; copy the model folder again")
    tensors: dict[str, Tensor] = {}
    for shard in sorted({str(name) for name in places.values()}):
        file = index.with_name(Path(shard).name)
        if not file.exists():
            raise CheckpointError(f"{file}: no such file, and {index.name} names it; copy all shards of the model")
        tensors |= read(file)
    missing = [name for name in places if name not in tensors]
    if missing:
        raise CheckpointError(f"{index}: names {missing[0]} in {places[missing[0]]}, which lacks it; copy it again")
    return tensors


def _modern_names(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the two parts of a weight norm from the names of older versions of torch."""
    parts = {"conv.weight_g": "conv.parametrizations.weight.original0"}
    parts["conv.weight_v"] = "conv.parametrizations.weight.original1"
    renamed = {}
    for name, tensor in theirs.items():
        old = next((old for old in parts if name.endswith(f"pos_conv_embed.{old}")), None)
        renamed[name if old is None else name.removesuffix(old) + parts[old]] = tensor
    return renamed


def _check_supported(config: Mapping[str, Any], path: Path) -> None:
    if config.get("model_type") not in ("wav2vec2", "hubert"):
        raise CheckpointError(
            f"{path}: is a model of type {config.get('model_type')!r}, expected wav2vec2 or hubert, "
            "which are the architectures this toolkit has"
        )
    if config.get("adapter_attn_dim") is not None:
        found = sorted(file.name for file in path.glob("adapter.*"))
        raise CheckpointError(
            f"{path}: config.json has adapter_attn_dim={config['adapter_attn_dim']}: its layers have adapters, one set "
            f"a language{f' (found {found[0]})' if found else ''}, as MMS has, supported is only None; tune its trunk "
            "alone, or take a model without adapters"
        )
    for key, only in _ONLY.items():
        if config.get(key, only) != only:
            raise CheckpointError(f"{path}: config.json has {key}={config[key]!r}, supported is only {only!r}")


def _encoder(config: Mapping[str, Any]) -> EncoderConfig:
    try:
        return EncoderConfig(
            conv=tuple(zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True)),
            conv_norm=config["feat_extract_norm"],
            conv_bias=config["conv_bias"],
            conv_grad_scale=0.1 if config["feat_extract_norm"] == "group" else 1.0,
            feature_dropout=config.get("feat_proj_dropout", 0.0),
            transformer=TransformerConfig(
                dim=config["hidden_size"],
                num_layers=config["num_hidden_layers"],
                num_heads=config["num_attention_heads"],
                ffn_dim=config["intermediate_size"],
                norm="pre" if config["do_stable_layer_norm"] else "post",
                position_kernel=config["num_conv_pos_embeddings"],
                position_groups=config["num_conv_pos_embedding_groups"],
                dropout=config.get("hidden_dropout", 0.1),
                attention_dropout=config.get("attention_dropout", 0.1),
                activation_dropout=config.get("activation_dropout", 0.1),
                layer_drop=config.get("layerdrop", 0.1),
            ),
        )
    except KeyError as error:
        raise CheckpointError(f"config.json lacks {error}; save the model again with transformers") from error


def _contrastive(config: Mapping[str, Any]) -> ContrastiveConfig:
    return ContrastiveConfig(
        dim=config["proj_codevector_dim"],
        temperature=config["contrastive_logits_temperature"],
        negatives=config["num_negatives"],
        diversity_weight=config["diversity_loss_weight"],
        feature_penalty=10.0 if config["feat_extract_norm"] == "group" else 0.0,
        feature_dropout=config.get("feat_quantizer_dropout", 0.0),
        quantizer=QuantizerConfig(
            groups=config["num_codevector_groups"],
            entries=config["num_codevectors_per_group"],
            dim=config["codevector_dim"],
        ),
        mask=_mask(config, "time"),
    )


def _ctc(config: Mapping[str, Any]) -> CTCConfig:
    return CTCConfig(
        dropout=config.get("final_dropout", 0.1), mask=_mask(config, "time"), channel_mask=_mask(config, "feature")
    )


def _mask(config: Mapping[str, Any], axis: str) -> MaskConfig:
    span = config.get(f"mask_{axis}_length", 10)
    prob = config.get(f"mask_{axis}_prob", 0.0) if config.get("apply_spec_augment", True) else 0.0
    return MaskConfig(
        start_prob=prob / span, span=span, min_spans=config.get(f"mask_{axis}_min_masks", 0) if prob else 0
    )


def _audio(path: Path, config: Mapping[str, Any]) -> tuple[dict[str, str], AudioConfig]:
    """Return what was assumed, and how the model's audio is read; where versions differ, as in transformers 5."""
    nested, alone = path / "processor_config.json", path / "preprocessor_config.json"
    inside = read_json(nested).get("feature_extractor") if nested.exists() else None
    found = {nested: inside} if isinstance(inside, dict) else {}
    found |= {alone: read_json(alone)} if alone.exists() else {}
    for file, extractor in found.items():
        if extractor.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise CheckpointError(f"{file}: sampling_rate is {extractor['sampling_rate']}, expected {SAMPLE_RATE}")
    if not found:
        is_large = config["feat_extract_norm"] == "layer"
        reason = "no feature extractor was saved: normalised, as published models with layer norm are, unlike BASE"
        return {"audio.normalize": reason}, AudioConfig(normalize=is_large)
    normalize, *others = (bool(extractor.get("do_normalize", True)) for extractor in found.values())
    added = {}
    if others and others != [normalize]:
        reason = f"{nested.name} says do_normalize={normalize}, {alone.name} the opposite"
        added["audio.normalize"] = f"{reason}; transformers 5 reads the former, 4 the latter: correct the wrong one"
    return added, AudioConfig(normalize=normalize)


def _their_config(described: Description, family: str) -> dict[str, Any]:
    encoder, transformer = described.encoder, described.encoder.transformer
    config = {
        "architectures": [_CLASSES[described.method][family]],
        "model_type": family,
        "dtype": "float32",
        "conv_dim": [channels for channels, _, _ in encoder.conv],
        "conv_kernel": [kernel for _, kernel, _ in encoder.conv],
        "conv_stride": [stride for _, _, stride in encoder.conv],
        "num_feat_extract_layers": len(encoder.conv),
        "feat_extract_norm": encoder.conv_norm,
        "conv_bias": encoder.conv_bias,
        "feat_proj_dropout": encoder.feature_dropout,
        "hidden_size": transformer.dim,
        "num_hidden_layers": transformer.num_layers,
        "num_attention_heads": transformer.num_heads,
        "intermediate_size": transformer.ffn_dim,
        "do_stable_layer_norm": transformer.norm == "pre",
        "num_conv_pos_embeddings": transformer.position_kernel,
        "num_conv_pos_embedding_groups": transformer.position_groups,
        "hidden_dropout": transformer.dropout,
        "attention_dropout": transformer.attention_dropout,
        "activation_dropout": transformer.activation_dropout,
        "layerdrop": transformer.layer_drop,
        "pad_token_id": 0,
        **{key: value for key, value in _ONLY.items() if key != "feat_proj_layer_norm" or family == "hubert"},
    }
    if isinstance(described.objective, ContrastiveConfig):
        config |= _their_contrastive(described.objective)
    if described.ctc is not None:
        config |= {
            "vocab_size": len(described.vocabulary),
            "final_dropout": described.ctc.dropout,
            "ctc_loss_reduction": "sum",
            "ctc_zero_infinity": True,
            **_their_mask("time", described.ctc.mask),
            **_their_mask("feature", described.ctc.channel_mask),
        }
    elif described.objective is not None:
        objective: Any = described.objective  # wav2vec 2.0 or HuBERT: both mask
        config |= _their_mask("time", objective.mask)
    return config


def _their_contrastive(objective: ContrastiveConfig) -> dict[str, Any]:
    return {
        "proj_codevector_dim": objective.dim,
        "contrastive_logits_temperature": objective.temperature,
        "num_negatives": objective.negatives,
        "diversity_loss_weight": objective.diversity_weight,
        "feat_quantizer_dropout": objective.feature_dropout,
        "num_codevector_groups": objective.quantizer.groups,
        "num_codevectors_per_group": objective.quantizer.entries,
        "codevector_dim": objective.quantizer.dim,
    }


def _their_mask(axis: str, mask: MaskConfig) -> dict[str, Any]:
    return {
        f"mask_{axis}_prob": mask.start_prob * mask.span,
        f"mask_{axis}_length": mask.span,
        f"mask_{axis}_min_masks": mask.min_spans,
    }


def _their_audio(described: Description) -> dict[str, Any]:
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_value": 0.0,
        "do_normalize": bool(described.audio.normalize),
        "return_attention_mask": described.encoder.conv_norm == "layer",  # as in their models: not for BASE
    }
