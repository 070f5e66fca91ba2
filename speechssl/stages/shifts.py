"""Stage `shift`: models + a manifest under several shifts -> scores by condition and by group, with intervals.

    OUT/MODEL/CONDITION.json    what a model answered under a condition; written once, so that the stage resumes
    OUT/shift.json              all scores, gaps and differences

Every condition is scored on the utterances that all models answered under all conditions, and compared with the audio
as recorded by the same bootstrap draws.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from speechssl import fingerprint
from speechssl.asr.scoring.evaluate import Reference, ScoreConfig, block_names, by_number
from speechssl.asr.scoring.intervals import Interval
from speechssl.atomic import write_atomically
from speechssl.config import configuration, to_dict
from speechssl.data.shifted import UNITS, ShiftConfig, Shifted, parse_shift
from speechssl.data.utterances import Manifest
from speechssl.downstream.bootstrap import interval_of
from speechssl.downstream.group_scores import FEWEST, UNKNOWN, Grouped, Ratio, drawn_scores, score_groups
from speechssl.errors import CheckpointError, ConfigError, ManifestError
from speechssl.provenance import source_commit
from speechssl.stages.posteriors import PosteriorConfig
from speechssl.stages.reading_data import tell_left_out, under_shift
from speechssl.stages.shift_systems import Answer, System

__all__ = ["CLEAN", "FIGURES", "Condition", "ScoredShift", "Shifts", "ShiftsConfig", "score_shifts"]

CLEAN = "as recorded"
FIGURES = "shift.json"


@configuration
class ShiftsConfig:
    """Conditions to compare, and how they are scored."""

    shifts: tuple[str, ...]  # KIND:LEVEL each; the audio as recorded is always scored, too
    seed: int = 0  # seed of noise and rooms
    fewest: int = FEWEST  # groups of fewer utterances are reported, and neither worst nor best
    score: ScoreConfig = ScoreConfig(samples=1000)
    posteriors: PosteriorConfig = PosteriorConfig()
    skip_bad: bool = False  # leave out audio that cannot be used, under all conditions

    def __post_init__(self) -> None:
        if not self.shifts:
            raise ConfigError("shift: there is no condition to compare; name some, such as noise:20,noise:10,band:4000")
        parsed = [str(parse_shift(text)) for text in self.shifts]
        if doubled := next((text for place, text in enumerate(parsed) if text in parsed[:place]), None):
            raise ConfigError(f"shift: {doubled} is named twice; name each condition once")


@dataclass(frozen=True, kw_only=True)
class ScoredShift:
    """One score of a model under a condition."""

    score: float
    interval: Interval
    change: float  # score minus that of the audio as recorded
    change_interval: Interval  # by the same draws
    groups: Mapping[str, Grouped]  # by grouping


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Scores of a model under a condition."""

    shift: ShiftConfig | None  # None: the audio as recorded
    scores: Mapping[str, ScoredShift]  # by name: CER, WER
    looped: int  # utterances whose noise was repeated

    @property
    def name(self) -> str:
        """Name of the condition, as it was given."""
        return CLEAN if self.shift is None else str(self.shift)


