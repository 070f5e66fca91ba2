"""Frame labels: the hidden unit of every feature frame, their file format and their alignment with encoder frames.

The file is text. Its first line is JSON: version, number of utterances, source of the labels, and a hash of everything.
A line `id<TAB>count<TAB>units` follows for each utterance, with units in decimal, separated by blanks. A file that was
truncated, edited or concatenated is refused.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechssl import fingerprint
from speechssl.atomic import atomic
from speechssl.data.utterances import Manifest
from speechssl.errors import LabelError

if TYPE_CHECKING:  # torch takes seconds to import, and converting labels does not need it
    from torch import Tensor

__all__ = ["IMPORTED", "FrameLabels", "LabelSource", "join_labels", "parse_units", "read_labels", "write_labels"]

VERSION = 2  # version of the file format; version 1 stated none
IMPORTED = "imported"  # value of `features` for labels from another toolkit


@dataclass(frozen=True, kw_only=True)
class LabelSource:
    """What made the labels. Two sources are equal if their labels may be mixed; `features` does not matter."""

    clusters: int
    hop: int  # samples from one label to the next
    window: int  # samples in the window of one label's feature
    kmeans: str  # hash of the k-means centroids
    features: str = field(compare=False)  # "mfcc", or the checkpoint and layer
    settings: Mapping[str, str | int] = field(
        default_factory=dict, compare=False
    )  # settings of the front end, or checkpoint hash and layer

    def count(self, num_samples: int) -> int:
        """Return the number of labels of a waveform of `num_samples` at 16 kHz."""
        return max(0, (num_samples - self.window) // self.hop + 1)

    @property
    def dtype(self) -> type[np.int16] | type[np.int32]:
        """The smallest type that holds the units."""
        return np.int16 if self.clusters < 2**15 else np.int32

    @property
    def again(self) -> str:
        """Advice for error messages: how to make such labels for other audio."""
        if self.features == IMPORTED:
            return "import them again with `speechssl labels`, for this manifest"
        kind = f"layer layer={self.settings['layer']}" if "layer" in self.settings else self.features
        return (
            f"make them again: `speechssl cluster` with features={kind.replace(', cmn', ' cmn=true')}, kmeans= the "
            f"kmeans.safetensors of {self.kmeans} (or clusters={self.clusters} for new units), this manifest in "
            "data.manifests, and another out"
        )

    def __str__(self) -> str:
        return f"k-means {self.kmeans} of {self.features} ({self.clusters} units, one every {self.hop} samples)"


@dataclass(frozen=True, kw_only=True)
class FrameLabels:
    """Labels of many utterances."""

    source: LabelSource
    units: Mapping[str, np.ndarray]  # (labels,) int16 or int32, by utterance id

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with the source, the utterances, their order or any label."""
        digest = fingerprint.begin()
        digest.update(json.dumps(dataclasses.asdict(self.source), sort_keys=True).encode())
        for key, units in self.units.items():
            digest.update(f"\n{key}\t{len(units)}\t".encode())
            digest.update(units.astype(self.source.dtype, copy=False).tobytes())
        return digest.hexdigest()

    def at_frames(self, utterance_id: str, *, start: int, num_frames: int, hop: int, window: int) -> "Tensor":
        """Return the label nearest to the centre of each frame of a crop.

        For BASE's 20 ms frames and 10 ms MFCC labels this is every second label, as in the reference. The reference
        takes the last label whose window starts at or before the frame; where the window of frames is longer than that
        of labels, the nearest centre is a later one. The reference also drops a last frame with fewer labels than the
        ratio of the rates; here it gets the last label.

        Args:
            utterance_id: id of the utterance.
            start: first sample of the crop.
            num_frames: number of encoder frames in the crop.
            hop: samples from one encoder frame to the next.
            window: receptive field of an encoder frame, in samples.

        Returns:
            (num_frames,) int64.
        """
        import torch

        units = self.units[utterance_id]
        centres = start + np.arange(num_frames) * hop + (window - self.source.window) / 2
        nearest = np.floor(centres / self.source.hop + 0.5).astype(np.int64).clip(0, len(units) - 1)
        return torch.from_numpy(units[nearest].astype(np.int64))

    def check(self, manifest: Manifest, *, where: str) -> None:
        """Check the labels against a manifest.

        Raises:
            LabelError: an utterance has no labels, or their number does not fit its audio.
        """
        missing = [row.id for row in manifest.utterances if row.id not in self.units]
        if missing:
            raise LabelError(
                f"{where}: {len(missing)} utterances of the manifest have no labels: {', '.join(missing[:3])}; "
                f"{self.source.again}"
            )
        for row in manifest.utterances:
            expected, found = self.source.count(row.num_samples_16k), len(self.units[row.id])
            if expected != found or found == 0:
                raise LabelError(
                    f"{where}: {row.id} has {found} labels, its audio of {row.num_samples_16k} samples makes "
                    f"{expected}; the labels belong to other audio: {self.source.again}"
                )


