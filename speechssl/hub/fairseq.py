"""Checkpoints of fairseq: wav2vec 2.0 and HuBERT, pretrained or fine-tuned with CTC.

    NAME.pt                        settings and parameters
    dict.ltr.txt, dict.phn.txt     beside it, the letters of a fine-tuned model whose file does not hold them
    dict.km.txt, dict.km0.txt ...  beside it, the units of HuBERT's label streams

Reading runs no code from the file. Files that we write hold plain containers only; fairseq finds the dictionaries in
the folder given by `arg_overrides={"data": folder}`. Each fairseq dictionary begins with four special symbols that are
neither letters nor units. Their embeddings are left out on reading. A CTC head was trained with them, so it keeps them,
unless the file was written by us.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.config import from_dict
from speechssl.errors import CheckpointError, ConfigError
from speechssl.hub.fairseq_dictionaries import SPECIALS, dictionary_file, their_post_process, written_as
from speechssl.hub.fairseq_settings import (
    Settings,
    contrastive,
    ctc,
    encoder,
    masked_prediction,
    read_settings,
    their_contrastive,
    their_ctc,
    their_encoder,
    their_masked_prediction,
    unused,
)
from speechssl.hub.names import (
    Conversion,
    NameTable,
    check_projection,
    identity_projection,
    name_table,
    rename_from,
    rename_to,
)
from speechssl.hub.pickled import Record, load_pickled, pickled_bytes, tensors_only, write_files
from speechssl.hub.saved import Description, SavedModel
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig

__all__ = ["is_fairseq", "read_fairseq", "write_fairseq"]

BLANK_NAME = "<blank>"
EMPTY_BIAS = -10_000.0  # bias of head rows for symbols that our model does not have: never predicted
EMPTY_EMBEDDING = 0.5  # embedding of a symbol that is no unit: the mean of fairseq's initialisation

_METERS = ("AverageMeter", "StopwatchMeter", "SumMeter", "TimeMeter")
_NODES = ("AnyNode", "BooleanNode", "EnumNode", "FloatNode", "IntegerNode", "StringNode")
_CLASSES = (  # classes in such files besides tensors and plain containers; read as `pickled.Record`
    "argparse.Namespace",
    "fairseq.data.dictionary.Dictionary",
    *(f"fairseq.{module}.{name}" for module in ("meters", "logging.meters") for name in _METERS),
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{name}" for name in _NODES),
    "typing.Any",
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str")),  # types noted by omegaconf
    *(f"numpy.{module}.multiarray.scalar" for module in ("core", "_core")),  # scores
    "numpy.dtype",
    "_codecs.encode",
)
_MAPPINGS = ("collections.defaultdict", "fairseq.meters.MetersDict", "fairseq.logging.meters.MetersDict")
_NONSENSE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
_TUNED = {"trunk": "w2v_encoder.w2v_model.", "head": "w2v_encoder."}
_OF_PRETRAINING = re.compile(r".*\.(quantizer|input_quantizer|project_q|target_glu|final_proj|label_embs_concat)\b.*")


def is_fairseq(path: Path) -> bool:
    """Return whether a file looks like a checkpoint of fairseq."""
    content = pickled_bytes(path)
    return b"feature_extractor.conv_layers.0.0.weight" in content and (b"cfg" in content or b"args" in content)


def read_fairseq(path: Path) -> Conversion:
    """Read a checkpoint of either layout.

    Raises:
        CheckpointError: the architecture is not supported; a file is missing, broken or contradicts its settings; or
            the file names an unknown class.
    """
    state = load_pickled(path, _CLASSES, _MAPPINGS)
    theirs = tensors_only(_without_average(state.get("model")), where=str(path))
    try:
        settings = read_settings(state, path)
        values, dropped = _describe(settings, state, theirs, path)
        description = from_dict(values, Description, where=str(path))
    except ConfigError as error:
        raise CheckpointError(f"{error}; the settings of the file are broken") from error
    except _NONSENSE as error:
        raise CheckpointError(f"{path}: its settings cannot be understood ({error!r}); they are broken") from error
    tensors, left = rename_from(theirs, _table(description), where=str(path))
    dropped |= _left_over(left, path)
    identity = identity_projection(description)
    return Conversion(
        model=SavedModel(description=description, tensors=tensors | identity, name=str(path)),
        dropped=dropped | unused(settings),
        added=dict.fromkeys(identity, "the file has no projection, which is not needed; set to the identity"),
    )


def write_fairseq(model: SavedModel, target: Path) -> dict[str, str]:
    """Write a checkpoint, and the dictionaries that fairseq expects beside it.

    Args:
        model: a pretrained model with its objective, or a fine-tuned one.
        target: file to write, usually NAME.pt.

    Returns:
        Reasons by our name, for what was dropped.

    Raises:
        CheckpointError: a file exists already, or fairseq cannot hold the model.
    """
    described = model.description
    check_projection(model, "fairseq")
    tensors = rename_to(model.tensors, _table(described))
    dictionaries: dict[str, Sequence[str]] = {}
    match described.objective:
        case ContrastiveConfig() as objective:
            inner, criterion = their_contrastive(objective)
        case MaskedPredictionConfig() as objective:
            if objective.logits == "linear":
                raise CheckpointError(f"{model.name}: has linear logits; fairseq's HuBERT has cosine ones only")
            inner, criterion = their_masked_prediction(objective)
            tensors["label_embs_concat"] = _join_units(tensors, len(described.clusters))
            dictionaries = dict(zip(_streams(described), map(_unit_names, described.clusters), strict=True))
        case None if described.ctc is not None:
            letters = _their_letters(described.vocabulary, model.name)
            label, post_process = their_post_process(described)
            _spread_head(tensors, len(letters) - len(described.vocabulary))
            inner, dictionaries = {}, {label: letters}
            criterion = {"_name": "ctc", "zero_infinity": True, "post_process": post_process}
        case None:
            raise CheckpointError(f"{model.name}: is a bare encoder; fairseq loads models with their head only")
    state = _state(described, tensors, inner, criterion)
    files = {
        target.with_name(f"dict.{label}.txt"): _dictionary_writer(signs[len(SPECIALS) :])
        for label, signs in dictionaries.items()
    }
    write_files({**files, target: lambda path: torch.save(state, path)})
    return _dropped_settings(described)


def _describe(
    settings: Settings, state: dict[str, Any], theirs: dict[str, Tensor], path: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of a `Description`, and reasons for what was dropped; rearranges rows of `theirs`."""
    values: dict[str, Any] = {
        "encoder": encoder(settings),
        "audio": {"normalize": settings.normalize},
        "origin": f"fairseq {path.name}",
    }
    match settings.architecture:
        case "wav2vec2":
            return values | {"objective": contrastive(settings)}, {}
        case "hubert":
            clusters, dropped = _split_units(settings, state, theirs, path)
            return values | {"objective": masked_prediction(settings), "clusters": clusters}, dropped
        case _:
            vocabulary, dropped = _our_letters(settings, state, theirs, path)
            family = settings.model.get("_name") or settings.model["arch"]
            values |= {"ctc": ctc(settings), "family": family, **written_as(settings, vocabulary, path)}
            return values, dropped


