"""Two files that say something of the same utterances, brought together: by id, by the audio they name, or by time.

STM and CTM say when something was said in a recording: where one side of a comparison has segments and the other words
with times, the words go to the segments that they lie in (a word's middle counts; one between segments goes to the
nearest, as an insertion there).
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
    """Return the hypotheses by the ids of the references; what has no counterpart keeps its own.

    Args:
        references: what was said.
        hypotheses: what a system wrote.
        tell: is given what was done that a reader of figures should know, a line each.

    Raises:
        ManifestError: two hypotheses of one reference.
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
        if len(unheard) < len(references.said):  # or nothing fits, which is said as such
            found |= dict.fromkeys(unheard, "")
            if unheard:
                tell(f"{len(unheard)} utterances have no words in the CTM, and count as heard empty: {_few(unheard)}")
    return found


def with_texts(manifest: Manifest, path: Path) -> Manifest:
    """Return a manifest with the texts of another file.

    Args:
        manifest: whose texts do not count; a text for each utterance is wanted.
        path: anything that `read_texts` reads; for a single utterance also plain text, all of which it says.

    Raises:
        ManifestError: the file cannot be read, or an utterance has no text there.
    """
    rows = manifest.utterances
    is_plain = not path.is_dir() and kind_of(path) is None and path.suffix.lower() not in (".tsv", ".csv", ".parquet")
    lines = lines_in(path) if is_plain and len(rows) == 1 else []
    is_row = not path.suffix and any(first_field(line)[0] == rows[0].id for line in lines)  # of Kaldi's `text`
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
    """Say whether a line names the columns of a table of texts."""
    names = cells_of(line, sign_of(line, is_csv=False))
    usual = usual_columns(names)
    return "text" in usual and bool({"id", "path"} & {*usual}) and len(usual) == len(names)


def _few(names: Iterable[str]) -> str:
    named = [*islice(names, 4)]
    return ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")


def _names(rows: Sequence[Said]) -> dict[str, str]:
    """Return id by every name that stands for one utterance alone; ids themselves come first."""
    counts = Counter(name for row in rows for name in {*_names_of(row)})
    names = {name: row.id for row in rows for name in _names_of(row) if counts[name] == 1}
    return names | {row.id: row.id for row in rows}


def _names_of(row: Said) -> Iterable[str]:
    """Yield what an utterance may be called elsewhere: its id, its path, and the ids that are made of paths."""
    yield row.id
    if row.path is not None:
        yield from (row.path, id_of(row.path), Path(row.path).stem)


def _cut(words: Sequence[Word], references: Texts, tell: Callable[[str], object]) -> dict[str, str]:
    """Give each word to the segment of its recording and channel that it lies in, or is nearest to."""
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
        tell(f"{len(silent)} recordings have no words in the CTM, and count as heard empty: {_few(silent)}")
    if left:
        tell(f"{left} words lie in segments that are not scored, and are left out")
    return {key: " ".join(found) for key, found in texts.items()}


def _place(span: Span) -> tuple[str, str]:
    """Return recording and channel, A being 1 as for NIST's tools."""
    is_letter = re.fullmatch("[A-Z]", span.channel) is not None
    return span.recording, str(ord(span.channel) - ord("A") + 1) if is_letter else span.channel


def _nearest(segments: Sequence[tuple[Span, str | None]], at_s: float) -> str | None:
    """Return the id of the segment, of some in the order of their starts, that a time lies in or is nearest to."""
    after = bisect_right([span.start_s for span, _ in segments], at_s)
    near = segments[max(0, after - 2) : after + 1]
    return min(near, key=lambda each: max(0.0, each[0].start_s - at_s, at_s - each[0].end_s))[1]


def _as_words(texts: Texts) -> list[Word]:
    return [Word(texts.spans[row.id], row.text) for row in texts.said]
