"""Files of other toolkits: read pickled tensors without running code, write groups of files all or none."""

import json
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from speechssl.atomic import Draft
from speechssl.errors import CheckpointError

__all__ = ["Record", "load_pickled", "pickled_bytes", "plain", "read_json", "tensors_only", "write_files"]

_LARGEST_PICKLE = 2**24  # bytes of a file's pickle that are searched to detect its toolkit


class Record:
    """Stand-in for any class of another toolkit: holds an object's attributes, and runs none of its code."""

    def __new__(cls, *_: object) -> Self:
        """Create an empty record, whatever the arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Store the attributes, if the state holds any."""
        if isinstance(state, dict):
            vars(self).update(state)

    def __setitem__(self, key: object, value: object) -> None:
        """Ignore an entry: no mapping of another toolkit holds anything that we read."""


def _mapping(*_: object) -> OrderedDict[Any, Any]:
    """Stand in for a class that is filled like a dictionary: torch 2.14, unlike 2.9, fills only the standard ones."""
    return OrderedDict()


def load_pickled(path: Path, stand_ins: Sequence[str] = (), mappings: Sequence[str] = ()) -> dict[str, Any]:
    """Read a torch file, new or old layout, as tensors and plain containers only; no code of the file runs.

    Args:
        path: path of the file.
        stand_ins: full names of classes that become a `Record`; a file that names any other class is refused.
        mappings: full names of classes that become an `OrderedDict`.

    Raises:
        CheckpointError: the file is missing, broken, not a dictionary, or names a class that is not allowed.
    """
    try:
        allowed: list[Any] = [*((Record, name) for name in stand_ins), *((_mapping, name) for name in mappings)]
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file makes torch raise nearly anything
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path}: names {refused[1]}, which such files are not known to hold; nothing of it was executed. "
                "If you trust its source, load it there and save its tensors and settings as plain dictionaries"
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: cannot be read ({reason}); it is truncated, or no checkpoint") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dictionary, found {type(content).__name__}; it is no checkpoint")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: the file is missing, broken, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); copy the model folder again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def tensors_only(values: object, *, where: str) -> dict[str, Tensor]:
    """Return `values` if it is a dictionary of tensors by name.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(values, Mapping) or not values:
        raise CheckpointError(f"{where}: expected tensors by their name, found {type(values).__name__}")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{where}: {name} is a {type(value).__name__}, expected a tensor; no such checkpoint")
    return dict(values)


def pickled_bytes(path: Path) -> bytes:
    """Return the raw pickle of a torch file, to search it for names; empty if it is not such a file."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
                return b"" if name is None else archive.open(name).read(_LARGEST_PICKLE)
        with path.open("rb") as file:
            return file.read(_LARGEST_PICKLE)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError):  # the last two: compressed or encrypted
        return b""


def plain(value: Any) -> Any:
    """Turn records into dictionaries of their attributes, and those of omegaconf into their contents."""
    if isinstance(value, Record):
        attributes = vars(value)
        inner = next((attributes[key] for key in ("_content", "_val") if key in attributes), attributes)
        return plain(inner)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def write_files(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write a group of files, all or none; they are renamed to their names in the order given.

    Args:
        files: function that writes each file to a temporary path in the same folder.

    Raises:
        CheckpointError: one of the files exists already; nothing is written then.
    """
    for path in files:
        if path.exists():
            raise CheckpointError(f"{path}: exists already; name another target, or remove it")
    drafts = [Draft(path) for path in files]
    try:
        for draft in drafts:
            files[draft.path](draft.temporary)
        for draft in drafts:
            draft.publish()
    except BaseException:
        for draft in drafts:
            if not draft.temporary.exists():  # already renamed, or never written
                draft.path.unlink(missing_ok=True)
        raise
    finally:
        for draft in drafts:
            draft.drop()