def _table(description: Description) -> NameTable:
    return name_table(description, "fairseq", **(_TUNED if description.ctc is not None else {}))


def _without_average(parameters: Any) -> Any:
    """Drop the moving average of the parameters, as fairseq does when it loads a model."""
    is_dict = isinstance(parameters, dict)
    return {name: value for name, value in parameters.items() if name != "_ema"} if is_dict else parameters


def _left_over(names: Sequence[str], path: Path) -> dict[str, str]:
    unknown = [name for name in names if not (name.startswith(_TUNED["trunk"]) and _OF_PRETRAINING.match(name))]
    if unknown:
        raise CheckpointError(
            f"{path}: {len(unknown)} parameters have no place in this architecture: {', '.join(unknown[:3])}"
        )
    return dict.fromkeys(names, "belongs to pretraining; a fine-tuned model does not use it")


def _symbols(dictionary: Any) -> list[str]:
    """Return the symbols of a pickled dictionary."""
    symbols = vars(dictionary)["symbols"]
    if not isinstance(symbols, list) or not all(isinstance(sign, str) for sign in symbols):
        raise TypeError("a dictionary without signs")
    return symbols


def _split_units(
    settings: Settings, state: dict[str, Any], theirs: dict[str, Tensor], path: Path
) -> tuple[list[int], dict[str, str]]:
    """Split the embeddings of all streams, and keep those of units, in the order of their numbers."""
    whole = theirs.pop("label_embs_concat", torch.empty(0))
    project = theirs.get("final_proj.weight", torch.empty(0))
    dictionaries = (state.get("task_state") or {}).get("dictionaries")
    if dictionaries and all(isinstance(dictionary, Record) for dictionary in dictionaries):
        streams = [_symbols(dictionary) for dictionary in dictionaries]
    elif len(project) == settings.dim:
        streams = [[*SPECIALS, *map(str, range(len(whole) - len(SPECIALS)))]]
    else:
        raise CheckpointError(f"{path}: lacks the dictionaries that separate the units of its label streams")
    if len(streams) > 1 and not settings.model["untie_final_proj"]:
        raise CheckpointError(f"{path}: has one projection for {len(streams)} label streams, supported is one for each")
    if whole.ndim != 2 or sum(map(len, streams)) != len(whole) or min(map(len, streams)) <= len(SPECIALS):
        raise CheckpointError(
            f"{path}: label_embs_concat has shape {tuple(whole.shape)}, expected {sum(map(len, streams))} rows, "
            "one for each sign of the dictionaries; they belong to another model"
        )
    clusters, start = [], 0
    for index, signs in enumerate(streams):
        rows = torch.tensor(_unit_rows(signs)) + start
        theirs[f"label_embs_concat.{index}"] = whole[rows]
        clusters.append(len(rows))
        start += len(signs)
    return clusters, {f"label_embs_concat, rows of {' '.join(SPECIALS)}": "no units, and never the label of a frame"}


