"""LibriSpeech (Panayotov et al., ICASSP 2015) and Libri-Light's limited supervision (arXiv:1912.07875).

Both have `SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac` beside one `SPEAKER-CHAPTER.trans.txt` per chapter. The audio is
used in place. Splits are the published ones.
"""

from pathlib import Path

from speechssl.corpus.fetch.source import ClipCollector, Corpus, Findings
from speechssl.corpus.fetch.spoken_text import normalize_text
from speechssl.errors import CorpusError
from speechssl.text.fields import lines_of

__all__ = ["LIBRISPEECH", "LIBRI_LIGHT", "find_libri_light", "find_librispeech"]

_SUBSETS = (
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
)
_LIMITED = {  # split -> its parts; each split contains the previous one
    "train-10min": ("1h/0",),
    "train-1h": ("1h/*",),
    "train-10h": ("1h/*", "9h"),
}


def find_librispeech(source: Path) -> Findings:
    """List the subsets that are present, at least one of the seven.

    Args:
        source: the folder `LibriSpeech`, or its parent.

    Raises:
        CorpusError: no subset is present, or a chapter's transcript does not match its recordings.
    """
    root = _inside(source, "LibriSpeech")
    found = ClipCollector()
    splits: dict[str, list[str]] = {}
    for subset in _SUBSETS:
        splits[subset] = _add_chapters(found, source, sorted((root / subset).glob("*/*")))
    if not any(splits.values()):
        raise CorpusError(f"{root}: expected some of {', '.join(_SUBSETS)}, found none; name their folder")
    return found.findings(splits)


def find_libri_light(source: Path) -> Findings:
    """List the 10 minute, 1 hour and 10 hour sets.

    Args:
        source: the folder `librispeech_finetuning`, or its parent.

    Raises:
        CorpusError: a part is missing, or a chapter's transcript does not match its recordings.
    """
    root = _inside(source, "librispeech_finetuning")
    found = ClipCollector()
    parts: dict[Path, list[str]] = {}
    for part in [*sorted((root / "1h").glob("*")), root / "9h"]:
        parts[part] = _add_chapters(found, source, sorted(part.glob("*/*/*")))
    missing = [name for name in ("1h/0", "9h") if not parts.get(root / name)]
    if missing:
        raise CorpusError(
            f"{root}: expected 1h/0 to 1h/5 and 9h, each with clean/ and other/, found no audio in "
            f"{' and '.join(missing)}; unpack librispeech_finetuning.tgz again"
        )
    splits = {
        split: [key for part, keys in parts.items() for key in keys if _is_in(part.relative_to(root), patterns)]
        for split, patterns in _LIMITED.items()
    }
    return found.findings(splits)


def _inside(source: Path, name: str) -> Path:
    return source / name if (source / name).is_dir() else source


def _is_in(part: Path, patterns: tuple[str, ...]) -> bool:
    return any(part.match(pattern) for pattern in patterns)


def _add_chapters(found: ClipCollector, source: Path, chapters: list[Path]) -> list[str]:
    ids = []
    for chapter in chapters:
        recordings = sorted(chapter.glob("*.flac"))
        if not recordings:
            continue
        speaker = chapter.parent.name
        transcript = chapter / f"{speaker}-{chapter.name}.trans.txt"
        texts = _read_transcript(transcript)
        different = sorted(texts.keys() ^ {path.stem for path in recordings})
        if different:
            raise CorpusError(
                f"{transcript}: its {len(texts)} lines do not fit the {len(recordings)} .flac files beside it: "
                f"{', '.join(different[:3])} only on one side; unpack the archive again"
            )
        for path in recordings:
            spoken = normalize_text(texts[path.stem], "en")
            target = f"audio/{path.relative_to(source).as_posix()}"
            clip = found.add(path, target, spoken, speaker=speaker, language="en", name=path.stem)
            ids.append(clip.id)
    return ids


def _read_transcript(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise CorpusError(f"{path}: not found, expected the chapter's texts; unpack the archive again")
    rows = (line.partition(" ") for line in lines_of(path.read_text(encoding="utf-8")) if line.strip())
    return {name: text for name, _, text in rows}


LIBRISPEECH = Corpus(
    name="librispeech",
    summary="English, 2484 speakers, read books, up to 982 h",
    licence="CC-BY-4.0",
    find=find_librispeech,
    layout="LibriSpeech/<subset>/SPEAKER/CHAPTER/*.flac",
)

LIBRI_LIGHT = Corpus(
    name="libri-light",
    summary="English, LibriSpeech's 10 min, 1 h and 10 h sets of labelled speech",
    licence="CC-BY-4.0 (as LibriSpeech)",
    find=find_libri_light,
    layout="librispeech_finetuning/{1h/0..5,9h}/{clean,other}/SPEAKER/CHAPTER/*.flac",
)
