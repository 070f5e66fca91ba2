"""The encoder that learned with a head, on disk beside it: a model folder of its own, or adapters without their model.

folder/encoder/            encoder=all: a model like any other, for `extract`, `finetune` and the rest, too
folder/lora.safetensors    encoder=lora: the adapters alone; the model is named in the head's description
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from speechssl import fingerprint
from speechssl.atomic import atomic
from speechssl.errors import CheckpointError
from speechssl.hub.saved import Description, SavedModel
from speechssl.model.encoder import ADAPTERS, EncoderConfig, SpeechEncoder
from speechssl.model.lora import LoraConfig, merged_tensors
from speechssl.train.checkpoint import load_tensors

__all__ = ["read_adapted", "read_whole", "with_random_weights", "write_adapters", "write_whole"]

ENCODER = "encoder"
LORA = "lora.safetensors"
PREFIX = "encoder."


def write_whole(folder: Path, tensors: Mapping[str, Tensor], config: EncoderConfig, start: SavedModel) -> str:
    """Write an encoder as a model folder, and return the fingerprint of its parameters.

    Args:
        folder: folder of the head.
        tensors: parameters of a `HeadModel`, by name; those of its encoder are written.
        config: configuration of the encoder.
        start: the model that it started from.
    """
    description = Description(
        encoder=config,
        audio=start.description.audio,
        family=start.description.pretrained_by,
        origin=start.description.origin,
    )
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    saved = SavedModel(description=description, tensors=own, name=str(folder / ENCODER))
    shutil.rmtree(folder / ENCODER, ignore_errors=True)  # left by a run that was killed
    saved.write(folder / ENCODER)
    return saved.fingerprint()


def write_adapters(folder: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write the adapters among the parameters of a `HeadModel`, and return their fingerprint."""
    adapters = {name: tensor for name, tensor in tensors.items() if _is_adapter(name)}
    with atomic(folder / LORA) as temporary:
        save_file(adapters, temporary)
    return fingerprint.of_tensors(adapters)


def read_whole(folder: Path, *, known: str | None) -> SavedModel:
    """Read what `write_whole` wrote; `known` is the fingerprint that it returned.

    Raises:
        CheckpointError: a file is missing or broken, or is of another encoder.
    """
    saved = SavedModel.read(folder / ENCODER)
    _check(saved.fingerprint(), known, where=folder / ENCODER)
    return saved


def read_adapted(folder: Path, start: SavedModel, config: LoraConfig, *, known: str | None) -> SavedModel:
    """Read what `write_adapters` wrote, and merge it into the encoder of the model that the adapters are for.

    Args:
        folder: folder of the head.
        start: the model, its tensors are not changed.
        config: configuration of the adapters.
        known: fingerprint that `write_adapters` returned.

    Raises:
        CheckpointError: the file is missing or broken, or holds other adapters.
    """
    adapters = load_tensors(folder / LORA)
    _check(fingerprint.of_tensors(adapters), known, where=folder / LORA)
    trunk = start.without_head()
    return SavedModel(
        description=trunk.description, tensors=merged_tensors(trunk.tensors | adapters, config), name=str(folder)
    )


def with_random_weights(start: SavedModel, seed: int) -> SavedModel:
    """Return a model's architecture with random weights, as `feature_source.trunk` draws them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = SpeechEncoder(start.description.encoder)
    tensors = {f"{PREFIX}{name}": tensor for name, tensor in encoder.state_dict().items()}
    description = Description(encoder=start.description.encoder, audio=start.description.audio)
    return SavedModel(description=description, tensors=tensors, name=f"random weights of {start.name}")


def _is_adapter(name: str) -> bool:
    return name.startswith(PREFIX) and name.rpartition(".")[2] in ADAPTERS


def _check(found: str, known: str | None, *, where: Path) -> None:
    if found != known:
        raise CheckpointError(
            f"{where}: has the fingerprint {found}, the head was trained with {known}; copy the folder of the head "
            "again, as a whole"
        )
