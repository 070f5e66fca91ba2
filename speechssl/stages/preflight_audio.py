"""Checks of audio before any is read: by the manifests, and by looking for the files.

Every stage checks its training set and its dev set before the first step, and reports all faults at once. Files at URLs
are not checked.
"""

import itertools
import math
import os
import stat
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.audio.storage import Place, is_url
from speechssl.data.utterances import Joined, Manifest, Utterance
from speechssl.errors import AudioError, AudioSettingError
from speechssl.stages.reading_data import DataConfig

__all__ = ["Reading", "look_at_audio", "refuse_audio", "tell_notes"]

_MOST_FILES = 10**6  # files looked for in a set: the first ones
_AT_ONCE = 512  # files per task of a thread
_THREADS = 16  # looking for a file on a server is mostly waiting

_Fault = Literal["missing", "folder", "empty", "short", "rate", "resample", "channels", "long"]
_Faults = dict[tuple[_Fault, int], list[str]]  # names by fault and number, such as the sample rate


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Utterances that a run will read, and how."""

    section: str  # section of the recipe: data or dev
    manifest: Manifest
    data: DataConfig
    window: int  # samples in the window of one frame; shorter audio is refused
    min_s: float = 0.0  # shorter utterances are left out
    max_crop_s: float | None = None  # longer utterances are cropped; None: all are read whole


@dataclass
class _Found:
    """The faults of a set."""

    utterances: _Faults = field(default_factory=lambda: defaultdict(list))
    files: _Faults = field(default_factory=lambda: defaultdict(list))
    num_files: int = 0


def refuse_audio(*readings: Reading) -> list[str]:
    """Raise the faults at which reading would stop; return a note for each that it would skip.

    Raises:
        AudioError: files are missing or empty, or audio is of a kind that the recipe refuses.
    """
    errors, notes = look_at_audio(readings)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise AudioError("\n".join(map(str, errors)))
    return notes


def tell_notes(notes: Iterable[str]) -> None:
    """Print notes on the data of a run to standard error."""
    for note in notes:
        print(f"preflight: {note}", file=sys.stderr)


def look_at_audio(readings: Iterable[Reading]) -> tuple[list[AudioError], list[str]]:
    """Return an error for each kind of fault, and notes on the faults that `bad_audio` says to skip."""
    errors: list[AudioError] = []
    notes: list[str] = []
    for reading in readings:
        found = _look(reading)
        said = [*_about_files(reading, found), *_about_utterances(reading, found)]
        if reading.data.bad_audio == "stop":
            errors += said
        else:
            notes += [f"{error}. {reading.section}.bad_audio=skip leaves them out" for error in said]
    return errors, notes


def _look(reading: Reading) -> _Found:
    found = _Found()
    for manifest in _parts(reading.manifest):
        paths: dict[str, None] = {}
        for row in manifest.utterances:
            if row.num_samples_16k >= reading.min_s * SAMPLE_RATE:
                for fault in _faults(row, reading):
                    found.utterances[fault].append(row.id)
                paths[row.path] = None
        root = str(manifest.root)
        files = dict.fromkeys(
            Place.parse(path, manifest.root).path if ":" in path else os.path.join(root, path)  # noqa: PTH118 - fast
            for path in paths
            if not is_url(path)
        )
        names = [*itertools.islice(files, max(0, _MOST_FILES - found.num_files))]
        found.num_files += len(names)
        for name, problem in _look_for(names):
            found.files[problem, 0].append(name)
    return found


def _parts(manifest: Manifest) -> Sequence[Manifest]:
    """Return the manifests that one was joined from: only these give millions of rows quickly."""
    return manifest.utterances.manifests if isinstance(manifest.utterances, Joined) else [manifest]


def _faults(row: Utterance, reading: Reading) -> Iterator[tuple[_Fault, int]]:
    """Yield the faults of an utterance by its manifest, in the order in which reading would meet them."""
    audio = reading.data.audio
    if row.sample_rate < audio.min_sample_rate:
        yield "rate", row.sample_rate
    if row.sample_rate != SAMPLE_RATE and not audio.resample:
        yield "resample", row.sample_rate
    if row.channels > 1 and row.channel is None and audio.channels == "refuse":
        yield "channels", row.channels
    is_whole = reading.max_crop_s is None or row.num_samples_16k <= reading.max_crop_s * SAMPLE_RATE
    if is_whole and row.duration_s > audio.max_duration_s:
        yield "long", 0
    if row.num_samples_16k < reading.window:
        yield "short", 0


def _look_for(names: Sequence[str]) -> Iterator[tuple[str, _Fault]]:
    """Yield the files that cannot be read, with the reason."""
    blocks = [names[begin : begin + _AT_ONCE] for begin in range(0, len(names), _AT_ONCE)]
    if len(blocks) < 2:
        yield from _look_for_some(names)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(_look_for_some, blocks):
            yield from found


def _look_for_some(names: Sequence[str]) -> list[tuple[str, _Fault]]:
    found: list[tuple[str, _Fault]] = []
    for name in names:
        try:
            status = os.stat(name)  # noqa: PTH116 - called for every file
        except OSError:
            found.append((name, "missing"))
            continue
        if stat.S_ISDIR(status.st_mode):
            found.append((name, "folder"))
        elif status.st_size == 0 and stat.S_ISREG(status.st_mode):
            found.append((name, "empty"))
    return found


def _about_files(reading: Reading, found: _Found) -> Iterator[AudioError]:
    root = f"correct {reading.section}.manifests or {reading.section}.root"
    cures = {
        "missing": f"are missing: {{}}; {root}",
        "folder": f"are folders: {{}}; {root}",
        "empty": "are empty (0 bytes): {}; copy them again, or remove them",
    }
    for (fault, _), names in found.files.items():
        named = cures[fault].format(_first(names))
        yield AudioError(f"{reading.section}: {len(names)} of {found.num_files} audio files {named}")


def _about_utterances(reading: Reading, found: _Found) -> Iterator[AudioError]:
    audio, settings = reading.data.audio, f"{reading.section}.audio."
    grouped: dict[_Fault, dict[int, list[str]]] = defaultdict(dict)
    for (fault, figure), names in found.utterances.items():
        grouped[fault][figure] = names
    for fault, by_figure in grouped.items():
        names = [*itertools.chain(*by_figure.values())]
        what = f"{reading.section}: {len(names)} of {len(reading.manifest.utterances)} utterances "
        figures = " and ".join(map(str, sorted(by_figure)))
        match fault:
            case "rate":
                said = f"{what}are {figures} Hz, expected at least {audio.min_sample_rate}: {_first(names)}"
                lowest, purpose = str(min(by_figure)), " to accept narrowband speech"
                yield AudioSettingError(said, "remove them", "min_sample_rate", lowest, purpose, settings)
            case "resample":
                said = f"{what}are {figures} Hz, expected {SAMPLE_RATE}: {_first(names)}"
                yield AudioSettingError(said, "resample them", "resample", "true", "", settings)
            case "channels":
                said = f"{what}have {figures} channels, expected 1: {_first(names)}"
                cure = "name one in the manifest's column `channel`"
                yield AudioSettingError(said, cure, "channels", "mean", " or first", settings)
            case "long":
                said = f"{what}last longer than {audio.max_duration_s:g} s: {_first(names)}"
                longest = str(math.ceil(max(row.duration_s for row in reading.manifest.utterances)))
                cure = "cut them into utterances, as `speechssl manifest segment` does"
                yield AudioSettingError(said, cure, "max_duration_s", longest, "", settings)
            case _:
                yield AudioError(
                    f"{what}are shorter than the {reading.window} samples at {SAMPLE_RATE} Hz of one frame: "
                    f"{_first(names)}; remove them"
                )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
