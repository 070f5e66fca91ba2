"""Imports and exports fairseq's files of a split: `train.tsv`, `train.wrd` with texts, `train.ltr` with letters.

The table has a root line, then path, tab, samples; line i of the other files belongs to its row i. `train.km` holds
labels, which `speechssl labels` converts. A path may be `x.tar:OFFSET:SIZE` or `x.zip:...`, a member of an uncompressed
archive: fairseq 0.12.2 maps such files and reads wav, flac and ogg; fairseq2's FileMapper reads whatever its decoder
does.
"""

import re
from pathlib import Path

from speechssl.atomic import write_atomically
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.audio.storage import Place
from speechssl.corpus.entries import Entry, lost_columns, text_lines
from speechssl.data.manifest import read_fairseq_manifest, write_fairseq_manifest
from speechssl.data.utterances import Manifest
from speechssl.errors import ManifestError

__all__ = ["read_fairseq", "write_fairseq"]


def read_fairseq(path: Path) -> tuple[list[Entry], Path, list[str]]:
    """Read a table, and its texts if they lie beside it.

    Returns:
        The entries, the root in the table, and notes.

    Raises:
        ManifestError: the table does not parse, texts and table have different numbers of lines, or letters and words
            differ.
    """
    try:
        table = read_fairseq_manifest(path)
    except ValueError as error:  # more digits than Python converts
        raise ManifestError(f"{path}: a length is not a number of samples ({error}); correct it") from error
    words, letters = _side(path.with_suffix(".wrd")), _side(path.with_suffix(".ltr"))
    spelt = None if letters is None else [text_of(line) for line in letters]
    for suffix, texts in ((".wrd", words), (".ltr", spelt)):
        if texts is not None and len(texts) != len(table.utterances):
            raise ManifestError(
                f"{path.with_suffix(suffix)}: holds {len(texts)} lines, {path.name} {len(table.utterances)} files; "
                "they belong to different splits"
            )
    if words is not None and spelt is not None:
        pairs = enumerate(zip(words, spelt, strict=True), start=1)
        wrong = [number for number, (one, other) in pairs if one.split() != other.split()]
        if wrong:
            raise ManifestError(
                f"{path.with_suffix('.ltr')}:{wrong[0]}: spells {spelt[wrong[0] - 1]!r}, the words beside it are "
                f"{words[wrong[0] - 1]!r}; remove the file that is wrong"
            )
    texts = words if words is not None else spelt
    for number, row in enumerate(table.utterances, start=2):
        if re.search(r":\d+:\d+$", row.path) and Place.parse(row.path, table.root).size is None:
            raise ManifestError(
                f"{path}:{number}: {row.path!r} is a part of a file that is not a tar or zip archive; cut it out"
            )
    entries = [
        Entry(
            where=f"{path}:{number}",
            path=row.path,
            num_samples=row.num_samples,
            sample_rate=SAMPLE_RATE,
            text=None if texts is None else texts[number - 2],
        )
        for number, row in enumerate(table.utterances, start=2)
    ]
    notes = []
    if path.with_suffix(".km").exists():
        labels = path.with_suffix(".km")
        notes.append(f"{labels}: `speechssl labels {labels} LABELS --manifest` with the manifest made here converts it")
    return entries, table.root, notes


def write_fairseq(path: Path, manifest: Manifest) -> list[str]:
    """Write the table, and texts as words and letters if all utterances have one; return notes.

    Raises:
        ManifestError: a rate is not 16 kHz, fairseq would misread a path, or a text has a `|`.
    """
    if path.suffix != ".tsv":
        raise ManifestError(f"{path}: name it SPLIT.tsv; fairseq looks for that")
    root = str(manifest.root.resolve())
    for row in manifest.utterances:
        found = Place.parse(row.path, Path())
        name = row.path if found.size is None else found.path + (":" if ":" in root else "")  # fairseq splits all of it
        if row.path != row.path.strip() or any(sign in name for sign in "\t\n:"):
            raise ManifestError(
                f"{row.path!r}: fairseq strips blanks at both ends of a line and splits it at tabs, and reads what "
                "follows a colon as a place in an archive (for .wav and .flac only fairseq2 does); rename the file, or "
                f"the folder {root}"
            )
    notes = lost_columns(manifest, ("text",), by="fairseq's tsv")
    texts = [row.text for row in manifest.utterances if row.text]
    missing = len(manifest.utterances) - len(texts)
    spelt = [letters_of(text) for text in texts]
    write_fairseq_manifest(path, manifest)
    if texts and missing:
        notes.append(
            f"{missing} utterances have no text, and fairseq needs one on every line: no texts written; "
            "`speechssl manifest filter --text` keeps those that have one"
        )
    for suffix, lines in ((".wrd", texts), (".ltr", spelt)):
        if missing:
            path.with_suffix(suffix).unlink(missing_ok=True)  # file of an earlier export
        else:
            write_atomically(path.with_suffix(suffix), "".join(f"{line}\n" for line in lines))
    return notes


def letters_of(text: str) -> str:
    """Spell a text as fairseq's letters, separated by blanks, with `|` after every word.

    Raises:
        ManifestError: the text has a `|`.

    Examples:
        >>> letters_of("to be")
        't o | b e |'
    """
    if "|" in text:
        raise ManifestError(f"{text[:60]!r}: has a |, which ends words in fairseq's letters; normalise the text")
    return " ".join("".join(f"{word}|" for word in text.split()))


def text_of(letters: str) -> str:
    """Join letters to words.

    Examples:
        >>> text_of("t o | b e |")
        'to be'
    """
    return letters.replace(" ", "").replace("|", " ").strip()


def _side(path: Path) -> list[str] | None:
    return [line for _, line in text_lines(path)] if path.exists() else None