@dataclass(frozen=True, kw_only=True)
class Shifts:
    """Scores of all models under all conditions; the first condition is the audio as recorded."""

    conditions: Mapping[str, Sequence[Condition]]  # by model
    higher_is_better: Mapping[str, bool]  # by score
    utterances: int
    left_out: Sequence[str]  # ids of those that some model did not answer under some condition
    skipped: Sequence[str]  # why


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What a model answered under a condition."""

    texts: Mapping[str, str]  # by utterance id
    skipped: Sequence[str]  # why others have no answer
    looped: int


def score_shifts(
    systems: Mapping[str, System],
    manifest: Manifest,
    references: Sequence[Reference],
    config: ShiftsConfig,
    out: Path,
) -> Shifts:
    """Answer and score a manifest under every shift with every model; write `shift.json`.

    Args:
        systems: models that answer the same question, by the names that the report gives them.
        manifest: the utterances, as recorded.
        references: the right answers, with the groups of the utterances.
        config: shifts and scoring.
        out: folder of the answers and scores; conditions that it holds are not computed again.

    Raises:
        CheckpointError: `out` holds answers of another model or of other audio.
        AudioError: audio cannot be used, and the configuration does not say to skip it.
        ManifestError: no utterance was answered under all conditions, or a grouping is empty.
    """
    for grouping in references[0].groups if references else ():
        if all(row.groups[grouping] == UNKNOWN for row in references):
            raise ManifestError(f"shift: the column {grouping} is empty for all {len(references)} utterances; fill it")
    shifted = [manifest, *(under_shift(manifest, text, seed=config.seed) for text in config.shifts)]
    answers = {name: _answers_of(each, shifted, config, out / name) for name, each in systems.items()}
    shifts = [each.shift if isinstance(each, Shifted) else None for each in shifted]
    kept = [row for row in references if all(row.id in some.texts for each in answers.values() for some in each)]
    skipped = [*dict.fromkeys(why for each in answers.values() for some in each for why in some.skipped)]
    if not kept:
        raise ManifestError(f"shift: no utterance was answered under all conditions: {'; '.join(skipped[:3])}")
    found = Shifts(
        conditions={name: _scored(systems[name], kept, each, shifts, config) for name, each in answers.items()},
        higher_is_better=next(iter(systems.values())).higher_is_better,
        utterances=len(kept),
        left_out=sorted({row.id for row in references} - {row.id for row in kept}),
        skipped=skipped,
    )
    tell_left_out(found.left_out, "not answered under all conditions")
    record: dict[str, Any] = {
        "config": to_dict(config),
        "models": {name: each.fingerprint for name, each in systems.items()},
    }
    record |= {"commit": source_commit(), **_as_json(found)}
    write_atomically(out / FIGURES, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return found


def _answers_of(system: System, manifests: Sequence[Manifest], config: ShiftsConfig, folder: Path) -> list[_Answers]:
    """Read a model's answers under each condition, or compute them; the model is loaded once, if at all.

    Args:
        system: the model.
        manifests: the utterances as recorded, then shifted.
        config: batches and precision, which are stored beside the answers.
        folder: folder of the answers.
    """
    about: dict[str, object] = {
        "model": system.fingerprint,
        "audio": _fingerprint(manifests[0]),
        "posteriors": to_dict(config.posteriors),
    }
    answer: Answer | None = None
    found = []
    for manifest in manifests:
        name, looped, stated = CLEAN, 0, {**about, "shift": None}
        if isinstance(manifest, Shifted):
            sounds = manifest.sounds
            name, looped = str(manifest.shift), len(manifest.looped())
            stated |= {"shift": to_dict(manifest.shift), "noise": None if sounds is None else _fingerprint(sounds)}
        file = folder / f"{quote(name.replace(' ', '_'), safe=':')}.json"
        answers = _read_answers(file, stated)
        if answers is None:
            print(f"{folder.name}: {name}", file=sys.stderr)
            answer = answer or system.load()
            texts, skipped = answer(manifest)
            answers = _Answers(texts=texts, skipped=skipped, looped=looped)
            stored = {"about": stated, **dataclasses.asdict(answers)}
            write_atomically(file, json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
        found.append(answers)
    return found


def _read_answers(file: Path, about: Mapping[str, object]) -> _Answers | None:
    """Return the answers in a file, None if there is none.

    Raises:
        CheckpointError: they are of another model, or of other audio.
    """
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        stated = values.pop("about")
        answers = _Answers(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); remove it") from error
    changed = [name for name, value in about.items() if stated.get(name) != value]
    if changed:
        raise CheckpointError(
            f"{file}: was computed with another {' and '.join(changed)}; name another folder, or remove this one"
        )
    return answers


def _scored(
    system: System,
    references: Sequence[Reference],
    answers: Sequence[_Answers],
    shifts: Sequence[ShiftConfig | None],
    config: ShiftsConfig,
) -> list[Condition]:
    """Score one model's answers under each condition; the first is the audio as recorded."""
    ratios = [system.ratios(references, {row.id: some.texts[row.id] for row in references}) for some in answers]
    return [
        Condition(
            shift=shift,
            scores={
                name: _score(each, ratios[0][name], references, config, higher_is_better=system.higher_is_better[name])
                for name, each in found.items()
            },
            looped=some.looped,
        )
        for shift, some, found in zip(shifts, answers, ratios, strict=True)
    ]


def _score(
    ratio: Ratio, clean: Ratio, references: Sequence[Reference], config: ShiftsConfig, *, higher_is_better: bool
) -> ScoredShift:
    settings = config.score
    draws: dict[str, Any] = {"samples": settings.samples, "level": settings.level, "seed": settings.seed}
    blocks, every = block_names(references, settings), np.arange(len(references))
    change = Ratio(ratio.counts - clean.counts, ratio.totals)

    def within(score: Ratio) -> Interval:
        drawn = drawn_scores(score, blocks, samples=settings.samples, seed=settings.seed)
        return interval_of(drawn, level=settings.level)

    return ScoredShift(
        score=ratio(every),
        interval=within(ratio),
        change=change(every),
        change_interval=within(change),
        groups={
            grouping: score_groups(
                ratio,
                [row.groups[grouping] for row in references],
                blocks,
                higher_is_better=higher_is_better,
                fewest=config.fewest,
                order=by_number,
                **draws,
            )
            for grouping in references[0].groups
        },
    )


def _fingerprint(manifest: Manifest) -> str:
    """Hash what identifies the audio of a manifest; the order and the root do not matter."""
    lines = (
        f"{row.id}\t{row.path}\t{row.start}\t{row.num_samples}\t{row.sample_rate}\t{row.channel}\n"
        for row in manifest.utterances
    )
    return fingerprint.of_parts(line.encode() for line in sorted(lines))


def _as_json(found: Shifts) -> dict[str, Any]:
    """Return all scores as JSON values."""
    return {
        "utterances": found.utterances,
        "left_out": list(found.left_out),
        "skipped": list(found.skipped),
        "higher_is_better": dict(found.higher_is_better),
        "conditions": {
            model: [
                {
                    "condition": each.name,
                    "curve": None if each.shift is None else each.shift.curve,
                    "level": None if each.shift is None else each.shift.level,
                    "unit": None if each.shift is None else UNITS[each.shift.kind],
                    "looped_noise": each.looped,
                    "scores": {
                        name: {
                            "score": one.score,
                            "interval": dataclasses.asdict(one.interval),
                            "change": one.change,
                            "change_interval": dataclasses.asdict(one.change_interval),
                            "groups": {grouping: grouped.as_json() for grouping, grouped in one.groups.items()},
                        }
                        for name, one in each.scores.items()
                    },
                }
                for each in conditions
            ]
            for model, conditions in found.conditions.items()
        },
    }
