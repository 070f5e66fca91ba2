"""Table of parameter names, a row per parameter and a column per toolkit; strict renaming of tensors by it.

The rows of the trunk are here, those of a head are in its task (`Task.head_names`).

Besides names, three things differ. Our query, key and value projections are one matrix, other toolkits have three.
Others store the codebook as (1, groups * entries, dim), we as (groups, entries, dim). fairseq stores the label
embeddings of all streams in one matrix, which `hub.fairseq` splits into the numbered ones of this table. If the
extractor has as many channels as the layers, fairseq and fairseq2 have no projection between them.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from speechssl.config import to_dict
from speechssl.errors import CheckpointError
from speechssl.hub.saved import Description, SavedModel, build_model, without_values
from speechssl.model.encoder import EncoderConfig
from speechssl.tasks.registry import TASKS
from speechssl.tasks.task import Row, Toolkit

__all__ = [
    "Conversion",
    "NameTable",
    "as_known",
    "check_projection",
    "expect_shared",
    "identity_projection",
    "lost_settings",
    "name_table",
    "rename_from",
    "rename_to",
]

CODEBOOK = "objective.quantizer.codebook"


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A model read from another toolkit's file, with the parts that did not fit."""

    model: SavedModel
    dropped: dict[str, str] = field(default_factory=dict)  # reason by their name
    added: dict[str, str] = field(default_factory=dict)  # reason by our name, for what their file lacks
    order: tuple[int, ...] = ()  # their id of each token, if the vocabulary was reordered


@dataclass(frozen=True, kw_only=True)
class NameTable:
    """The rows of the table for one model and one toolkit."""

    names: dict[str, tuple[str, ...]]  # our name -> their name, or those of query, key and value
    shapes: dict[str, torch.Size]  # shape of each of our parameters

    @property
    def without(self) -> list[str]:
        """Our parameters without a counterpart."""
        return [name for name in self.shapes if name not in self.names]


def as_known(model: SavedModel) -> tuple[SavedModel, dict[str, str]]:
    """Return a model without a head that no other toolkit has, that of an installed task or of one of our extensions.

    Returns:
        The model, and reasons by name for what that drops.
    """
    objective, family = model.description.objective, model.description.family
    known = {task.method for task in TASKS.values() if task.head_names}
    if objective is None and family is not None and family not in known:
        described = dataclasses.replace(model.description, family=None)
        reason = f"no other toolkit knows the method {family}; its files say wav2vec2"
        return dataclasses.replace(model, description=described), {"family": reason}
    task = None if objective is None else TASKS.get(objective.kind)
    if objective is None or (task is not None and task.is_elsewhere(objective)):
        return model, {}
    trunk = model.without_head()
    which = "" if task is None or not task.head_names else " with these settings"
    reason = f"no other toolkit knows objective.kind={objective.kind}{which}; the trunk alone is written"
    dropped = dict.fromkeys(sorted({*model.tensors} - {*trunk.tensors}), reason)
    if which:
        return trunk, dropped
    return dataclasses.replace(trunk, description=dataclasses.replace(trunk.description, family=None)), dropped


def expect_shared(encoder: EncoderConfig, who: str) -> None:
    """Check that an encoder has only layers that other toolkits have, too.

    Args:
        encoder: configuration of the encoder.
        who: toolkit or format that is to run it, for the error.

    Raises:
        CheckpointError: it has log-mel input, or layers at a lower frame rate.
    """
    if encoder.input != "waveform":
        raise CheckpointError(
            f"encoder.input is {encoder.input}, but {who} takes waveforms only; keep the model in speechssl, or train "
            "one with encoder.input=waveform"
        )
    if encoder.transformer.hourglass is not None:
        raise CheckpointError(
            f"encoder.transformer.hourglass is set, but {who} runs all layers at one frame rate; keep the model in "
            "speechssl, or train one without it"
        )


