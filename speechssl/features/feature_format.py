"""What a format of feature files has to do: write the utterances of a part, close a folder, read an utterance back.

A part is some minutes of utterances that one process writes. Nothing of it counts before it is closed, and it is
written again, with the same bits, where a process was killed before.
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
Place = tuple[str, str]  # file below the folder of a stream, and place in it


class Part(Protocol):
    """Utterances of one part, while they are written."""

    def add(self, key: str, arrays: Sequence[Array]) -> Place:
        """Write an utterance: an array for each stream. Returns where it lies."""
        ...

    def close(self) -> None:
        """Make files whole, and give them their names."""
        ...

    def drop(self) -> None:
        """Remove what was written, as far as it has no name yet: the part will be written again."""
        ...


class Reader(Protocol):
    """Utterances of one stream."""

    def read(self, entry: Entry) -> Array:
        """Return the (rows, dim) of an utterance.

        Raises:
            LabelError: a file is missing, or does not hold what the index says.
        """
        ...


class Format(Protocol):
    """Files of one kind."""

    def require(self) -> None:
        """Look whether the package is installed that reads and writes them.

        Raises:
            PackageError: it is not.
        """
        ...

    def part(self, folder: Path, number: int, description: FeaturesDescription) -> Part:
        """Begin a part."""
        ...

    def finish(
        self, folder: Path, description: FeaturesDescription, entries: Sequence[Entry], manifest: Manifest
    ) -> None:
        """Write what a reader wants beside the parts, once all are there."""
        ...

    def reader(self, folder: Path, stream: Stream, description: FeaturesDescription) -> AbstractContextManager[Reader]:
        """Open one stream."""
        ...


class OpenFiles:
    """A part's files of several streams, open under temporary names until they are whole."""

    def __init__(self, paths: Sequence[Path], open_file: Callable[[Path], Any]) -> None:
        """Open a file for each stream; `open_file` is given its temporary path."""
        self._paths = paths
        self._drafts = [Draft(path) for path in paths]
        self._files = [open_file(draft.temporary) for draft in self._drafts]

    def close(self) -> None:
        """Make files whole, and give them their names."""
        for draft, file in zip(self._drafts, self._files, strict=True):
            file.close()
            draft.publish()

    def drop(self) -> None:
        """Remove what was written."""
        for draft, file in zip(self._drafts, self._files, strict=True):
            file.close()
            draft.drop()
