"""Reads and writes fairseq's label files: a line of units in `train.km` for each line of `train.tsv`.

`dict.km.txt` lists the units. The files name neither utterances nor rate nor k-means, so all of these are checked or
asked for. The format follows fairseq's sources (data/audio/hubert_dataset.py, examples/hubert/simple_kmeans).
"""

import dataclasses
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

import numpy as np

from speechssl import fingerprint
from speechssl.atomic import write_atomically
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.data.labels import IMPORTED, FrameLabels, LabelSource, parse_units
from speechssl.data.utterances import Manifest
from speechssl.errors import LabelError, ManifestError
from speechssl.text.fields import lines_of

__all__ = ["dictionary_path", "is_km", "read_km", "with_ids_of", "write_km"]

REFERENCE_RATES = (100, 50)  # labels per second from MFCC and from a layer of HuBERT
REFERENCE_PIECE = 1_600_000  # samples in a chunk of the reference (dump_hubert_feature.py: --max_chunk)


def is_km(path: Path) -> bool:
    """Return whether a label file is fairseq's; ours begins with a JSON object.

    Raises:
        LabelError: the file cannot be read.
    """
    with _opened(path) as file:
        return file.read(1) != b"{"


def dictionary_path(path: Path) -> Path:
    """Return the path of the list of units that belongs to `train.km`: `dict.km.txt` beside it."""
    return path.with_name(f"dict{path.suffix}.txt")


