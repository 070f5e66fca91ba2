"""Evaluation of hypotheses: totals and groups with confidence intervals, and paired comparison of two systems.

This module handles texts, alignments and groups, but no manifests or audio.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechssl.asr.scoring.alignment import Method, Step, align
from speechssl.asr.scoring.intervals import Difference, Interval, compare_systems, drawn_sums, in_blocks, percentiles
from speechssl.asr.scoring.normalise import Normaliser, describe_normaliser, normalise
from speechssl.asr.scoring.wer import ErrorRate
from speechssl.config import configuration
from speechssl.errors import ConfigError, ManifestError

__all__ = [
    "Compared",
    "Evaluation",
    "Group",
    "LeftOut",
    "Rate",
    "Reference",
    "ScoreConfig",
    "block_names",
    "by_number",
    "evaluate",
    "evaluate_systems",
    "in_common",
    "judge",
]

_KINDS = ("substitution", "deletion", "insertion", "hit")


@configuration
class ScoreConfig:
    """Settings of text comparison and of the confidence intervals."""

    normaliser: Normaliser = "none"
    alignment: Method = "levenshtein"  # alignment of words; nist weights errors like sclite
    blocks: Literal["utterance", "speaker"] = "utterance"  # unit of the bootstrap; speaker generalises to new speakers
    samples: int = 10_000  # bootstrap samples
    level: float = 0.95  # confidence level
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or self.samples < 1:
            raise ConfigError(
                f"score: level must lie between 0 and 1 and samples be 1 or more, found {self.level}, {self.samples}"
            )


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference text, with properties of the utterance."""

    id: str
    text: str
    speaker: str | None = None
    language: str | None = None
    groups: Mapping[str, str]  # name of a grouping -> the utterance's group


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One utterance, normalised and aligned."""

    id: str
    reference: str
    hypothesis: str
    words: Sequence[Step]
    characters: Sequence[Step]

    @property
    def word_errors(self) -> ErrorRate:
        """Word errors."""
        return _error_rate(_count(self.words))

    @property
    def character_errors(self) -> ErrorRate:
        """Character errors, spaces counted."""
        return _error_rate(_count(self.characters))


@dataclass(frozen=True, kw_only=True)
class Rate:
    """An error rate with its interval."""

    errors: ErrorRate
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Group:
    """Scores of a group of utterances."""

    name: str
    utterances: int
    blocks: int  # number of utterances or speakers, the unit of the bootstrap
    words: Rate
    characters: Rate


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Ids that were not scored, because not all files have them."""

    references: Sequence[str]  # without a hypothesis of every system
    hypotheses: Sequence[Sequence[str]]  # by system, without a reference or without a hypothesis of the other system

    def described(self) -> list[str]:
        """Describe the number of ids on each side, with the first three.

        Examples:
            >>> LeftOut(references=["a", "b"], hypotheses=[[]]).described()
            ['2 references: a, b', '0 hypotheses']
        """
        sides = [
            ("references", self.references),
            *zip(("hypotheses", "hypotheses of the second"), self.hypotheses, strict=False),
        ]
        return [f"{len(ids)} {what}" + (f": {', '.join(ids[:3])}" if ids else "") for what, ids in sides]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All scores of one system."""

    config: ScoreConfig
    normaliser: str  # description of the normaliser
    total: Group
    groups: Mapping[str, Sequence[Group]]  # groups by grouping
    utterances: Sequence[Compared]
    drawn: NDArray[np.int64] = field(repr=False, compare=False)  # (samples, 4): errors, tokens of words and characters
    left_out: LeftOut | None = None  # ids left out, if only common ids were scored

    @property
    def wer(self) -> float:
        """Word errors over words of the references; may exceed 1."""
        return self.total.words.errors.rate

    @property
    def cer(self) -> float:
        """Character errors over characters of the references, spaces counted."""
        return self.total.characters.errors.rate


class _Part(NamedTuple):
    """A subset of the utterances."""

    grouping: str
    name: str
    rows: NDArray[np.int64]  # their indices
    blocks: Sequence[str]  # bootstrap block of each


def in_common(
    references: Sequence[Reference], systems: Sequence[Mapping[str, str]]
) -> tuple[list[Reference], list[dict[str, str]], LeftOut]:
    """Keep the utterances that the references and all systems have; also return those left out on each side."""
    ids = {row.id for row in references}.intersection(*systems)
    left_out = LeftOut(
        references=[row.id for row in references if row.id not in ids],
        hypotheses=[[key for key in texts if key not in ids] for texts in systems],
    )
    kept = [{key: text for key, text in texts.items() if key in ids} for texts in systems]
    return [row for row in references if row.id in ids], kept, left_out


def evaluate(
    references: Sequence[Reference],
    hypotheses: Mapping[str, str],
    config: ScoreConfig,
    *,
    left_out: LeftOut | None = None,
) -> Evaluation:
    """Score one system; see `evaluate_systems`."""
    return evaluate_systems(references, [hypotheses], config, left_out=left_out)[0]


def evaluate_systems(
    references: Sequence[Reference],
    systems: Sequence[Mapping[str, str]],
    config: ScoreConfig,
    *,
    left_out: LeftOut | None = None,
) -> list[Evaluation]:
    """Score systems on the same references, with the same bootstrap draws for all.

    Args:
        references: references with distinct ids.
        systems: hypotheses of each system, text by id, with the same ids.
        config: settings of the scoring.
        left_out: second result of `in_common`, reported with the scores.

    Raises:
        ManifestError: ids are missing on one side or occur twice, there is nothing to score, references are empty
            after normalisation, or speakers are missing for blocks of speakers.
    """
    if left_out is not None and not references:
        raise ManifestError(
            f"score: no utterance is on all sides; left over: {'; '.join(left_out.described())}; use the same ids"
        )
    for hypotheses in systems:
        _check_ids(references, hypotheses)
    compared = [_compare(references, hypotheses, config) for hypotheses in systems]
    counts = [_counts(each) for each in compared]
    parts = _parts(references, block_names(references, config))
    tables = [in_blocks(_rates(count[part.rows]), part.blocks) for count in counts for part in parts]
    groups: dict[int, Group] = {}
    totals: dict[int, NDArray[np.int64]] = {}  # bootstrap sums over all utterances, by system
    for place, drawn in drawn_sums(tables, samples=config.samples, seed=config.seed):
        system, number = divmod(place, len(parts))
        part = parts[number]
        groups[place] = _group(part, counts[system][part.rows].sum(0), percentiles(drawn, config.level))
        if number == 0:
            totals[system] = drawn
    found = []
    for system, utterances in enumerate(compared):
        total, *rest = (groups[system * len(parts) + number] for number in range(len(parts)))
        by_grouping: dict[str, list[Group]] = {}
        for part, group in zip(parts[1:], rest, strict=True):
            by_grouping.setdefault(part.grouping, []).append(group)
        found.append(
            Evaluation(
                config=config,
                normaliser=describe_normaliser(config.normaliser),
                total=total,
                groups=by_grouping,
                utterances=utterances,
                drawn=totals[system],
                left_out=left_out,
            )
        )
    return found


def judge(references: Sequence[Reference], first: Evaluation, second: Evaluation) -> tuple[Difference, Difference]:
    """Compare two systems scored in the same way on the same references: paired differences of WER and CER.

    Raises:
        ValueError: they were not scored in the same way.
    """
    config = first.config
    if second.config != config:
        raise ValueError(f"expected two systems scored alike, found {config} and {second.config}")
    names = block_names(references, config)
    one, other = (in_blocks(_rates(_counts(each.utterances)), names) for each in (first, second))
    words, characters = compare_systems(one, other, (first.drawn, second.drawn), seed=config.seed, level=config.level)
    return words, characters


def _check_ids(references: Sequence[Reference], hypotheses: Mapping[str, str]) -> None:
    if not references:
        raise ManifestError("score: there is nothing to score; name a manifest with texts")
    doubled = [key for key, count in Counter(row.id for row in references).items() if count > 1]
    if doubled:
        raise ManifestError(f"score: {len(doubled)} ids occur twice: {', '.join(doubled[:3])}; rename one of each")
    ids = {row.id for row in references}
    for missing, what in (
        ([row.id for row in references if row.id not in hypotheses], "hypothesis"),
        ([key for key in hypotheses if key not in ids], "reference"),
    ):
        if missing:
            raise ManifestError(
                f"score: {len(missing)} utterances have no {what}: {', '.join(missing[:3])}; "
                "score all that was transcribed, and transcribe all that is scored; --common scores what both have"
            )


def _compare(references: Sequence[Reference], hypotheses: Mapping[str, str], config: ScoreConfig) -> list[Compared]:
    pairs = [
        (
            normalise(row.text, config.normaliser, row.language).strip(),
            normalise(hypotheses[row.id], config.normaliser, row.language).strip(),
        )
        for row in references
    ]
    empty = [row.id for row, (expected, _) in zip(references, pairs, strict=True) if not expected]
    if empty:
        raise ManifestError(
            f"score: {len(empty)} references are empty ({describe_normaliser(config.normaliser)}): "
            f"{', '.join(empty[:3])}; remove them or transcribe them"
        )
    words = align([pair[0].split() for pair in pairs], [pair[1].split() for pair in pairs], config.alignment)
    characters = align([pair[0] for pair in pairs], [pair[1] for pair in pairs], "levenshtein")
    return [
        Compared(id=row.id, reference=pair[0], hypothesis=pair[1], words=of_words, characters=of_characters)
        for row, pair, of_words, of_characters in zip(references, pairs, words, characters, strict=True)
    ]


def by_number(name: str) -> list[str | int]:
    """Return a sort key that orders names by the numbers in them.

    Examples:
        >>> sorted(["from 10 to 20 s", "from 2 to 5 s", "below 1 s"], key=by_number)
        ['below 1 s', 'from 2 to 5 s', 'from 10 to 20 s']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def block_names(references: Sequence[Reference], config: ScoreConfig) -> list[str]:
    """Return the bootstrap block of each reference: its speaker, or itself.

    Raises:
        ManifestError: speakers are wanted, and an utterance has none.
    """
    if config.blocks == "utterance":
        return [row.id for row in references]
    unknown = [row.id for row in references if row.speaker is None]
    if unknown:
        raise ManifestError(
            f"score: blocks=speaker, but {len(unknown)} utterances have no speaker: {', '.join(unknown[:3])}; "
            "fill the manifest's column, or draw utterances"
        )
    return [row.speaker or "" for row in references]


