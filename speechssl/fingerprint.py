"""Fingerprints: hashes that identify contents in checkpoints, labels, caches and records.

There are two kinds: BLAKE2b of a sequence of parts, for lists of millions of rows and for random draws; SHA-256 of a
whole content, as printed by `sha256sum`. Stored fingerprints have to match in later versions, so neither the hashed
bytes nor the lengths may change: `tests/test_fingerprint.py` pins one of each.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # manifests are hashed without torch
    from torch import Tensor

__all__ = ["DIGITS", "LONG", "SHORT", "begin", "bytes_of", "of_bytes", "of_file", "of_parts", "of_tensors", "of_values"]

DIGITS = 16  # hex digits of a fingerprint that people compare, of either kind
SHORT = DIGITS // 2  # bytes of BLAKE2b
LONG = 16  # bytes of BLAKE2b for contents from many sources


def begin(size: int = SHORT, *, key: bytes = b"") -> "hashlib.blake2b":
    """Return a new BLAKE2b digest of `size` bytes, to be updated part by part."""
    return hashlib.blake2b(digest_size=size, key=key)


def of_parts(parts: Iterable[bytes], size: int = SHORT) -> str:
    """Return the 2 x `size` hex digits of BLAKE2b of the concatenated parts."""
    digest = begin(size)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def of_bytes(content: bytes) -> str:
    """Return the 64 hex digits of SHA-256."""
    return hashlib.sha256(content).hexdigest()


def of_file(path: Path) -> str:
    """Return the 64 hex digits of SHA-256 of a file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_values(values: Mapping[str, Any]) -> str:
    """Return `DIGITS` of SHA-256 of plain values as JSON, independent of the order of keys."""
    return of_bytes(json.dumps(values, sort_keys=True).encode())[:DIGITS]


def of_tensors(tensors: "Mapping[str, Tensor]") -> str:
    """Return `DIGITS` of SHA-256 of names, shapes, types and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()[:DIGITS]


def bytes_of(tensor: "Tensor") -> bytes:
    """Return the values of a tensor as bytes of its own type, row by row."""
    return tensor.detach().cpu().contiguous().numpy().tobytes()