def _unit_rows(signs: list[str]) -> list[int]:
    """Return the rows of the units: in numerical order if they are numbers from 0 up, else in the order of the file."""
    place = {sign: row for row, sign in enumerate(signs)}
    numbers = [str(number) for number in range(len(signs) - len(SPECIALS))]
    return [place[number] for number in numbers] if all(n in place for n in numbers) else [*range(4, len(signs))]


def _join_units(tensors: dict[str, Tensor], streams: int) -> Tensor:
    """Join the embeddings of all streams, each after rows for the four special symbols."""
    parts = [tensors.pop(f"label_embs_concat.{index}") for index in range(streams)]
    return torch.cat(
        [torch.cat([part.new_full((len(SPECIALS), part.shape[1]), EMPTY_EMBEDDING), part]) for part in parts]
    )


def _unit_names(clusters: int) -> list[str]:
    return [*SPECIALS, *map(str, range(clusters))]


def _our_letters(
    settings: Settings, state: dict[str, Any], theirs: dict[str, Tensor], path: Path
) -> tuple[list[str], dict[str, str]]:
    """Return the vocabulary of a fine-tuned model, the blank first; drops unused rows of the head."""
    saved = (state.get("task_state") or {}).get("target_dictionary")
    labels = settings.task.get("labels") or "ltr"
    file = path.with_name(f"dict.{labels[0] if isinstance(labels, list) else labels}.txt")
    if not isinstance(saved, Record) and not file.exists():
        raise CheckpointError(f"{path}: holds no vocabulary; put {file.name}, which it was trained with, beside it")
    signs = _symbols(saved) if isinstance(saved, Record) else dictionary_file(file)
    weight, bias = (theirs.get(f"w2v_encoder.proj.{part}", torch.empty(0)) for part in ("weight", "bias"))
    if len(signs) != len(weight) or len(signs) != len(bias):
        raise CheckpointError(
            f"{path}: its head has {len(weight)} outputs, its vocabulary {len(signs)}; "
            f"expected as many: {file.name} belongs to another model"
        )
    letters, dropped = [BLANK_NAME, *signs[1:]], {}
    empty = slice(1, len(SPECIALS))
    if not weight[empty].any() and bool((bias[empty] == EMPTY_BIAS).all()):
        del letters[empty]
        for name, tensor in (("weight", weight), ("bias", bias)):
            theirs[f"w2v_encoder.proj.{name}"] = torch.cat([tensor[:1], tensor[len(SPECIALS) :]])
        dropped["w2v_encoder.proj, rows of <pad> </s> <unk>"] = "empty, and never predicted"
    return letters, dropped


def _their_letters(vocabulary: tuple[str, ...], name: str) -> list[str]:
    """Return the symbols of a dictionary for a vocabulary, without the four special ones."""
    has_specials = {*SPECIALS}.issuperset(vocabulary[1 : len(SPECIALS)])
    letters = vocabulary[len(SPECIALS) :] if has_specials else vocabulary[1:]
    unfit = [sign for sign in letters if sign in SPECIALS or sign != "".join(sign.split()) or not sign]
    if unfit or len({*letters}) != len(letters):
        raise CheckpointError(
            f"{name}: its vocabulary holds {unfit[0] if unfit else 'a letter twice'!r} where a dictionary of fairseq "
            "takes letters only"
        )
    return [*SPECIALS, *letters]