def _parts(references: Sequence[Reference], names: Sequence[str]) -> list[_Part]:
    """Return all utterances, then the groups of each grouping in the order of their numbers."""
    found = [_Part("", "all", np.arange(len(references)), names)]
    for grouping in {name: None for row in references for name in row.groups}:
        members: dict[str, list[int]] = {}
        for index, row in enumerate(references):
            members.setdefault(row.groups.get(grouping, "unknown"), []).append(index)
        for name in sorted(members, key=by_number):
            found.append(_Part(grouping, name, np.array(members[name]), [names[index] for index in members[name]]))
    return found


def _group(part: _Part, counts: NDArray[np.int64], intervals: Sequence[Interval]) -> Group:
    words, characters = (
        Rate(errors=_error_rate(kind), interval=interval) for kind, interval in zip(counts, intervals, strict=True)
    )
    return Group(
        name=part.name,
        utterances=len(part.rows),
        blocks=len(set(part.blocks)),
        words=words,
        characters=characters,
    )


def _counts(compared: Sequence[Compared]) -> NDArray[np.int64]:
    """Return (utterances, 2, 4) counts of words and of characters: substitutions, deletions, insertions, hits."""
    return np.array([[_count(row.words), _count(row.characters)] for row in compared], np.int64)


def _rates(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn (utterances, 2, 4) counts into columns: word errors, words, character errors, characters."""
    errors, tokens = counts[..., :3].sum(-1), counts[..., [0, 1, 3]].sum(-1)
    return np.stack([errors, tokens], -1).reshape(len(counts), 4)


def _count(steps: Sequence[Step]) -> list[int]:
    counts = Counter(step.kind for step in steps)
    return [counts[kind] for kind in _KINDS]  # type: ignore[index]


def _error_rate(counts: Sequence[int] | NDArray[np.int64]) -> ErrorRate:
    substitutions, deletions, insertions, hits = (int(count) for count in counts)
    return ErrorRate(
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        reference=substitutions + deletions + hits,
    )
