"""Sharded checkpoints: each rank writes its shard, and any number of ranks can load them. No pickles.

    step_00001000/shard-00001-model-00001-of-00002.safetensors    first rank: its shard of the parameters
                  shard-00001-model-00002-of-00002.safetensors    and of Adam's moments, by parameter name
                  shard-00002-model-...                           second rank

These files lie beside `state.json` and `checksums.json` of `checkpoint`. They are written by
torch.distributed.checkpoint with its safetensors storage, whose file headers describe the shards; torch's own format
describes them in a pickle. An unsharded checkpoint loads the same way, as a single shard.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from speechssl.errors import CheckpointError

__all__ = ["has_shares", "load_shares", "optimizer_tensors", "read_shares", "save_shares"]


def save_shares(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write this rank's shard of model and optimiser into an existing folder; all ranks have to call it.

    Raises:
        OSError: this or another rank could not write its file.
    """
    parameters, moments = dict(model.state_dict()), optimizer_tensors(model, optimizer)
    files = dict.fromkeys(parameters, 1) | dict.fromkeys(moments, 2)
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=files, save_distributed=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")  # used by torch itself
            save(parameters | moments, storage_writer=writer)
    except CheckpointException as error:  # its `failures` name every rank that failed
        raise OSError(f"shares of ranks {sorted(error.failures)}: {next(iter(error.failures.values()))[0]}") from error


def load_shares(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load model and optimiser in place, from an unsharded checkpoint or the shards of any number of ranks.

    Each rank reads only its own shard.

    Raises:
        CheckpointError: files are missing or broken, or belong to another model.
    """
    stored = _stored(checkpoint)
    parameters = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    found = {name: entry.size for name, entry in stored.items() if "/" not in name}
    wrong = sorted({*found} ^ {*parameters}) + [k for k in found if k in parameters and found[k] != parameters[k].shape]
    if wrong:
        raise CheckpointError(
            f"{checkpoint}: {len(wrong)} parameters do not fit this model: {', '.join(wrong[:3])}; "
            "the checkpoint belongs to another configuration"
        )
    learned = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    moments: dict[int, dict[str, Tensor]] = {}
    for index, (name, parameter) in enumerate(learned):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if f"{name}/{key}" in stored:  # a parameter that never had a gradient has no moments
                empty = torch.zeros(()) if key == "step" else torch.zeros_like(parameter.detach())
                moments.setdefault(index, {})[key] = empty
    named = {f"{learned[index][0]}/{key}": tensor for index, entry in moments.items() for key, tensor in entry.items()}
    _load(checkpoint, parameters | named)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def has_shares(checkpoint: Path) -> bool:
    """Return whether a checkpoint is sharded."""
    return any(checkpoint.glob("shard-*.safetensors"))


def read_shares(checkpoint: Path) -> dict[str, Tensor]:
    """Read all parameters of a sharded checkpoint in a single process.

    Raises:
        CheckpointError: files are missing or broken.
    """
    stored = _stored(checkpoint)
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in stored.items() if "/" not in name
    }
    _load(checkpoint, tensors)
    return tensors


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return this rank's shard of Adam's moments and step counts, by `parameter name/key`."""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _stored(checkpoint: Path) -> Mapping[str, TensorStorageMetadata]:
    """Return the metadata of a checkpoint's tensors, from the headers of its files."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error}); copy it again, or remove this checkpoint and use the one before"
            ) from error
    described = HuggingFaceStorageReader(str(checkpoint)).read_metadata().state_dict_metadata
    stored = {name: entry for name, entry in described.items() if isinstance(entry, TensorStorageMetadata)}
    torn = [k for k, entry in stored.items() if sum(share.sizes.numel() for share in entry.chunks) < entry.size.numel()]
    if torn or not stored:
        raise CheckpointError(
            f"{checkpoint}: shares are missing ({', '.join(torn[:3]) or 'no safetensors file is there'}); copy the "
            "folder again with the files of all ranks, or remove this checkpoint and use the one before"
        )
    return stored


def _load(checkpoint: Path, tensors: dict[str, Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each rank reads independently
        load(tensors, storage_reader=HuggingFaceStorageReader(str(checkpoint)), no_dist=True)
