"""Frame labels: the hidden unit of every feature frame of every utterance, and how they line up with the encoder.

The file is text: a JSON line that says where the labels come from, then `id<TAB>units` with units in decimal.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechssl.data.manifest import Manifest, write_atomically
from speechssl.errors import LabelError

__all__ = ["FrameLabels", "LabelSource", "read_labels", "write_labels"]


@dataclass(frozen=True, kw_only=True)
class LabelSource:
    """What made the labels, enough to tell labels that do not belong together apart."""

    clusters: int
    hop: int  # samples from one label to the next
    window: int  # samples one label's feature looks at
    features: str  # "mfcc", or the checkpoint and layer
    kmeans: str  # hash of the centroids
    settings: Mapping[str, str | int] = field(default_factory=dict)  # of the front end, or hash and layer

    def count(self, num_samples: int) -> int:
        """Return the number of labels of a waveform of so many samples at 16 kHz."""
        return max(0, (num_samples - self.window) // self.hop + 1)


@dataclass(frozen=True, kw_only=True)
class FrameLabels:
    """Labels of many utterances."""

    source: LabelSource
    units: Mapping[str, np.ndarray]  # by utterance id, int16 or int32

    def at_frames(self, utterance_id: str, *, start: int, num_frames: int, hop: int, window: int) -> Tensor:
        """Return the label nearest to the centre of each frame of a crop.

        For BASE's 20 ms frames and 10 ms MFCC labels this is every second label, as in the reference.

        Args:
            utterance_id: whose labels.
            start: first sample of the crop.
            num_frames: frames the encoder makes of it.
            hop: samples from one encoder frame to the next.
            window: samples one encoder frame looks at.

        Returns:
            (num_frames,) int64.
        """
        units = self.units[utterance_id]
        centres = start + np.arange(num_frames) * hop + (window - self.source.window) / 2
        nearest = np.floor(centres / self.source.hop + 0.5).astype(np.int64).clip(0, len(units) - 1)
        return torch.from_numpy(units[nearest].astype(np.int64))

    def check(self, manifest: Manifest, *, where: str) -> None:
        """Compare with a manifest before the first step.

        Raises:
            LabelError: an utterance has no labels, or not as many as its audio makes.
        """
        missing = [row.id for row in manifest.utterances if row.id not in self.units]
        if missing:
            raise LabelError(
                f"{where}: {len(missing)} utterances of the manifest have no labels: {', '.join(missing[:3])}; "
                "make the labels again with `speechssl cluster` on this manifest"
            )
        for row in manifest.utterances:
            expected, found = self.source.count(row.num_samples_16k), len(self.units[row.id])
            if expected != found or found == 0:
                raise LabelError(
                    f"{where}: {row.id} has {found} labels, its audio of {row.num_samples_16k} samples makes "
                    f"{expected}; the labels belong to other audio: make them again with `speechssl cluster`"
                )


def write_labels(path: Path, labels: FrameLabels) -> None:
    """Write a label file, atomically."""
    header = json.dumps(dataclasses.asdict(labels.source))
    rows = (f"{key}\t{' '.join(map(str, units.tolist()))}" for key, units in labels.units.items())
    write_atomically(path, "\n".join([header, *rows]) + "\n")


def read_labels(path: Path) -> FrameLabels:
    """Read a label file.

    Raises:
        LabelError: missing, without its header, or with units outside the clusters it declares.
    """
    try:
        header, *rows = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # ids may hold U+2028
        source = LabelSource(**json.loads(header))
    except OSError as error:
        raise LabelError(f"{path}: cannot read labels ({error.strerror}); run `speechssl cluster`") from error
    except (ValueError, TypeError) as error:
        raise LabelError(f"{path}:1: expected a JSON header of a label file; run `speechssl cluster`") from error
    kind = np.int16 if source.clusters < 2**15 else np.int32
    units: dict[str, np.ndarray] = {}
    for number, row in enumerate(rows, start=2):
        key, _, text = row.partition("\t")
        try:
            found = np.array(text.split(), dtype=np.int64)
        except ValueError as error:
            raise LabelError(f"{path}:{number}: expected `id<TAB>units`, found {row[:60]!r}") from error
        if len(found) and (found.min() < 0 or found.max() >= source.clusters):
            raise LabelError(
                f"{path}:{number}: {key} has units {found.min()} to {found.max()}, expected 0 to {source.clusters - 1}"
            )
        units[key] = found.astype(kind)
    return FrameLabels(source=source, units=units)
