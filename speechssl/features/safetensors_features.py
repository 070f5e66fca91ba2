"""Safetensors: `STREAM/00012.safetensors` holds a (rows, dim) tensor for each utterance of a part."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from speechssl.atomic import atomic
from speechssl.data.utterances import Manifest
from speechssl.errors import LabelError
from speechssl.features.description import Entry, FeaturesDescription, Stream, name_of_id
from speechssl.features.feature_format import Array, Place

__all__ = ["Safetensors"]


class Safetensors:
    """The format `safetensors`; a part is kept in memory until it is complete."""

    def require(self) -> None:
        """Do nothing: safetensors is always installed."""

    def part(self, folder: Path, number: int, description: FeaturesDescription) -> "_Part":
        """Start a part."""
        return _Part([folder / stream.name / f"{number:05d}.safetensors" for stream in description.streams])

    def finish(
        self, folder: Path, description: FeaturesDescription, entries: Sequence[Entry], manifest: Manifest
    ) -> None:
        """Do nothing: the parts are complete."""

    @contextmanager
    def reader(self, folder: Path, stream: Stream, description: FeaturesDescription) -> Iterator["_Reader"]:
        """Open one stream."""
        yield _Reader(folder / stream.name)


class _Part:
    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._held: list[dict[str, Array]] = [{} for _ in paths]

    def add(self, key: str, arrays: Sequence[Array]) -> Place:
        name = name_of_id(key)
        for held, array in zip(self._held, arrays, strict=True):
            held[name] = array
        return self._paths[0].name, name

    def close(self) -> None:
        for path, held in zip(self._paths, self._held, strict=True):
            with atomic(path) as temporary:
                save_file(held, temporary)

    def drop(self) -> None:
        self._held = []


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: tuple[str, Any] | None = None

    def read(self, entry: Entry) -> Array:
        path = self._folder / entry.file
        try:
            if self._open is None or self._open[0] != entry.file:
                self._open = entry.file, safe_open(path, "numpy")
            return self._open[1].get_tensor(entry.place)
        except (OSError, SafetensorError) as error:
            raise LabelError(f"{path}: {entry.place} cannot be read ({error}); extract the features again") from error
