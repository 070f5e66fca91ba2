"""Frame labels: the hidden unit of every feature frame of every utterance, and how they line up with the encoder.

The file is text. Its first line is JSON: the version, how many utterances follow, where the labels come from, and a
hash of it all. Then `id<TAB>count<TAB>units` for each utterance, units in decimal with blanks between. A file that was
cut, patched or joined by hand does not read.
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

if TYPE_CHECKING:  # torch takes seconds to import: converting labels goes without
    from torch import Tensor

__all__ = ["IMPORTED", "FrameLabels", "LabelSource", "join_labels", "parse_units", "read_labels", "write_labels"]

VERSION = 2  # of the file; the first had none
IMPORTED = "imported"  # `features` of labels that another toolkit made


@dataclass(frozen=True, kw_only=True)
class LabelSource:
    """What made the labels. Two are equal if their labels may be mixed: names of the features do not count."""

    clusters: int
    hop: int  # samples from one label to the next
    window: int  # samples one label's feature looks at
    kmeans: str  # hash of the centroids
    features: str = field(compare=False)  # "mfcc", or the checkpoint and layer
    settings: Mapping[str, str | int] = field(
        default_factory=dict, compare=False
    )  # of the front end, or hash and layer

    def count(self, num_samples: int) -> int:
        """Return the number of labels of a waveform of so many samples at 16 kHz."""
        return max(0, (num_samples - self.window) // self.hop + 1)

    @property
    def dtype(self) -> type[np.int16] | type[np.int32]:
        """The smallest type that holds the units."""
        return np.int16 if self.clusters < 2**15 else np.int32

    @property
    def again(self) -> str:
        """Say how such labels are made for other audio, for errors."""
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
    units: Mapping[str, np.ndarray]  # by utterance id, int16 or int32

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
        takes the label whose window starts with the frame, or last before it; where frames look at more samples than
        labels do, the nearest centre is a later one. It also drops a last frame that has fewer labels than the ratio
        of the rates; here the last label serves.

        Args:
            utterance_id: whose labels.
            start: first sample of the crop.
            num_frames: frames the encoder makes of it.
            hop: samples from one encoder frame to the next.
            window: samples one encoder frame looks at.

        Returns:
            (num_frames,) int64.
        """
        import torch

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
    """Join the label files of one stream, of training and held-out audio or of several corpora.

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
        LabelError: missing, of another version, cut short, changed by hand, with an utterance that occurs twice or
            with units outside the clusters it declares.
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
            f"{path}: holds {len(units)} utterances, its first line says {count}; the file was cut or joined: "
            f"copy it again, or {source.again}"
        )
    labels = FrameLabels(source=source, units=units)
    if labels.fingerprint() != stored:
        raise LabelError(f"{path}: was changed after it was written; copy it again, or {source.again}")
    return labels


def parse_units(text: bytes) -> np.ndarray | None:
    """Return the int64 numbers of a line, in decimal with blanks between, or None if anything else is on it."""
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
            f"{where}: the line announces {count} labels and ends after {len(found)}; the file was cut: "
            f"copy it again, or {source.again}"
        )
    if count and found.max() >= source.clusters:
        raise LabelError(
            f"{where}: {key.decode(errors='replace')} has units up to {found.max()}, "
            f"expected 0 to {source.clusters - 1}; {source.again}"
        )
    return key.decode(errors="replace"), found.astype(source.dtype)