def name_table(description: Description, toolkit: Toolkit, *, trunk: str = "", head: str = "") -> NameTable:
    """Find the counterpart of each parameter of a model.

    Args:
        description: description of the model.
        toolkit: column of the table.
        trunk: prefix of the parameters of their trunk.
        head: prefix of the parameters of their head.

    Raises:
        CheckpointError: the encoder has layers that the toolkit lacks.
    """
    expect_shared(description.encoder, toolkit)
    model = without_values(lambda: build_model(description))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    rows = [(row._replace(ours=f"encoder.{row.ours}"), trunk) for row in _trunk_rows(description.encoder)]
    rows += [(row, head) for row in (description.task.head_names if description.task else ())]
    if toolkit in ("fairseq", "fairseq2") and _is_square(description.encoder):
        rows = [(row, prefix) for row, prefix in rows if row.ours != "encoder.project"]
    names = {}
    for row, prefix in rows:
        pattern = re.compile(re.escape(row.ours).replace(r"\{i\}", r"(?P<index>\d+)") + r"(?P<suffix>\.weight|\.bias)?")
        theirs = getattr(row, toolkit)
        for name in shapes if theirs is not None else ():
            if match := pattern.fullmatch(name):
                parts = match.groupdict(default="")
                full = prefix + theirs.replace("{i}", parts.get("index", "")) + parts["suffix"]
                names[name] = tuple(full.replace("{qkv}", part) for part in "qkv") if "{qkv}" in full else (full,)
    return NameTable(names=names, shapes=shapes)


