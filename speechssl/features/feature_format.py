"""The protocol of a feature format: write the utterances of a part, finish a folder, read an utterance.

A part is some minutes of utterances that one process writes. It is invalid until it is closed; if the process is killed
before that, the part is written again, bit for bit the same.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from speechssl.atomic import Draft
from speechssl.data.utterances import Manifest
from speechssl.features.description import Entry, FeaturesDescription, Stream

__all__ = ["Array", "Format", "OpenFiles", "Part", "Place", "Reader"]

Array = np.ndarray[tuple[int, int], np.dtype[np.floating]]  # (rows, dim), float32 or float16
Place = tuple[str, str]  # path below the folder of a stream, and place in the file


class Part(Protocol):
    """Writes the utterances of one part."""

    def add(self, key: str, arrays: Sequence[Array]) -> Place:
        """Write an utterance, an array for each stream; return its place."""
        ...

    def close(self) -> None:
        """Complete the files and give them their final names."""
        ...

    def drop(self) -> None:
        """Remove unpublished files; the part will be written again."""
        ...


class Reader(Protocol):
    """Reads the utterances of one stream."""

    def read(self, entry: Entry) -> Array:
        """Return the features of an utterance, (rows, dim).

        Raises:
            LabelError: a file is missing, or disagrees with the index.
        """
        ...


class Format(Protocol):
    """A file format."""

    def require(self) -> None:
        """Check that the package for this format is installed.

        Raises:
            PackageError: it is not installed.
        """
        ...

    def part(self, folder: Path, number: int, description: FeaturesDescription) -> Part:
        """Start a part."""
        ...

    def finish(
        self, folder: Path, description: FeaturesDescription, entries: Sequence[Entry], manifest: Manifest
    ) -> None:
        """Write files that a reader needs beside the parts, once all parts are complete."""
        ...

    def reader(self, folder: Path, stream: Stream, description: FeaturesDescription) -> AbstractContextManager[Reader]:
        """Open one stream."""
        ...


class OpenFiles:
    """The files of a part, one per stream, under temporary names until they are complete."""

    def __init__(self, paths: Sequence[Path], open_file: Callable[[Path], Any]) -> None:
        """Open a file for each stream by passing its temporary path to `open_file`."""
        self._paths = paths
        self._drafts = [Draft(path) for path in paths]
        self._files = [open_file(draft.temporary) for draft in self._drafts]

    def close(self) -> None:
        """Complete the files and give them their final names."""
        for draft, file in zip(self._drafts, self._files, strict=True):
            file.close()
            draft.publish()

    def drop(self) -> None:
        """Remove the files."""
        for draft, file in zip(self._drafts, self._files, strict=True):
            file.close()
            draft.drop()
