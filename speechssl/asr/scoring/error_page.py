"""HTML page of a scoring that works offline: the template `error_page.html`, filled with results and audio.

The script of the page is our own: it draws intervals and plots, computes spectrograms from the embedded audio, sorts
and filters. This module handles texts, scores and audio, but no manifests or models.
"""

import base64
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from speechssl.asr.scoring.alignment import Kind, Step
from speechssl.asr.scoring.evaluate import Compared, Evaluation, Group, Rate, Reference
from speechssl.asr.scoring.intervals import Difference
from speechssl.atomic import write_atomically

__all__ = ["Confusion", "PathToken", "Recording", "Report", "System", "confusions", "write_score_page"]


class Confusion(NamedTuple):
    """A pair of reference and hypothesis token; None for the missing side."""

    kind: Kind
    reference: str | None
    hypothesis: str | None
    times: int
    of: int | None  # occurrences of the reference's token; None for an insertion


def confusions(alignments: Iterable[Sequence[Step]], *, most: int) -> list[Confusion]:
    """Count the errors of alignments.

    Args:
        alignments: steps of each utterance, of words or of characters.
        most: how many pairs to return.

    Examples:
        >>> from speechssl.asr.scoring.alignment import align
        >>> confusions(align(["banana"], ["bonona"], "levenshtein"), most=1)
        [Confusion(kind='substitution', reference='a', hypothesis='o', times=2, of=3)]
    """
    errors: Counter[Step] = Counter()
    occurrences: Counter[str] = Counter()
    for steps in alignments:
        for step in steps:
            if step.reference is not None:
                occurrences[step.reference] += 1
            if step.kind != "hit":
                errors[step] += 1
    ranked = sorted(errors.items(), key=lambda item: (-item[1], item[0].reference or "", item[0].hypothesis or ""))
    return [
        Confusion(*step, times=times, of=None if step.reference is None else occurrences[step.reference])
        for step, times in ranked[:most]
    ]


_PLACES = ("__DATA__", "__AUDIO__")
_CODES = {"hit": "=", "substitution": "S", "deletion": "D", "insertion": "I"}
_MOST_CONFUSIONS = 500  # pairs of words, and of characters
_FEW_BLOCKS = 10  # with fewer blocks the page says that an interval is too narrow to be trusted


class PathToken(NamedTuple):
    """A run of frames with the same most probable token, not the blank."""

    token: str
    start: int  # first frame
    frames: int
    probability: float  # mean over the frames


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Audio of an utterance, and a model's predictions over time."""

    flac: bytes
    path: Sequence[PathToken] = ()


@dataclass(frozen=True, kw_only=True)
class System:
    """Scores of a recogniser."""

    name: str
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True)
class Report:
    """Content of the page."""

    name: str  # name of the references, for the heading
    references: Sequence[Reference]
    systems: Sequence[System]  # one, or two scored in the same way on the same references
    differences: tuple[Difference, Difference] | None = None  # differences of WER and CER between two systems
    durations_s: Mapping[str, float]  # by utterance id
    confidences: Mapping[str, float]  # confidences of the first system by id; some, all or none
    recordings: Mapping[str, Recording]  # recordings of some utterances by id
    frames_per_second: float = 50.0  # frame rate of the paths
    sources: Mapping[str, str] = field(default_factory=dict)  # paths of references and systems
    notes: Sequence[str] = ()  # further notes for the reader