def _spread_head(tensors: dict[str, Tensor], missing: int) -> None:
    """Add head rows for the symbols that our vocabulary does not have."""
    for name, value in (("weight", 0.0), ("bias", EMPTY_BIAS)) if missing else ():
        tensor = tensors[f"w2v_encoder.proj.{name}"]
        empty = tensor.new_full((missing, *tensor.shape[1:]), value)
        tensors[f"w2v_encoder.proj.{name}"] = torch.cat([tensor[:1], empty, tensor[1:]])


def _streams(described: Description) -> list[str]:
    """Return the endings of the label files."""
    return ["km"] if len(described.clusters) == 1 else [f"km{index}" for index in range(len(described.clusters))]


def _task(described: Description, family: str | None, labels: list[str]) -> dict[str, Any]:
    """Return the settings of a task; the loader overrides `data` with the folder of the dictionaries."""
    task = {"data": ".", "sample_rate": SAMPLE_RATE, "normalize": bool(described.audio.normalize)}
    if family == "hubert":
        rate = described.encoder.frames_per_second if described.ctc is None else -1.0
        return task | {"_name": "hubert_pretraining", "labels": labels, "label_rate": rate}
    name = "audio_pretraining" if described.ctc is None else "audio_finetuning"
    return task | {"_name": name, "tpu": False, "labels": labels[0] if labels else None}


def _state(
    described: Description, tensors: dict[str, Tensor], inner: dict[str, Any], criterion: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of the file, as fairseq's loader expects it."""
    family = described.pretrained_by or "wav2vec2"
    model = {"_name": family, **their_encoder(described.encoder), **inner}
    labels = _streams(described) if described.objective is not None and family == "hubert" else []
    task = _task(described, family, labels)
    task_state: dict[str, Any] = {}
    if family == "hubert":
        model["label_rate"] = described.encoder.frames_per_second
    if described.ctc is not None:
        pretraining = dataclasses.replace(described, ctc=None, vocabulary=(), written_in="letters", piece_scores=())
        trunk_task = _task(pretraining, family, ["km"] if family == "hubert" else [])
        task = _task(described, family, [their_post_process(described)[0]]) | (
            {"fine_tuning": True} if family == "hubert" else {}
        )
        model = {
            "_name": {"wav2vec2": "wav2vec_ctc", "hubert": "hubert_ctc"}[family],
            "w2v_path": "",
            "data": ".",
            "normalize": bool(described.audio.normalize),
            **their_ctc(described.ctc, described.encoder),
            "w2v_args": {"model": model, "task": trunk_task, "criterion": None},
        }
        task_state = {"dictionaries": [None]} if family == "hubert" else {}  # state of the pretraining task
    return {
        "args": None,
        "cfg": {"_name": None, "common": {"tpu": False}, "model": model, "task": task, "criterion": criterion},
        "model": tensors,
        "task_state": task_state,
        "optimizer_history": [{"optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 0}],
        "extra_state": {"train_iterator": {"epoch": 1}, "metrics": []},
        "last_optimizer_state": None,
    }


def _dictionary_writer(signs: Sequence[str]) -> Any:
    text = "".join(f"{sign} 1\n" for sign in signs)
    return lambda path: path.write_text(text, encoding="utf-8")


def _dropped_settings(described: Description) -> dict[str, str]:
    """Return our settings for which fairseq has a fixed value."""
    objective: Any = described.objective  # wav2vec 2.0 or HuBERT: both mask
    mask = objective.mask if objective is not None else None
    masks = {"objective.mask": (mask, 2)} if mask is not None else {}
    if described.ctc is not None:
        masks = {"ctc.mask": (described.ctc.mask, 2), "ctc.channel_mask": (described.ctc.channel_mask, 0)}
    dropped = {
        f"{name}.min_spans": f"fairseq draws {fixed} at least"
        for name, (config, fixed) in masks.items()
        if config.min_spans != fixed
    }
    if isinstance(objective, ContrastiveConfig) and objective.loudness_neighbours is not None:
        dropped["objective.loudness_neighbours"] = "fairseq draws negatives from the whole utterance"
    if isinstance(objective, ContrastiveConfig) and objective.copy.is_on:
        dropped["objective.copy"] = "fairseq quantizes the audio as it is"
    return dropped