def join_labels(parts: Iterable[tuple[Path, FrameLabels]]) -> FrameLabels:
    """Join the label files of one stream, of training and dev audio or of several corpora.

    Raises:
        LabelError: two files come from different k-means, or label the same utterance.
    """
    (first_path, first), *others = parts
    units = dict(first.units)
    for path, labels in others:
        if labels.source != first.source:
            raise LabelError(
                f"{path} comes from {labels.source}, {first_path} from {first.source}: their units mean different "
                f"things; label the audio of the former with kmeans= the kmeans.safetensors of {first.source.kmeans}, "
                "or all of it anew in one `speechssl cluster`"
            )
        twice = [key for key in labels.units if key in units]
        if twice:
            raise LabelError(
                f"{path}: {len(twice)} utterances are also in an earlier file of the stream: {', '.join(twice[:3])}; "
                "name each label file once"
            )
        units |= labels.units
    return FrameLabels(source=first.source, units=units)


def write_labels(path: Path, labels: FrameLabels) -> None:
    """Write a label file, atomically."""
    about = {"version": VERSION, "utterances": len(labels.units), **dataclasses.asdict(labels.source)}
    names = [str(unit) for unit in range(labels.source.clusters)]
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(about | {"fingerprint": labels.fingerprint()}, ensure_ascii=False) + "\n")
        for key, units in labels.units.items():
            file.write(f"{key}\t{len(units)}\t{' '.join([names[unit] for unit in units.tolist()])}\n")


def read_labels(path: Path) -> FrameLabels:
    """Read a label file.

    Raises:
        LabelError: the file is missing, of another version, truncated or edited, has an utterance twice, or has units
            outside the clusters it declares.
    """
    try:
        with path.open("rb") as file:
            about = _read_header(path, file.readline())
            stored, count = about.pop("fingerprint"), about.pop("utterances")
            source = LabelSource(**about)
            units: dict[str, np.ndarray] = {}
            for number, line in enumerate(file, start=2):
                key, found = _parse_row(line, source, where=f"{path}:{number}")
                if key in units:
                    raise LabelError(f"{path}:{number}: {key} occurs twice; {source.again}")
                units[key] = found
    except OSError as error:
        raise LabelError(f"{path}: cannot read labels ({error.strerror}); run `speechssl cluster`") from error
    if len(units) != count:
        raise LabelError(
            f"{path}: holds {len(units)} utterances, its first line says {count}; the file was truncated or joined: "
            f"copy it again, or {source.again}"
        )
    labels = FrameLabels(source=source, units=units)
    if labels.fingerprint() != stored:
        raise LabelError(f"{path}: was edited after it was written; copy it again, or {source.again}")
    return labels


def parse_units(text: bytes) -> np.ndarray | None:
    """Parse decimal numbers separated by blanks, as int64; None if the line holds anything else."""
    if text.translate(None, b"0123456789 \r\n"):
        return None
    return np.fromstring(text, dtype=np.int64, sep=" ") if text.strip() else np.zeros(0, dtype=np.int64)


def _read_header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        about = json.loads(line)
        version = about.pop("version", 1)
    except (ValueError, TypeError, AttributeError) as error:
        raise LabelError(f"{path}:1: expected a JSON header of a label file; run `speechssl cluster`") from error
    if version != VERSION:
        raise LabelError(
            f"{path}:1: is a label file of version {version}, this speechssl reads version {VERSION}; "
            "make the labels again with `speechssl cluster` and another out"
        )
    numbers, texts = ("utterances", "clusters", "hop", "window"), ("features", "kmeans", "fingerprint")
    is_complete = {*about} == {*numbers, *texts, "settings"} and isinstance(about["settings"], dict)
    if not is_complete or not all(type(about[name]) is int and about[name] > 0 for name in numbers):
        raise LabelError(
            f"{path}:1: expected {', '.join(numbers)} as whole numbers above 0, and {', '.join(texts)}, settings; "
            "run `speechssl cluster`"
        )
    return about


def _parse_row(line: bytes, source: LabelSource, *, where: str) -> tuple[str, np.ndarray]:
    key, *fields = line.split(b"\t")
    found = parse_units(fields[1]) if len(fields) == 2 and fields[0].isdigit() else None
    if found is None:
        raise LabelError(f"{where}: expected `id<TAB>count<TAB>units`, found {line[:60]!r}; {source.again}")
    count = int(fields[0])
    if len(found) != count or not line.endswith(b"\n"):
        raise LabelError(
            f"{where}: the line announces {count} labels and ends after {len(found)}; the file was truncated: "
            f"copy it again, or {source.again}"
        )
    if count and found.max() >= source.clusters:
        raise LabelError(
            f"{where}: {key.decode(errors='replace')} has units up to {found.max()}, "
            f"expected 0 to {source.clusters - 1}; {source.again}"
        )
    return key.decode(errors="replace"), found.astype(source.dtype)