def write_score_page(report: Report, out: Path) -> None:
    """Write the page."""
    template = Path(__file__).with_name("error_page.html").read_text(encoding="utf-8")
    data = json.dumps(_data(report), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # so that no text can end its <script>
    places = {reference.id: index for index, reference in enumerate(report.references)}
    audio = "\n".join(
        f'<script type="text/plain" id="audio-{places[key]}">{base64.b64encode(recording.flac).decode()}</script>'
        for key, recording in report.recordings.items()
    )
    before, between, after = _cut(template)
    write_atomically(out, "".join([before, data, between, audio, after]))


def _cut(template: str) -> tuple[str, str, str]:
    before, _, rest = template.partition(_PLACES[0])
    between, found, after = rest.partition(_PLACES[1])
    assert found, "error_page.html has a place for the data and, after it, one for the audio"
    return before, between, after


def _data(report: Report) -> dict[str, Any]:
    first = report.systems[0].evaluation
    config = first.config
    return {
        "name": report.name,
        "facts": {
            **report.sources,
            "texts": first.normaliser,
            "alignment of words": config.alignment,
            "intervals": f"{100 * config.level:g} %, of {first.total.blocks} {config.blocks}s drawn with replacement, "
            f"{config.samples} times, seed {config.seed}",
        },
        "notes": list(report.notes),
        "few": _FEW_BLOCKS,
        "blocks": config.blocks,
        "systems": [{"name": each.name, **_figures(each.evaluation.total)} for each in report.systems],
        "differences": [dataclasses.asdict(each) for each in report.differences or ()],
        "groups": _groups(report),
        "confusions": [
            {
                "words": confusions((row.words for row in rows), most=_MOST_CONFUSIONS),
                "characters": confusions((row.characters for row in rows), most=_MOST_CONFUSIONS),
            }
            for rows in (each.evaluation.utterances for each in report.systems)
        ],
        "fps": report.frames_per_second,
        "utterances": [_utterance(report, index) for index in range(len(report.references))],
    }


def _groups(report: Report) -> dict[str, list[dict[str, Any]]]:
    evaluations = [each.evaluation for each in report.systems]
    return {
        grouping: [
            {
                "name": group.name,
                "utterances": group.utterances,
                "blocks": group.blocks,
                "systems": [_figures(each.groups[grouping][number]) for each in evaluations],
            }
            for number, group in enumerate(groups)
        ]
        for grouping, groups in evaluations[0].groups.items()
    }


def _figures(group: Group) -> dict[str, Any]:
    return {"wer": _rate(group.words), "cer": _rate(group.characters)}


def _rate(rate: Rate) -> dict[str, float]:
    errors = rate.errors
    return {
        "rate": errors.rate,
        "low": rate.interval.low,
        "high": rate.interval.high,
        "S": errors.substitutions,
        "D": errors.deletions,
        "I": errors.insertions,
        "of": errors.reference,
    }


def _utterance(report: Report, index: int) -> dict[str, Any]:
    reference = report.references[index]
    compared = [each.evaluation.utterances[index] for each in report.systems]
    found: dict[str, Any] = {
        "id": reference.id,
        "reference": _text(compared[0].reference, compared[0].reference.split()),
        "heard": [_heard(each) for each in compared],
        "groups": [reference.groups.get(grouping, "unknown") for grouping in report.systems[0].evaluation.groups],
    }
    if reference.id in report.durations_s:
        found["s"] = round(report.durations_s[reference.id], 3)
    if reference.id in report.confidences:
        found["confidence"] = round(report.confidences[reference.id], 4)
    recording = report.recordings.get(reference.id)
    if recording is not None:
        found["path"] = [[*each[:3], round(each.probability, 3)] for each in recording.path]
    return found


def _heard(compared: Compared) -> list[Any]:
    """Return the text, the word alignment and the character alignment."""
    return [
        _text(compared.hypothesis, compared.hypothesis.split()),
        _brief(compared.words),
        _brief(compared.characters),
    ]


def _text(text: str, words: list[str]) -> str | list[str | list[str]]:
    """Return the text if splitting it at spaces gives its words, else the text and its words."""
    return text if text.split(" ") == words or not text else [text, words]


def _brief(steps: Sequence[Step]) -> str:
    """Encode an alignment by run lengths.

    Examples:
        >>> from speechssl.asr.scoring.alignment import align
        >>> _brief(align(["abcd"], ["abxd"], "levenshtein")[0])
        '2=S='
    """
    runs = ((code, sum(1 for _ in run)) for code, run in groupby(_CODES[step.kind] for step in steps))
    return "".join(code if count == 1 else f"{count}{code}" for code, count in runs)
