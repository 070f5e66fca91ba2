"""Match the texts of two files by utterance id, by audio path, or by time.

STM and CTM give times in a recording. If one side of a comparison has segments and the other words with times, each
word goes to the segment that holds its middle; a word between segments goes to the nearest one, as an insertion there.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from speechssl.asr.transcripts.transcript_reading import (
    Said,
    Span,
    Texts,
    Word,
    by_recording,
    kind_of,
    lines_in,
    read_texts,
)
from speechssl.corpus.named import usual_columns
from speechssl.data.utterances import Manifest, id_of
from speechssl.errors import ManifestError
from speechssl.text.fields import cells_of, first_field, sign_of

__all__ = ["same_utterances", "with_texts"]


def same_utterances(
    references: Texts, hypotheses: Texts, *, tell: Callable[[str], object] = lambda line: None
) -> dict[str, str]:
    """Return the hypotheses under the ids of the references; those without a counterpart keep their own ids.

    Args:
        references: reference texts.
        hypotheses: texts of a system.
        tell: called with notes for the reader of the scores, one line each.

    Raises:
        ManifestError: a reference has two hypotheses.
    """
    if references.spans and hypotheses.words is not None:
        return _cut(hypotheses.words, references, tell)
    if references.words is not None and hypotheses.spans:
        hypotheses = Texts(said=by_recording(_as_words(hypotheses)), words=[])
    names = _names(references.said)
    found: dict[str, str] = {}
    for row in hypotheses.said:
        key = next((names[name] for name in _names_of(row) if name in names), row.id)
        if key in found:
            raise ManifestError(f"score: {key} has two hypotheses, of which one is {row.id}; keep one of them")
        found[key] = row.text
    if hypotheses.words is not None and found:
        unheard = [row.id for row in references.said if row.id not in found]
        if len(unheard) < len(references.said):  # if none has words, another error says so
            found |= dict.fromkeys(unheard, "")
            if unheard:
                tell(f"{len(unheard)} utterances have no words in the CTM, and count as empty: {_few(unheard)}")
    return found


def with_texts(manifest: Manifest, path: Path) -> Manifest:
    """Return a manifest with the texts of another file.

    Args:
        manifest: the utterances; their own texts are ignored.
        path: any file of `read_texts`, with a text for each utterance; for a single utterance also plain text.

    Raises:
        ManifestError: the file cannot be read, or an utterance has no text there.
    """
    rows = manifest.utterances
    is_plain = not path.is_dir() and kind_of(path) is None and path.suffix.lower() not in (".tsv", ".csv", ".parquet")
    lines = lines_in(path) if is_plain and len(rows) == 1 else []
    is_row = not path.suffix and any(first_field(line)[0] == rows[0].id for line in lines)  # a line of Kaldi's `text`
    if lines and not is_row and not _is_header(lines[0]):
        texts = {rows[0].id: " ".join(" ".join(lines).split())}
    else:
        listed = [Said(id=row.id, text="", path=row.path) for row in rows]
        texts = same_utterances(Texts(said=listed), read_texts(path, "reference"))
    untold = [row.id for row in rows if not texts.get(row.id)]
    if untold:
        raise ManifestError(
            f"{path}: has no text of {len(untold)} of {len(rows)} utterances: {_few(untold)}; found those of "
            f"{_few(texts) or 'none'}: correct the ids"
        )
    return replace(manifest, utterances=tuple(replace(row, text=texts[row.id]) for row in rows))


def _is_header(line: str) -> bool:
    """Return whether a line names the columns of a table of texts."""
    names = cells_of(line, sign_of(line, is_csv=False))
    usual = usual_columns(names)
    return "text" in usual and bool({"id", "path"} & {*usual}) and len(usual) == len(names)


def _few(names: Iterable[str]) -> str:
    named = [*islice(names, 4)]
    return ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")


def _names(rows: Sequence[Said]) -> dict[str, str]:
    """Return the id for every name that is unique to one utterance; ids themselves have precedence."""
    counts = Counter(name for row in rows for name in {*_names_of(row)})
    names = {name: row.id for row in rows for name in _names_of(row) if counts[name] == 1}
    return names | {row.id: row.id for row in rows}


def _names_of(row: Said) -> Iterable[str]:
    """Yield the names of an utterance in other files: its id, its path, and ids derived from paths."""
    yield row.id
    if row.path is not None:
        yield from (row.path, id_of(row.path), Path(row.path).stem)


def _cut(words: Sequence[Word], references: Texts, tell: Callable[[str], object]) -> dict[str, str]:
    """Assign each word to the segment of its recording and channel that holds it or is nearest to it."""
    by_place: dict[tuple[str, str], list[tuple[Span, str | None]]] = {}
    known = {span.recording: 0 for span in references.spans.values()}
    for key, span in references.spans.items():
        by_place.setdefault(_place(span), []).append((span, key))
    for span in references.ignored:
        by_place.setdefault(_place(span), []).append((span, None))
    channels: dict[str, set[str]] = {}
    for recording, channel in by_place:
        channels.setdefault(recording, set()).add(channel)
    texts: dict[str, list[str]] = {key: [] for key in references.spans}
    words = sorted(words, key=lambda word: word.at.start_s)
    for segments in by_place.values():
        segments.sort(key=lambda each: each[0].start_s)
    left, strangers = 0, Counter[str]()
    for word in words:
        place = _place(word.at)
        if place not in by_place and len(channels.get(word.at.recording, ())) == 1:
            place = (word.at.recording, min(channels[word.at.recording]))
        if place not in by_place:
            strangers[word.at.recording] += 1
            continue
        known[word.at.recording] = known.get(word.at.recording, 0) + 1
        nearest = _nearest(by_place[place], (word.at.start_s + word.at.end_s) / 2)
        if nearest is None:
            left += 1
        else:
            texts[nearest].append(word.text)
    if strangers:
        raise ManifestError(
            f"score: {strangers.total()} words are of recordings or channels that the segments do not name: "
            f"{_few(strangers)}; take them out, or name them in the STM"
        )
    silent = [recording for recording, count in known.items() if not count]
    if silent:
        tell(f"{len(silent)} recordings have no words in the CTM, and count as empty: {_few(silent)}")
    if left:
        tell(f"{left} words lie in segments that are not scored, and are left out")
    return {key: " ".join(found) for key, found in texts.items()}


def _place(span: Span) -> tuple[str, str]:
    """Return recording and channel; channel A is 1, as in NIST's tools."""
    is_letter = re.fullmatch("[A-Z]", span.channel) is not None
    return span.recording, str(ord(span.channel) - ord("A") + 1) if is_letter else span.channel


def _nearest(segments: Sequence[tuple[Span, str | None]], at_s: float) -> str | None:
    """Return the id of the segment that holds a time or is nearest to it; segments are sorted by start."""
    after = bisect_right([span.start_s for span, _ in segments], at_s)
    near = segments[max(0, after - 2) : after + 1]
    return min(near, key=lambda each: max(0.0, each[0].start_s - at_s, at_s - each[0].end_s))[1]


def _as_words(texts: Texts) -> list[Word]:
    return [Word(texts.spans[row.id], row.text) for row in texts.said]
