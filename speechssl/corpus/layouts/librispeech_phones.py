"""LibriSpeech with the phones of CPC (arXiv:1807.03748), which s3prl's linear probes of frames use.

`converted_aligned_phones.txt` has a line per utterance, its id and one phone (a number from 0 to 40) every 10 ms;
`train_split.txt` and `test_split.txt` have the ids of train-clean-100 in two sets that share speakers. Alignments of
the Montreal aligner need no reader of their own: `units/phone_alignments.py` reads a folder of TextGrids.
"""

from itertools import groupby
from pathlib import Path

from speechssl.corpus.entries import Entry, text_lines
from speechssl.corpus.fetch.librispeech import find_librispeech
from speechssl.corpus.layouts.listing import Account, Listing
from speechssl.errors import CorpusError

__all__ = ["find_librispeech_phones"]

_FRAME_S = 0.01
_PHONES = "converted_aligned_phones.txt"
_LISTS = {"train": "train_split.txt", "test": "test_split.txt"}


def find_librispeech_phones(source: Path) -> Listing:
    """List the utterances that have phones and are in one of the two sets.

    Args:
        source: folder with `LibriSpeech/` and the three lists, which may lie in a folder of their own.

    Raises:
        CorpusError: there is no LibriSpeech, or a list is missing, does not parse, or names none of its utterances.
    """
    if not source.is_dir():
        raise CorpusError(f"{source}: no such folder; name the one that holds LibriSpeech/ and {_PHONES}")
    findings = find_librispeech(source)
    lists = {name: _found(source, name) for name in (_PHONES, *_LISTS.values())}
    split_of: dict[str, str] = {}
    for split, name in _LISTS.items():
        for where, line in text_lines(lists[name]):
            key = line.strip()
            if key and split_of.setdefault(key, split) != split:
                raise CorpusError(f"{where}: {key} is in {_LISTS[split_of[key]]} too; keep it in one of them")
    phones = _alignments(lists[_PHONES])
    clips = {clip.id: clip for clip in findings.clips}
    account = Account()
    account.add("left out, in the lists, without audio", [key for key in split_of if key not in clips])
    account.add("left out, in the lists, without phones", [k for k in split_of if k in clips and k not in phones])
    account.add("left out, of LibriSpeech, not in the lists", [key for key in clips if key not in split_of])
    known = [key for key in split_of if key in clips and key in phones]
    if not known:
        raise CorpusError(f"{source}: none of the {len(split_of)} ids of its lists has audio and phones; correct them")
    entries = [
        Entry(
            where=str(clips[key].source),
            path=clips[key].source.relative_to(source).as_posix(),
            id=key,
            text=clips[key].text,
            speaker=clips[key].speaker,
            language="en",
            split=split_of[key],
        )
        for key in known
    ]
    shared = {entry.speaker for entry in entries if entry.split == "train"} & {
        entry.speaker for entry in entries if entry.split == "test"
    }
    account.add("speakers are in train and test, as published", sorted(str(name) for name in shared))
    return Listing(root=source, entries=entries, alignments={key: phones[key] for key in known}, notes=account.notes())


def _found(source: Path, name: str) -> Path:
    found = [path for path in (source / name, *sorted(source.glob(f"*/{name}"))) if path.is_file()]
    if len(found) != 1:
        places = " and ".join(str(path) for path in found) or "none"
        raise CorpusError(f"{source}: expected one {name} in it or in a folder of it, found {places}")
    return found[0]


def _alignments(path: Path) -> dict[str, str]:
    """Return `end:phone ...` of each utterance, equal neighbours joined."""
    phones: dict[str, str] = {}
    for where, line in text_lines(path):
        if not line.strip():
            continue
        key, *frames = line.split()
        if not frames or not all(frame.isdecimal() for frame in frames):
            raise CorpusError(f"{where}: expected `UTTERANCE NUMBER NUMBER ...`, a phone every 10 ms: {line[:60]!r}")
        if key in phones:
            raise CorpusError(f"{where}: {key} has phones in an earlier line too; keep one of them")
        end, cells = 0, []
        for phone, run in groupby(frames):
            end += sum(1 for _ in run)
            cells.append(f"{end * _FRAME_S:.2f}:{phone}")
        phones[key] = " ".join(cells)
    return phones
