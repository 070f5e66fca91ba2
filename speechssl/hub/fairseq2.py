"""Models of fairseq2 0.8: families wav2vec2 (with the objective) and wav2vec2_asr (CTC); it has no HuBERT.

    folder/card.yaml           an asset card: name, family, configuration, path of the checkpoint
    folder/model.safetensors   the checkpoint, by their names
    folder/vocabulary.txt      one token per line, for a CTC model

With FAIRSEQ2_USER_ASSET_DIR=folder its model hub loads the model by the card's name. The card names the checkpoint
relative to itself, so the folder may be moved, but its path must hold no spaces and no letters beyond ASCII, which
fairseq2 0.8.1 cannot find. Reading and writing need no fairseq2; `run_fairseq2` does.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from speechssl.atomic import atomic
from speechssl.config import from_dict, load
from speechssl.errors import CheckpointError, ConfigError
from speechssl.hub.fairseq2_card import TUNED, VOCABULARY, AssetCard, card_of, card_values
from speechssl.hub.names import (
    Conversion,
    check_projection,
    identity_projection,
    lost_settings,
    name_table,
    rename_from,
    rename_to,
)
from speechssl.hub.pickled import load_pickled, tensors_only
from speechssl.hub.saved import Description, SavedModel
from speechssl.train.checkpoint import load_tensors

__all__ = ["is_fairseq2", "read_fairseq2", "run_fairseq2", "write_fairseq2"]

CARD, CHECKPOINT = "card.yaml", "model.safetensors"
UPDATES = "quantizer.num_updates"  # their count of training steps, used for the temperature


def is_fairseq2(path: Path) -> bool:
    """Return whether a path leads to an asset card of a wav2vec 2.0 model."""
    try:
        card = _card_path(path)
        return re.search(r"model_family\W+wav2vec2", card.read_text(encoding="utf-8")[:10_000]) is not None
    except (CheckpointError, OSError, UnicodeDecodeError):
        return False


def read_fairseq2(path: Path) -> Conversion:
    """Read a model.

    Args:
        path: a folder with one card, a card, or a checkpoint (.safetensors, .pt) beside its card NAME.yaml.

    Raises:
        CheckpointError: a file is missing, broken, contradicts the others, or describes an unsupported model.
    """
    card_path = _card_path(path)
    try:
        card = load(card_path, AssetCard)
        theirs = _tensors(card, card_path)
        vocabulary = _vocabulary(card, card_path)
        description = from_dict(card_values(card, card_path, vocabulary), Description, where=str(card_path))
    except ConfigError as error:
        raise CheckpointError(f"{error}; the card is broken, or of another version of fairseq2") from error
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{card_path}: its configuration cannot be understood ({error!r})") from error
    table = name_table(description, "fairseq2")
    identity = identity_projection(description)
    added = dict.fromkeys(identity, "the file has no projection, which is not needed; set to the identity")
    (mask_name,) = table.names["encoder.mask_vector"]
    if mask_name not in theirs:
        theirs[mask_name] = torch.zeros(table.shapes["encoder.mask_vector"])
        added["encoder.mask_vector"] = "the model was tuned without masking; starts from zero"
    if card.normalize_audio is None:
        added["audio.normalize"] = "not in the card; assumed to be on, as in published models with layer norm"
    tensors, left = rename_from(theirs, table, where=str(card_path))
    unknown = [name for name in left if name != UPDATES]
    if unknown:
        raise CheckpointError(
            f"{card_path}: {len(unknown)} parameters have no place in this architecture: {', '.join(unknown[:3])}"
        )
    dropped = dict.fromkeys(left, "counts the steps of their training; ours begins anew")
    if card.tokenizer_ref is not None and vocabulary:
        dropped[f"tokenizer_ref={card.tokenizer_ref}"] = (
            f"texts are written with the tokens of {card.vocabulary}; how that tokenizer normalises texts "
            "(case, compatibility forms) is not known here: texts are left as they are"
        )
    return Conversion(
        model=SavedModel(description=description, tensors=tensors | identity, name=str(path)),
        dropped=dropped,
        added=added,
    )


def write_fairseq2(model: SavedModel, target: Path) -> dict[str, str]:
    """Write a folder that fairseq2's model hub loads from.

    Args:
        model: wav2vec 2.0 with its objective, or a fine-tuned model.
        target: folder to create; the model is named after it.

    Returns:
        Reasons by our name, for what was dropped.

    Raises:
        CheckpointError: the target exists, or fairseq2 has no family for the model.
    """
    described = model.description
    if target.exists():
        raise CheckpointError(f"{target}: exists already; name another folder, or remove it")
    if described.method not in ("wav2vec2", "ctc"):
        kind = {"encoder": "a bare encoder", "hubert": "a HuBERT with its label head"}[described.method]
        raise CheckpointError(
            f"{model.name}: is {kind}, for which fairseq2 has no model; it takes wav2vec 2.0 with its objective, and "
            "fine-tuned models of both methods"
        )
    check_projection(model, "fairseq2")
    if any("\n" in token for token in described.vocabulary):
        raise CheckpointError(f"{model.name}: its vocabulary holds the end of a line, expected tokens of one line each")
    card = card_of(described, name=target.name, checkpoint=CHECKPOINT)
    values = card_values(from_dict(card, AssetCard, where=str(target)), target, described.vocabulary)
    again = from_dict(values, Description, where=str(target))
    tensors = rename_to(model.tensors, name_table(described, "fairseq2"))
    dropped = lost_settings(described, again, "fairseq2")
    if described.method == "wav2vec2":
        tensors[UPDATES] = torch.zeros((), dtype=torch.int64)
    elif not card["model_config"]["use_masking"]:
        del tensors["masker.temporal_mask_embed"]
        dropped["encoder.mask_vector"] = "a model that masks nothing has none in fairseq2"
    _write_folder(target, tensors, card, described.vocabulary)
    return dropped


@torch.no_grad()
def run_fairseq2(path: Path, waveform: Tensor) -> Tensor:
    """Load a model through fairseq2's own model hub, from its card, and run it on one utterance.

    Args:
        path: as for `read_fairseq2`.
        waveform: (time,) at 16 kHz, normalised if the model wants it.

    Returns:
        (frames, vocab) logits of a CTC model, else (frames, dim) of the last layer.
    """
    try:
        from fairseq2.assets import AssetCard as TheirCard
        from fairseq2.assets import StandardAssetStore
        from fairseq2.assets.metadata_provider import FileAssetMetadataLoader
        from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub
        from fairseq2.models.wav2vec2.asr import get_wav2vec2_asr_model_hub
        from fairseq2.nn import BatchLayout
        from fairseq2.runtime.dependency import get_dependency_resolver
    except ImportError as error:
        raise CheckpointError(
            "fairseq2 is not installed; pip install 'speechssl[fairseq2]' (Python 3.11 or 3.12)"
        ) from error
    card_path = _card_path(path).resolve()
    provider = get_dependency_resolver().resolve(FileAssetMetadataLoader).load(card_path)  # type: ignore[type-abstract]
    card = StandardAssetStore([provider]).retrieve_card(load(card_path, AssetCard).name)
    checkpoint = card_path.parent / card.field("checkpoint").as_(str).removeprefix("file://")
    card = TheirCard(card.name, {**card.metadata, "checkpoint": f"file://{checkpoint}"})  # theirs finds no spaces
    batch, device = waveform[None], torch.device("cpu")
    layout = BatchLayout.of(batch)
    if card.field("model_family").as_(str) == TUNED:
        return get_wav2vec2_asr_model_hub().load_model(card, device=device).eval()(batch, layout)[0][0]
    model = get_wav2vec2_model_hub().load_model(card, device=device).eval()
    return model.encoder(*model.encoder_frontend(batch, layout))[0]


def _card_path(path: Path) -> Path:
    if path.is_dir():
        cards = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
        if len(cards) != 1:
            raise CheckpointError(f"{path}: holds {len(cards)} asset cards (.yaml), expected one; name the card itself")
        return cards[0]
    card = path if path.suffix in (".yaml", ".yml") else path.with_suffix(".yaml")
    if not card.is_file():
        raise CheckpointError(f"{card}: no such asset card; put the one of {path.name} there")
    return card


def _tensors(card: AssetCard, card_path: Path) -> dict[str, Tensor]:
    path = card_path.parent / card.checkpoint.removeprefix("file://")
    if not path.is_file():
        raise CheckpointError(f"{card_path}: its checkpoint {card.checkpoint} is not here; name a file in the card")
    if path.suffix == ".safetensors":
        return load_tensors(path)
    content = load_pickled(path)
    return tensors_only(content.get("model", content), where=str(path))


def _vocabulary(card: AssetCard, path: Path) -> tuple[str, ...]:
    if card.model_family != TUNED:
        return ()
    if card.vocabulary is None:
        raise CheckpointError(
            f"{path}: names no vocabulary; write the tokens, one a line, the blank first, to {VOCABULARY} beside it, "
            f"and add vocabulary: {VOCABULARY}"
        )
    try:
        text = (path.parent / card.vocabulary).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path.parent / card.vocabulary}: cannot be read ({error})") from error
    return tuple(text.removesuffix("\n").split("\n"))


def _write_folder(target: Path, tensors: dict[str, Tensor], card: dict[str, Any], vocabulary: tuple[str, ...]) -> None:
    with atomic(target) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / CHECKPOINT)
        lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in card.items()]  # JSON is YAML too
        (temporary / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")
        if vocabulary:
            (temporary / VOCABULARY).write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