def rename_to(tensors: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Rename our tensors to theirs; those without a counterpart are left out, see `NameTable.without`."""
    theirs: dict[str, Tensor] = {}
    for name, found in table.names.items():
        tensor = tensors[name]
        if name == CODEBOOK:
            tensor = tensor.flatten(0, 1)[None]
        theirs |= {key: part.contiguous() for key, part in zip(found, tensor.chunk(len(found)), strict=True)}
    return theirs


def rename_from(theirs: Mapping[str, Tensor], table: NameTable, *, where: str) -> tuple[dict[str, Tensor], list[str]]:
    """Rename their tensors to ours, strictly.

    Args:
        theirs: tensors by their name.
        table: result of `name_table`.
        where: origin of the tensors, for errors.

    Returns:
        Tensors by our name, in float32, and their names without a counterpart.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    missing = [key for found in table.names.values() for key in found if key not in theirs]
    if missing:
        raise CheckpointError(
            f"{where}: lacks {len(missing)} parameters of its architecture: {', '.join(missing[:3])}; "
            "the file is incomplete, or its configuration belongs to another model"
        )
    ours = {}
    for name, found in table.names.items():
        parts, shape = [theirs[key] for key in found], table.shapes[name]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        if name == CODEBOOK and tensor.numel() == shape.numel():
            tensor = tensor.reshape(shape)
        if tensor.shape != shape:
            raise CheckpointError(
                f"{where}: {found[0]} has shape {tuple(parts[0].shape)}, which does not fit the {tuple(shape)} "
                "that its configuration asks for; the configuration belongs to another model"
            )
        ours[name] = tensor.detach().float().contiguous()
    taken = {key for found in table.names.values() for key in found}
    return ours, [key for key in theirs if key not in taken]


def identity_projection(description: Description) -> dict[str, Tensor]:
    """Return the identity projection that fairseq and fairseq2 leave out if extractor and layers have equal widths."""
    dim = description.encoder.transformer.dim
    if not _is_square(description.encoder):
        return {}
    return {"encoder.project.weight": torch.eye(dim), "encoder.project.bias": torch.zeros(dim)}


def check_projection(model: SavedModel, toolkit: str) -> None:
    """Check that a projection that the toolkit leaves out is the identity.

    Raises:
        CheckpointError: it is not.
    """
    for name, expected in identity_projection(model.description).items():
        if not torch.equal(model.tensors[name].float(), expected):
            raise CheckpointError(
                f"{model.name}: projects {len(expected)} channels to as many, which {toolkit} cannot hold; "
                "train with an extractor of another number of channels"
            )


def _is_square(config: EncoderConfig) -> bool:
    return config.conv[-1][0] == config.transformer.dim


def lost_settings(ours: Description, again: Description, toolkit: str) -> dict[str, str]:
    """Return the settings of a model that do not survive in another toolkit's files, with the reason.

    Args:
        ours: description of the written model.
        again: description that reading gives.
        toolkit: the other toolkit.
    """
    kept = dict(_leaves(to_dict(again)))
    return {
        key: f"{toolkit} does not hold it; {kept[key]} instead of {value} when read back"
        for key, value in _leaves(to_dict(ours))
        if key in kept and kept[key] != value and key.partition(".")[0] not in ("audio", "origin", "family")
    }


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


_LAYER = "transformer.layers.{i}."
_FAIRSEQ_LAYER = "encoder.layers.{i}."
_TORCHAUDIO_LAYER = "encoder.transformer.layers.{i}."


def _trunk_rows(config: EncoderConfig) -> list[Row]:
    """Return the rows of the trunk, with the two norms whose place depends on the architecture."""
    conv_norm = (
        Row(
            "conv.norms.0",
            "feature_extractor.conv_layers.0.2",
            "feature_extractor.conv_layers.0.layer_norm",
            "feature_extractor.conv_layers.0.layer_norm",
            "encoder_frontend.feature_extractor.layers.0.group_norm",
        )
        if config.conv_norm == "group"
        else Row(
            "conv.norms.{i}",
            "feature_extractor.conv_layers.{i}.2.1",
            "feature_extractor.conv_layers.{i}.layer_norm",
            "feature_extractor.conv_layers.{i}.layer_norm",
            "encoder_frontend.feature_extractor.layers.{i}.layer_norm",
        )
    )
    last_norm = Row(
        "transformer.norm",
        "encoder.layer_norm",
        "encoder.layer_norm",
        "encoder.transformer.layer_norm",
        "encoder_frontend.layer_norm" if config.transformer.norm == "post" else "encoder.layer_norm",
    )
    return [*_TRUNK, conv_norm, last_norm]


def _layer_row(ours: str, fairseq: str, transformers: str, fairseq2: str) -> Row:
    """Return the row for one module of a layer; torchaudio uses the names of transformers under another prefix."""
    return Row(
        _LAYER + ours,
        _FAIRSEQ_LAYER + fairseq,
        _FAIRSEQ_LAYER + transformers,
        _TORCHAUDIO_LAYER + transformers,
        _FAIRSEQ_LAYER + fairseq2,
    )


def _position_row(ours: str, old: str, new: str) -> Row:
    """Return the row for the positional convolution; `old` and `new` are torch's two names for weight norm."""
    return Row(
        f"transformer.positions.conv.{ours}",
        f"encoder.pos_conv.0.{old}",
        f"encoder.pos_conv_embed.conv.{new}",
        f"encoder.transformer.pos_conv_embed.conv.{new}",
        f"encoder_frontend.pos_encoder.conv.{old}",
    )


_TRUNK = [
    Row(
        "conv.convs.{i}",
        "feature_extractor.conv_layers.{i}.0",
        "feature_extractor.conv_layers.{i}.conv",
        "feature_extractor.conv_layers.{i}.conv",
        "encoder_frontend.feature_extractor.layers.{i}.conv",
    ),
    Row(
        "norm",
        "layer_norm",
        "feature_projection.layer_norm",
        "encoder.feature_projection.layer_norm",
        "encoder_frontend.post_extract_layer_norm",
    ),
    Row(
        "project",
        "post_extract_proj",
        "feature_projection.projection",
        "encoder.feature_projection.projection",
        "encoder_frontend.model_dim_proj",
    ),
    Row("mask_vector", "mask_emb", "masked_spec_embed", None, "masker.temporal_mask_embed"),
    _position_row("bias", "bias", "bias"),
    _position_row("parametrizations.weight.original0", "weight_g", "parametrizations.weight.original0"),
    _position_row("parametrizations.weight.original1", "weight_v", "parametrizations.weight.original1"),
    _layer_row("attention.project_in", "self_attn.{qkv}_proj", "attention.{qkv}_proj", "self_attn.{qkv}_proj"),
    _layer_row("attention.project_out", "self_attn.out_proj", "attention.out_proj", "self_attn.output_proj"),
    _layer_row("attention_norm", "self_attn_layer_norm", "layer_norm", "self_attn_layer_norm"),
    _layer_row("expand", "fc1", "feed_forward.intermediate_dense", "ffn.inner_proj"),
    _layer_row("contract", "fc2", "feed_forward.output_dense", "ffn.output_proj"),
    _layer_row("ffn_norm", "final_layer_norm", "final_layer_norm", "ffn_layer_norm"),
]
