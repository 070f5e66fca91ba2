"""Speech Commands 1 and 2 (Warden 2018, arXiv:1804.03209): one word a second of audio.

Words are folders; `validation_list.txt` and `testing_list.txt` name dev and test, all else is train. Beside the words,
the column `keyword`, the labels have the twelve classes of the paper and of SUPERB, the column `twelve`: ten words,
`_unknown_` for the others, and `_silence_` for whole seconds of `_background_noise_`. Of each recording of noise, the
first 80 % are train, the next 10 % dev, the last 10 % test, so that no second of noise is in two splits.

SUPERB tests on the archive `speech_commands_test_set_v0.01`, in which the classes are balanced. Where that folder lies
beside or in the given one, its clips have the split `test-twelve`.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from speechssl.audio.reading import read_header
from speechssl.corpus.entries import Entry, text_lines
from speechssl.corpus.layouts.listing import Account, Listing, child_with
from speechssl.errors import CorpusError

__all__ = ["NOISE", "TEN_WORDS", "find_speech_commands"]

NOISE = "_background_noise_"
TEN_WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")

_LISTS = {"validation_list.txt": "dev", "testing_list.txt": "test"}
_LAYOUT = "WORD/*_nohash_*.wav, validation_list.txt and testing_list.txt"
_CLIP = re.compile(r"(?P<speaker>.+?)_nohash_\d+(\.wav)?")  # the test sets have names such as `..._nohash_0.wav.wav`
_TEST_SET = re.compile(r"speech_commands_test_set_v0\.0[12]")
_TRAIN, _DEV = 0.8, 0.9  # shares of a recording of noise at which train and dev end


def find_speech_commands(source: Path) -> Listing:
    """List the words, the seconds of silence and, where there is one, the separate test set.

    Args:
        source: folder with the words, or one above it, such as torchaudio's; ids are `WORD-NAME`.

    Raises:
        CorpusError: a list is missing or names none of the recordings, or there are no words.
    """
    words = child_with(source, tuple(_LISTS), layout=_LAYOUT)
    account = Account()
    listed = {name: split for file, split in _LISTS.items() for name in _names(words / file)}
    entries: list[Entry] = []
    answers: dict[str, dict[str, str]] = {}
    found = set()
    for folder in sorted(path for path in words.iterdir() if path.is_dir() and path.name != NOISE):
        if folder.name.startswith((".", "speech_commands_test_set")):
            continue
        clips = sorted(folder.glob("*.wav"))
        account.add("left out, a word without recordings", [] if clips else [folder.name])
        for path in clips:
            name = f"{folder.name}/{path.name}"
            match = _CLIP.fullmatch(path.stem)
            if match is None:
                account.add("left out, not named SPEAKER_nohash_NUMBER.wav", [name])
                continue
            found.add(name)
            key = f"{folder.name}-{path.stem}"
            entries.append(_entry(path, key, match["speaker"], listed.get(name, "train")))
            answers[key] = _labels(folder.name)
    missing = sorted(listed.keys() - found)
    if not found or len(missing) == len(listed) > 0:
        raise CorpusError(
            f"{words}: its lists name {len(listed)} recordings, {', '.join(missing[:2])}, and its folders hold "
            f"{len(found)} others; unpack the archive again"
        )
    account.add("left out, in the lists, without audio", missing)
    absent = [word for word in TEN_WORDS if not any(label["twelve"] == word for label in answers.values())]
    account.add("of the ten words have no recordings", absent)
    for entry in _silence(words / NOISE, account):
        entries.append(entry)
        answers[str(entry.id)] = {"keyword": "", "twelve": "_silence_"}
    root = words
    test_set = _test_set(source, words)
    if test_set is not None:
        root = words.parent if test_set.parent == words.parent else source
        for entry, label in _test_clips(test_set, account):
            entries.append(entry)
            answers[str(entry.id)] = label
    placed = [replace(entry, path=Path(entry.path).relative_to(root).as_posix()) for entry in entries]
    return Listing(root=root, entries=placed, answers=answers, notes=account.notes())


def _names(path: Path) -> Iterator[str]:
    for where, line in text_lines(path):
        name = line.strip()
        if name and not re.fullmatch(r"[^/]+/[^/]+\.wav", name):
            raise CorpusError(f"{where}: expected `WORD/NAME.wav`, found {name[:60]!r}")
        if name:
            yield name


def _labels(word: str) -> dict[str, str]:
    return {"keyword": word, "twelve": word if word in TEN_WORDS else "_unknown_"}


def _entry(path: Path, key: str, speaker: str | None, split: str) -> Entry:
    return Entry(where=str(path), path=str(path), id=key, speaker=speaker, language="en", split=split)


def _silence(folder: Path, account: Account) -> Iterator[Entry]:
    """Yield each whole second of the recordings of noise."""
    recordings = sorted(folder.glob("*.wav"))
    account.add("missing: without it there is no class _silence_", [] if recordings else [NOISE])
    for path in recordings:
        header = read_header(path)
        seconds = header.num_samples // header.sample_rate
        account.add(
            "recordings of noise lose less than a second at their end",
            [path.name] if header.num_samples % header.sample_rate else [],
        )
        for second in range(seconds):
            share = second / seconds
            split = "train" if share < _TRAIN else "dev" if share < _DEV else "test"
            yield Entry(
                where=str(path),
                path=str(path),
                id=f"{NOISE}-{path.stem}-{second:03}",
                start_s=float(second),
                duration_s=1.0,
                language="en",
                split=split,
            )


def _test_set(source: Path, words: Path) -> Path | None:
    """Return the folder of the separate test set, of the same version if the folder of the words names one."""
    near = [*words.parent.iterdir(), *source.iterdir(), *words.iterdir()]
    found = {path.resolve(): path for path in near if path.is_dir() and _TEST_SET.fullmatch(path.name)}
    version = re.search(r"v0\.0[12]$", words.name)
    fitting = [path for path in found.values() if version is None or path.name.endswith(version[0])]
    return fitting[0] if len(fitting) == 1 else None


def _test_clips(folder: Path, account: Account) -> Iterator[tuple[Entry, dict[str, str]]]:
    """Yield the clips of the separate test set, whose folders are the twelve classes."""
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        clips = sorted(place.glob("*.wav"))
        if place.name not in (*TEN_WORDS, "_unknown_", "_silence_"):
            account.add(f"left out, no class of {folder.name}", [f"{place.name}/{path.name}" for path in clips])
            continue
        for path in clips:
            match = _CLIP.fullmatch(path.stem)
            entry = _entry(path, f"test-{place.name}-{path.stem}", match["speaker"] if match else None, "test-twelve")
            yield entry, {"keyword": place.name if place.name in TEN_WORDS else "", "twelve": place.name}