def read_km(
    path: Path,
    manifest: Manifest,
    *,
    rate: int | None = None,
    window: int = 400,
    clusters: int | None = None,
    kmeans: Path | None = None,
    piece: int | None = None,
) -> FrameLabels:
    """Read fairseq's labels.

    The reference encodes long audio in pieces, and no frame spans two pieces: a file of 110 s has one label less than
    if encoded as a whole, one of 210 s two. Here each frame of the whole gets the label of the nearest frame of a
    piece, so that labels after a boundary keep their time; `source.settings` counts the repeated labels.

    Args:
        path: the label file, a line of units in decimal for each utterance.
        manifest: the utterances, in the order of the lines.
        rate: labels per second (fairseq: model.label_rate); None to try those of the reference, 100 for MFCC and 50
            for a layer of HuBERT, and take the one that fits the lengths.
        window: samples in the window of one label's feature: 25 ms in the reference, for both.
        clusters: number of units; None for the number of lines of `dict.km.txt` beside the file.
        kmeans: file of the centroids that made the labels, in any format; only its hash is used. Labels with the same
            hash may be used together; without the file, the units of each label file are distinct.
        piece: samples encoded at a time (fairseq: --max_chunk); None to try the whole, then the reference's 100 s.

    Returns:
        The labels by the ids of the manifest. If audio was encoded in pieces, the settings hold `piece` in samples,
        the number of utterances `in_pieces` and the number of labels `repeated` at boundaries.

    Raises:
        LabelError: the number of lines differs from that of utterances, a line holds anything but units, a unit is
            outside `clusters`, the number of labels fits the audio neither as a whole nor in pieces, the number of
            units is unknown or contradictory, or the file is truncated.
    """
    clusters = _number_of_units(path, clusters)
    rows = _read_units(path, clusters)
    if len(rows) != len(manifest.utterances):
        raise LabelError(
            f"{path}: holds {len(rows)} lines, the manifest lists {len(manifest.utterances)} utterances; name the "
            "manifest whose lines it follows, in their order"
        )
    if rate is not None and (rate <= 0 or SAMPLE_RATE % rate):
        raise LabelError(f"rate={rate}: expected whole labels a second, {SAMPLE_RATE} samples a multiple of them")
    if piece is not None and piece < window:
        raise LabelError(f"piece={piece}: expected samples, at least the {window} that one label looks at")
    about = LabelSource(
        clusters=clusters,
        hop=SAMPLE_RATE // (rate or REFERENCE_RATES[0]),
        window=window,
        kmeans=f"{IMPORTED}-{_hash(kmeans or path)}",
        features=IMPORTED,
        settings={"file": path.name, "sha256": _hash(path)},
    )
    others = [] if rate else [dataclasses.replace(about, hop=SAMPLE_RATE // other) for other in REFERENCE_RATES[1:]]
    source, piece_size = _matching_source(
        [about, *others], (None, REFERENCE_PIECE) if piece is None else (piece,), rows, manifest, where=path
    )
    if piece_size is not None:
        long = [row.num_samples_16k > piece_size for row in manifest.utterances]
        whole = [
            found[_nearest_frames(source, row.num_samples_16k, piece_size)] if is_long else found
            for row, found, is_long in zip(manifest.utterances, rows, long, strict=True)
        ]
        if any(long):
            repeated = sum(map(len, whole)) - sum(map(len, rows))
            pieces = {"piece": piece_size, "in_pieces": sum(long), "repeated": repeated}
            source = dataclasses.replace(source, settings={**source.settings, **pieces})
        rows = whole
    return FrameLabels(
        source=source, units={row.id: found for row, found in zip(manifest.utterances, rows, strict=True)}
    )


def write_km(path: Path, labels: FrameLabels, manifest: Manifest) -> None:
    """Write labels in fairseq's format, in the order of the manifest, with the list of units beside them.

    Each unit has the count 1 in the list, as in the reference's recipe: training reads only the order, and train and
    dev labels share the list.

    Raises:
        LabelError: an utterance of the manifest has no labels, or the list exists with other units.
    """
    if not path.suffix:
        raise LabelError(f"{path}: name it after its manifest, split.km for split.tsv; fairseq looks for that")
    missing = [row.id for row in manifest.utterances if row.id not in labels.units]
    if missing:
        raise LabelError(
            f"{path}: {len(missing)} utterances of the manifest have no labels: {', '.join(missing[:3])}; fairseq's "
            f"manifests have no ids: name ours with --ids, or {labels.source.again}"
        )
    labels.check(manifest, where=str(path))
    dictionary = dictionary_path(path)
    if dictionary.exists() and _read_dictionary(dictionary) != labels.source.clusters:
        raise LabelError(
            f"{dictionary}: lists {_read_dictionary(dictionary)} units, the labels have {labels.source.clusters}; "
            "write them to another folder"
        )
    names = [str(unit) for unit in range(labels.source.clusters)]
    lines = [" ".join([names[unit] for unit in labels.units[row.id].tolist()]) for row in manifest.utterances]
    write_atomically(dictionary, "".join(f"{name} 1\n" for name in names))
    write_atomically(path, "\n".join(lines) + "\n")


def with_ids_of(manifest: Manifest, named: Manifest) -> Manifest:
    """Give the utterances of a fairseq manifest the ids of our manifest `named`, by relative or absolute path.

    Raises:
        ManifestError: a path is not in `named`, or has another length there.
    """
    whole = [row for row in named.utterances if row.file_samples is None]  # fairseq's manifests list no parts
    known = {named.absolute_path(row): row for row in whole}
    known |= {row.path: row for row in whole}
    found = [known.get(row.path) or known.get(manifest.absolute_path(row)) for row in manifest.utterances]
    missing = [row.path for row, same in zip(manifest.utterances, found, strict=True) if same is None]
    if missing:
        raise ManifestError(
            f"{len(missing)} paths are not in the manifest that gives the ids: {', '.join(missing[:3])}; name the "
            "manifest of the same audio"
        )
    utterances = []
    for row, same in zip(manifest.utterances, found, strict=True):
        assert same is not None
        if row.num_samples_16k != same.num_samples_16k:
            raise ManifestError(
                f"{row.path}: has {row.num_samples_16k} samples at {SAMPLE_RATE} Hz, and {same.num_samples_16k} in "
                "the manifest that gives the ids; they list different audio"
            )
        utterances.append(dataclasses.replace(row, id=same.id))
    return dataclasses.replace(manifest, utterances=tuple(utterances))


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise LabelError(f"{path}: cannot be read ({error.strerror}); name an existing file") from error


def _hash(path: Path) -> str:
    try:
        return fingerprint.of_file(path)[: fingerprint.DIGITS]
    except OSError as error:
        raise LabelError(f"{path}: cannot be read ({error.strerror}); name an existing file") from error


def _read_units(path: Path, clusters: int) -> list[np.ndarray]:
    rows = []
    kind = np.int16 if clusters < 2**15 else np.int32
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            units = parse_units(line)
            if units is None:
                raise LabelError(f"{path}:{number}: expected units in decimal with blanks between, found {line[:60]!r}")
            if not line.endswith(b"\n"):
                raise LabelError(f"{path}:{number}: ends within a line; the file was truncated: copy it again")
            if len(units) and units.max() >= clusters:
                raise LabelError(f"{path}:{number}: has units up to {units.max()}, expected 0 to {clusters - 1}")
            rows.append(units.astype(kind))
    return rows


def _matching_source(
    sources: Sequence[LabelSource],
    pieces: Sequence[int | None],
    rows: Sequence[np.ndarray],
    manifest: Manifest,
    *,
    where: Path,
) -> tuple[LabelSource, int | None]:
    """Return the first source and piece size that fit the numbers of labels."""
    messages: dict[tuple[int, int], str] = {}  # by number of lines that do not fit, and of labels they are off by
    for piece in pieces:
        for source in sources:
            wrong = [
                (line, row.id, len(units), made)
                for line, (row, units) in enumerate(zip(manifest.utterances, rows, strict=True), start=1)
                if len(units) != (made := _count(source, row.num_samples_16k, piece)) or not len(units)
            ]
            if not wrong:
                return source, piece
            line, key, found, expected = wrong[0]
            off = sum(abs(there - made) for _, _, there, made in wrong)
            chunked = "" if piece is None else f" in pieces of {piece} samples"
            said = (
                f"{where}: {len(wrong)} of {len(rows)} lines differ in number of labels from their audio{chunked} at "
                f"{SAMPLE_RATE / source.hop:g} a second, from windows of {source.window} samples: line {line} has "
                f"{found}, {key} makes {expected}"
            )
            messages.setdefault((len(wrong), off), said)
    raise LabelError(
        f"{messages[min(messages)]}; name the manifest whose lines it follows, or the rate and window of its features, "
        "or the pieces in which long audio was encoded (fairseq: --max_chunk)"
    )


def _count(source: LabelSource, num_samples: int, piece: int | None) -> int:
    """Return the number of labels of audio that is encoded in pieces; None: as a whole."""
    if piece is None:
        return source.count(num_samples)
    full, rest = divmod(num_samples, piece)
    return full * source.count(piece) + source.count(rest)


def _nearest_frames(source: LabelSource, num_samples: int, piece: int) -> np.ndarray:
    """Return for each frame of the whole the nearest frame of its pieces, the earlier one in a tie.

    Returns:
        (frames of the whole,) int64, indices of frames of the pieces.
    """
    starts = np.concatenate(
        [
            start + source.hop * np.arange(source.count(min(piece, num_samples - start)))
            for start in range(0, num_samples, piece)
        ]
    )
    wanted = source.hop * np.arange(source.count(num_samples))
    after = np.searchsorted(starts, wanted).clip(max=len(starts) - 1)
    before = (after - 1).clip(min=0)
    return np.where(abs(wanted - starts[before]) <= abs(starts[after] - wanted), before, after)


def _number_of_units(path: Path, clusters: int | None) -> int:
    dictionary = dictionary_path(path)
    if not dictionary.exists():
        if clusters is None:
            raise LabelError(
                f"{path}: nothing says how many units there are; put {dictionary.name} beside it, or name clusters"
            )
        return clusters
    listed = _read_dictionary(dictionary)
    if clusters not in (None, listed):
        raise LabelError(f"{dictionary}: lists {listed} units, clusters={clusters} was asked for; correct one of them")
    return listed


def _read_dictionary(path: Path) -> int:
    """Return the number of units in fairseq's list of `unit count` lines.

    Raises:
        LabelError: it is empty, or does not list each unit from 0 on once.
    """
    with _opened(path) as file:
        lines = lines_of(file.read().decode(errors="replace"))
    if not lines:
        raise LabelError(
            f"{path}: is empty, so that fairseq takes every label for <unk>; write a line `unit count` for each unit"
        )
    units = [line.split(" ")[0] for line in lines if line.count(" ") == 1]
    if sorted(units) != sorted(map(str, range(len(lines)))):
        raise LabelError(
            f"{path}: expected {len(lines)} lines `unit count`, each unit from 0 to {len(lines) - 1} once, as in the "
            f"reference; found {', '.join(lines[:3])}, ..."
        )
    return len(lines)
