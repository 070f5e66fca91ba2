"""Checkpoints of which each rank writes its share, and that any number of ranks loads. Never a pickle.

    step_00001000/shard-00001-model-00001-of-00002.safetensors    of the first rank: its share of the parameters
                  shard-00001-model-00002-of-00002.safetensors    and of Adam's moments, by parameter name
                  shard-00002-model-...                           of the second rank

beside `state.json` and `checksums.json` of `checkpoint`. By torch.distributed.checkpoint, with its safetensors
storage: its own format describes the shares in a pickle. Here the header of each file does, so that everything is known
from the files themselves, and a whole checkpoint loads the same way: a file that is one single share.
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
    """Write this rank's share of model and optimiser into a folder that exists; all ranks have to.

    Raises:
        OSError: this or another rank could not write its file.
    """
    parameters, moments = dict(model.state_dict()), optimizer_tensors(model, optimizer)
    files = dict.fromkeys(parameters, 1) | dict.fromkeys(moments, 2)
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=files, save_distributed=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")  # torch's own use of it
            save(parameters | moments, storage_writer=writer)
    except CheckpointException as error:  # names every rank that failed
        raise OSError(f"shares of ranks {sorted(error.failures)}: {next(iter(error.failures.values()))[0]}") from error


def load_shares(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load model and optimiser in place, from a whole checkpoint or shares of any number of ranks.

    Each rank reads no more than its own share.

    Raises:
        CheckpointError: files are missing or broken, or of another model.
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
            if f"{name}/{key}" in stored:  # none of a parameter that never had a gradient
                empty = torch.zeros(()) if key == "step" else torch.zeros_like(parameter.detach())
                moments.setdefault(index, {})[key] = empty
    named = {f"{learned[index][0]}/{key}": tensor for index, entry in moments.items() for key, tensor in entry.items()}
    _load(checkpoint, parameters | named)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def has_shares(checkpoint: Path) -> bool:
    """Whether a checkpoint was written share by share."""
    return any(checkpoint.glob("shard-*.safetensors"))


def read_shares(checkpoint: Path) -> dict[str, Tensor]:
    """Read all parameters of a checkpoint made of shares, in a single process.

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
    """Return Adam's moments and numbers of steps, this rank's share of them, as `parameter name/key`."""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _stored(checkpoint: Path) -> Mapping[str, TensorStorageMetadata]:
    """Say which tensors a checkpoint holds, from the headers of its files."""
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
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each rank reads by itself
        load(tensors, storage_reader=HuggingFaceStorageReader(str(checkpoint)), no_dist=True)
