"""Labels of utterances that are done, in files of some thousand, until a label file holds them all.

They let an interrupted run go on, and bring the labels of several processes together.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechssl.data.labels import FrameLabels, LabelSource, read_labels, write_labels

__all__ = ["LabelParts"]

_LABELS_A_PART = 10**6  # three hours of MFCC


class LabelParts:
    """A folder of label files, each written once and whole."""

    def __init__(self, folder: Path, source: LabelSource, *, rank: int) -> None:
        """Prepare to write the parts of one process.

        Args:
            folder: for the parts of all processes.
            source: what makes the labels; parts of another source are not read.
            rank: of this process, for names that no other gives.
        """
        self.folder, self.source, self.rank = folder, source, rank
        self._kind = np.int16 if source.clusters < 2**15 else np.int32
        self._unfinished: list[Tensor] = []  # pieces of one utterance
        self._units: dict[str, np.ndarray] = {}
        self._count = 0

    def add(self, utterance_id: str, units: Tensor, *, is_last: bool) -> None:
        """Take (frames,) units of a piece of an utterance, and write a part when there are enough."""
        self._unfinished.append(units.cpu())
        if is_last:
            self._units[utterance_id] = torch.cat(self._unfinished).numpy().astype(self._kind)
            self._count += len(self._units[utterance_id])
            self._unfinished = []
        if self._count >= _LABELS_A_PART:
            self.flush()

    def flush(self) -> None:
        """Write what has been added since the last part."""
        if self._units:
            written = len(list(self.folder.glob(f"{self.rank:03d}-*.tsv")))
            path = self.folder / f"{self.rank:03d}-{written:05d}.tsv"
            write_labels(path, FrameLabels(source=self.source, units=self._units))
        self._units, self._count = {}, 0

    def read(self) -> dict[str, np.ndarray]:
        """Return the units of the parts of all processes, by utterance id.

        Raises:
            LabelError: a part is broken.
        """
        units: dict[str, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.tsv")):
            part = read_labels(path)
            if part.source == self.source:
                units |= part.units
        return units

    def remove(self) -> None:
        """Remove the parts of all processes."""
        shutil.rmtree(self.folder, ignore_errors=True)
