"""VoxCeleb1 (Nagrani et al. 2017, arXiv:1706.08612): speakers of the identification list, trials of verification.

Audio lies in `wav/SPEAKER/VIDEO/NUMBER.wav`, or in `dev/wav` and `test/wav`; the lists beside it or in `meta/`. The
split is that of `iden_split.txt`, where all speakers are in all three. The 40 speakers of the trials are not seen in
training for verification: the column `verification` of the labels says `dev` or `test`.
"""

from collections.abc import Mapping
from pathlib import Path

from speechssl.corpus.entries import Entry, text_lines
from speechssl.corpus.layouts.listing import Account, Listing, Trial
from speechssl.errors import CorpusError

__all__ = ["find_voxceleb1"]

_LAYOUT = "wav/SPEAKER/VIDEO/NUMBER.wav (or dev/wav and test/wav) and iden_split.txt or veri_test.txt"
_SPLITS = {"1": "train", "2": "dev", "3": "test"}
_TRIALS = (  # as published, and as cleaned later
    *("veri_test.txt", "veri_test2.txt", "voxceleb1_test.txt", "voxceleb1_test_v2.txt"),
    *("list_test_hard.txt", "list_test_hard2.txt", "list_test_all.txt", "list_test_all2.txt"),
)
_TESTED = range(10270, 10310)  # speakers of the test set of verification, whose names begin with E
_VOXCELEB1 = range(10001, 11252)


def find_voxceleb1(source: Path) -> Listing:
    """List the audio of the lists that are present, at least one of `iden_split.txt` and those of trials.

    Args:
        source: folder of VoxCeleb1; the ids are `SPEAKER-VIDEO-NUMBER`.

    Raises:
        CorpusError: there is no list or no audio, the audio is that of VoxCeleb2, or a line does not parse.
    """
    audio = _audio(source)
    split_list = _list(source, "iden_split.txt")
    trial_lists = [path for path in (_list(source, name) for name in _TRIALS) if path is not None]
    if split_list is None and not trial_lists:
        raise CorpusError(
            f"{source}: expected iden_split.txt (identification) or veri_test.txt (trials) in it or in meta/, found "
            "neither; both are on VoxCeleb's page"
        )
    account = Account()
    splits: dict[str, str] = {}
    known = sorted(audio)
    if split_list is not None:
        splits = _splits(split_list)
        known = [name for name in splits if name in audio]
        account.add("left out, in iden_split.txt, without audio", [name for name in splits if name not in audio])
        account.add("left out, not in iden_split.txt", sorted(audio.keys() - splits.keys()))
    trials = {path.name: _trials(path, {*known}, account) for path in trial_lists}
    if not known or (trials and not splits and not any(trials.values())):
        hint = "" if any(_number(name) in _VOXCELEB1 for name in audio) else "; these are no speakers of VoxCeleb1"
        raise CorpusError(
            f"{source}: none of the {len(audio)} recordings, such as {next(iter(audio))}, is in its lists, which name "
            f"{next(iter(splits), 'others')}{hint}; name the folder of VoxCeleb1, and its own lists"
        )
    entries = [
        Entry(
            where=str(audio[name]),
            path=audio[name].relative_to(source).as_posix(),
            id=_id(name),
            speaker=name.partition("/")[0],
            split=splits.get(name),
        )
        for name in known
    ]
    answers = {_id(name): {"verification": "test" if _number(name) in _TESTED else "dev"} for name in known}
    return Listing(root=source, entries=entries, answers=answers, trials=trials, notes=account.notes())


def _audio(source: Path) -> Mapping[str, Path]:
    """Return the recordings by `SPEAKER/VIDEO/NUMBER.wav`."""
    if not source.is_dir():
        raise CorpusError(f"{source}: no such folder; name the one that holds {_LAYOUT}")
    found: dict[str, Path] = {}
    for folder in (source / "wav", *sorted(source.glob("*/wav"))):
        for path in sorted(folder.glob("*/*/*.wav")):
            name = "/".join(path.parts[-3:])
            if name in found:
                raise CorpusError(f"{path}: lies in {found[name].parents[2]} too; remove one of them")
            found[name] = path
    if found:
        return found
    if any(source.glob("aac")) or any(source.glob("*/aac")) or any(source.glob("*/*/*/*.m4a")):
        raise CorpusError(f"{source}: holds .m4a files in aac/, the layout of VoxCeleb2; expected {_LAYOUT}")
    raise CorpusError(f"{source}: expected {_LAYOUT}, found no .wav there; name the folder that has them")


def _list(source: Path, name: str) -> Path | None:
    return next((path for path in (source / name, source / "meta" / name) if path.is_file()), None)


def _splits(path: Path) -> dict[str, str]:
    """Return the split of each recording."""
    splits: dict[str, str] = {}
    for where, line in text_lines(path):
        match line.split():
            case []:
                continue
            case [number, name] if number in _SPLITS:
                if splits.setdefault(name, _SPLITS[number]) != _SPLITS[number]:
                    raise CorpusError(f"{where}: {name} is in {splits[name]} too; keep one of the lines")
            case _:
                raise CorpusError(f"{where}: expected `1|2|3 SPEAKER/VIDEO/NUMBER.wav`, found {line[:60]!r}")
    return splits


def _trials(path: Path, known: set[str], account: Account) -> list[Trial]:
    trials, missing = [], []
    for where, line in text_lines(path):
        match line.split():
            case []:
                continue
            case ["0" | "1" as same, one, other]:
                if one in known and other in known:
                    trials.append(Trial(same == "1", _id(one), _id(other)))
                else:
                    missing.append(one if one not in known else other)
            case _:
                raise CorpusError(f"{where}: expected `0|1 SPEAKER/VIDEO/NUMBER.wav ...wav`, found {line[:60]!r}")
    account.add(f"trials of {path.name} left out, without audio", missing)
    return trials


def _id(name: str) -> str:
    return name.removesuffix(".wav").replace("/", "-")


def _number(name: str) -> int:
    digits = name.partition("/")[0].removeprefix("id")
    return int(digits) if digits.isdecimal() else -1
