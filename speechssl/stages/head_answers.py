"""Answers of downstream tasks: columns of manifests and tables, alignments, voice activity; and their splits."""

import itertools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.corpus.activity import FRAME, chosen_vad, detect_activity, waveform_blocks
from speechssl.corpus.split import split_by_shares
from speechssl.data.manifest import read_table
from speechssl.data.shifted import Shifted
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioError, ConfigError, LabelError, ManifestError
from speechssl.stages.probe_config import ProbeConfig, SplitRule
from speechssl.stages.reading_data import DataConfig, read_data, tell_left_out
from speechssl.tasks.head_registry import head_of
from speechssl.tasks.heads import UNLABELLED
from speechssl.units.phone_alignments import Interval, read_phones
from speechssl.units.quality import segments_of_frames

__all__ = ["Answer", "Split", "answered_splits", "classes_of", "frame_labels", "speech_intervals", "tell"]

Answer = str | float | Sequence[Interval]
COLUMNS = ("speaker", "language", "split", "corpus", "text", "duration_s")  # of `Utterance`


@dataclass(frozen=True, kw_only=True)
class Split:
    """The utterances of a split that have an answer."""

    name: str  # section of the recipe or part of the rule: train, dev, test
    data: DataConfig
    manifest: Manifest
    rows: tuple[Utterance, ...]
    answers: tuple[Answer, ...]
    skipped: dict[str, int]  # number of utterances, or of frames, without an answer, by reason

    def only(self, is_kept: Sequence[bool], reason: str) -> "Split":
        """Return the utterances to keep; the others are counted and listed with the reason."""
        left_out = [row.id for row, kept in zip(self.rows, is_kept, strict=True) if not kept]
        tell_left_out([f"{row} ({self.name})" for row in left_out], reason)
        return Split(
            name=self.name,
            data=self.data,
            manifest=self.manifest,
            rows=tuple(itertools.compress(self.rows, is_kept)),
            answers=tuple(itertools.compress(self.answers, is_kept)),
            skipped=self.skipped | ({reason: len(left_out)} if left_out else {}),
        )


def answered_splits(config: ProbeConfig) -> dict[str, Split]:
    """Read the splits train, dev (if there is one) and test, with the answers that the head needs.

    Raises:
        ManifestError: a split has no answers, or shares a speaker with another although `shared_speakers` is off.
        LabelError: alignments cannot be read or fit no utterance.
    """
    splits = {name: _answered(config, name, data, manifest, rows) for name, data, manifest, rows in _divided(config)}
    if not config.shared_speakers:
        _refuse_shared_speakers(splits)
    if head_of(config.task).answers == "classes":
        return _known_classes(splits, getattr(config.task, "classes", ()), config)
    return splits


def classes_of(split: Split) -> tuple[str, ...]:
    """Return the classes of a training set in order.

    Raises:
        ManifestError: there are fewer than two.
    """
    found = {
        name
        for answer in split.answers
        for name in ((answer,) if isinstance(answer, str) else (interval.phone for interval in answer))  # type: ignore[union-attr]
    }
    if len(found) < 2:
        raise ManifestError(
            f"the training set has {len(found)} class{'' if len(found) == 1 else 'es'} ({', '.join(sorted(found))}), "
            "expected two or more; name another column, or give more data"
        )
    return tuple(sorted(found))


def frame_labels(
    split: Split, classes: Sequence[str], counts: Sequence[int], *, hop: int, window: int
) -> tuple[list[Tensor], dict[str, int]]:
    """Label frames by the interval at their centre; what has no label is counted and told.

    Args:
        split: utterances with intervals.
        classes: names of the classes; frames of another one are not labelled.
        counts: frames of each utterance.
        hop: samples from one frame to the next.
        window: samples in the window of one frame.

    Returns:
        (frames,) int64 for each utterance, `UNLABELLED` where there is no class, and the number of such frames by
        reason.
    """
    index = {name: number for number, name in enumerate(classes)}
    labels, unlabelled, unknown, ends_early = list[Tensor](), Counter[str](), set[str](), list[str]()
    for row, intervals, count in zip(split.rows, split.answers, counts, strict=True):
        assert isinstance(intervals, Sequence) and not isinstance(intervals, str)
        numbers = np.array([index.get(interval.phone, UNLABELLED) for interval in intervals])
        place, is_inside = segments_of_frames(intervals, count, hop=hop, window=window)
        found = np.where(is_inside, numbers[place], UNLABELLED)
        centres_s = (np.arange(count) * hop + window / 2) / SAMPLE_RATE
        is_after = centres_s >= intervals[-1].end_s
        unlabelled["frames after the end of the alignment"] += int(is_after.sum())
        unlabelled["frames in gaps of the alignment"] += int((~is_inside & ~is_after).sum())
        unlabelled["frames of classes that the training set lacks"] += int((is_inside & (found == UNLABELLED)).sum())
        unknown |= {interval.phone for interval in intervals if interval.phone not in index}
        ends_early += [row.id] if is_after.any() else []
        labels.append(torch.from_numpy(found.astype(np.int64)))
    if unlabelled.total():
        reasons = ", ".join(f"{count} {reason}" for reason, count in unlabelled.items() if count)
        named = f" (alignments of {len(ends_early)} utterances end early: {_some(ends_early)})" if ends_early else ""
        named += f" (classes: {_some(unknown)})" if unknown else ""
        tell(f"{split.name}: not labelled: {reasons}{named}")
    return labels, {reason: count for reason, count in unlabelled.items() if count}


def speech_intervals(manifest: Manifest, row: Utterance, *, vad: str) -> list[Interval]:
    """Return the intervals of speech and of pause of an utterance, by voice activity in frames of 32 ms.

    Raises:
        AudioError: the audio cannot be read.
    """
    recorded = manifest.original if isinstance(manifest, Shifted) else manifest  # noise changes no answer
    activity = detect_activity(waveform_blocks(recorded, row), chosen_vad(vad))  # type: ignore[arg-type]
    is_speech = activity.speech >= 0.5
    edges = [0, *(np.flatnonzero(is_speech[1:] != is_speech[:-1]) + 1).tolist(), len(is_speech)]
    frame_s = FRAME / SAMPLE_RATE
    return [
        Interval(start * frame_s, end * frame_s, "speech" if is_speech[start] else "pause")
        for start, end in itertools.pairwise(edges)
    ]


def tell(message: str) -> None:
    """Print a line to standard error."""
    print(message, file=sys.stderr)


def _divided(config: ProbeConfig) -> list[tuple[str, DataConfig, Manifest, tuple[Utterance, ...]]]:
    """Return name, section, manifest and rows of each split."""
    manifest = read_data(config.data)
    if config.split is not None:
        parts = _by_rule(manifest.utterances, config.split)
        return [(name, config.data, manifest, tuple(parts[name])) for name in ("train", "dev", "test") if parts[name]]
    found = [("train", config.data, manifest, tuple(manifest.utterances))]
    for name, data in (("dev", config.dev), ("test", config.test)):
        if data is not None:
            other = read_data(data, section=name)
            found.append((name, data, other, tuple(other.utterances)))
    for (one, _, _, rows), (other_name, _, _, others) in itertools.combinations(found, 2):
        twice = {row.id for row in rows} & {row.id for row in others}
        if twice:
            raise ManifestError(
                f"{one} and {other_name} share {len(twice)} utterances: {_some(twice)}; remove them from one of them"
            )
    return found


def _by_rule(rows: Sequence[Utterance], rule: SplitRule) -> Mapping[str, Sequence[Utterance]]:
    if rule.by != "split":
        shares = {"test": rule.test, "dev": rule.dev, "train": 1 - rule.dev - rule.test}
        return split_by_shares(rows, shares, by=rule.by, salt=rule.salt)
    parts = {name: [row for row in rows if row.split == name] for name in ("train", "dev", "test")}
    missing = [name for name in ("train", "test") if not parts[name]]
    if missing:
        found = sorted({str(row.split) for row in rows})
        raise ManifestError(
            f"data: no utterance has {' or '.join(missing)} in its column split, found {_some(found)}; write the "
            "column, or divide by another one"
        )
    tell_left_out([row.id for row in rows if row.split not in parts], "neither train, dev nor test")
    return parts


def _answered(
    config: ProbeConfig, name: str, data: DataConfig, manifest: Manifest, rows: tuple[Utterance, ...]
) -> Split:
    """Find the answer of each row; rows without one are counted and listed."""
    kind = head_of(config.task).answers
    answers: Mapping[str, Answer]
    if kind == "frame_classes":
        answers, reason = _intervals(config, data, manifest, rows)
    else:
        answers, reason = _column(config.task.column, config, rows)  # type: ignore[attr-defined]
        if kind == "values":
            answers = _numbers(config.task.column, answers)  # type: ignore[attr-defined]
    split = Split(
        name=name,
        data=data,
        manifest=manifest,
        rows=rows,
        answers=tuple(answers.get(row.id, "") for row in rows),
        skipped={},
    ).only([row.id in answers for row in rows], reason)
    if not split.rows:
        raise ManifestError(f"{name}: none of the {len(rows)} utterances has an answer ({reason}); {_cure(config)}")
    return split


def _cure(config: ProbeConfig) -> str:
    if config.phones is not None:
        return "name the alignments of these utterances in phones"
    return f"fill the column in {config.answers or 'the manifest'}, or name another in task.column"


def _intervals(
    config: ProbeConfig, data: DataConfig, manifest: Manifest, rows: Sequence[Utterance]
) -> tuple[Mapping[str, Answer], str]:
    """Return the intervals of phones, or of speech and pause, by id, and what the others lack."""
    if isinstance(manifest, Shifted) and manifest.recorded:
        raise ConfigError(f"shift {manifest.shift} moves the times of frames, whose answers are those of the recording")
    if config.phones is None:
        speech: dict[str, Answer] = {}
        for row in rows:
            try:
                speech[row.id] = speech_intervals(manifest, row, vad=config.vad)
            except AudioError as error:
                if data.bad_audio == "stop":
                    raise
                tell(f"skipped: {error}")
        return speech, "bad audio"
    phones = read_phones(config.phones, tier=config.tier)
    found = {row.id: phones[row.id] for row in rows if phones.get(row.id)}
    if not found:
        raise LabelError(
            f"{config.phones}: aligns no utterance of the manifest; expected ids like {rows[0].id!r}, found "
            f"{_some(phones) or 'none'}"
        )
    return found, f"no phones in {config.phones}"


def _column(column: str, config: ProbeConfig, rows: Sequence[Utterance]) -> tuple[Mapping[str, Answer], str]:
    """Return the cells of a column that are not empty, by id, and what the others lack."""
    if config.answers is not None:
        table = read_table(config.answers, ("id",))
        names = sorted({name for cells in table.values() for name in cells})
        if column not in names:
            raise ManifestError(f"{config.answers}: has no column {column!r}, found {', '.join(names)}; correct one")
        cells = {row.id: table[row.id][column] for row in rows if row.id in table}
        reason = f"no {column} in {config.answers}"
    elif column in COLUMNS:
        cells = {row.id: str(getattr(row, column) or "") for row in rows}
        reason = f"no {column}"
    else:
        cells = {row.id: dict(row.more)[column] for row in rows if column in dict(row.more)}
        reason = f"no {column}"
        if not cells:
            more = sorted({name for row in rows for name, _ in row.more})
            raise ManifestError(
                f"no manifest has a column {column!r}, found {', '.join([*COLUMNS, *more])}; correct task.column, or "
                "name a table with the columns id and that one in the key answers"
            )
    return {key: cell.strip() for key, cell in cells.items() if cell.strip()}, reason


def _numbers(column: str, answers: Mapping[str, Answer]) -> Mapping[str, Answer]:
    numbers = {}
    for key, cell in answers.items():
        try:
            numbers[key] = float(str(cell))
        except ValueError:
            numbers[key] = float("nan")
        if not np.isfinite(numbers[key]):
            raise ManifestError(f"{key}: {column} is {cell!r}, expected a finite number, or nothing; correct it")
    return numbers


def _known_classes(splits: dict[str, Split], classes: Sequence[str], config: ProbeConfig) -> dict[str, Split]:
    """Leave out utterances whose class is not wanted, or not in the training set; name the smallest classes."""
    if classes:
        wanted = {*classes}
        splits = {
            name: split.only([answer in wanted for answer in split.answers], "a class that task.classes leaves out")
            for name, split in splits.items()
        }
        absent = wanted - {*splits["train"].answers}
        if absent:
            raise ManifestError(f"no utterance of the training set has the class {_some(absent)}; correct task.classes")
    counts = Counter(str(answer) for answer in splits["train"].answers)
    single = sorted(name for name, count in counts.items() if count == 1)
    if single:
        tell(f"classes with a single utterance in the training set: {len(single)}: {_some(single)}")
    for name, split in splits.items():
        unseen = sorted({str(answer) for answer in split.answers} - {*counts})
        if not unseen:
            continue
        left = split.only(
            [answer in counts for answer in split.answers],
            f"{len(unseen)} classes that the training set lacks ({_some(unseen)})",
        )
        if not left.rows:
            hint = "; shared_speakers=true and split.by=id put each speaker in both"
            raise ManifestError(
                f"{name}: no utterance has a class of the training set, which has {_some(counts)}, found "
                f"{_some(unseen)}; give both the same classes{hint if _is_speaker(config) else ''}"
            )
        splits[name] = left
    return splits


def _is_speaker(config: ProbeConfig) -> bool:
    return getattr(config.task, "column", "") == "speaker"


def _refuse_shared_speakers(splits: Mapping[str, Split]) -> None:
    unknown = [row.id for split in splits.values() for row in split.rows if row.speaker is None]
    if unknown:
        tell(
            f"{len(unknown)} utterances name no speaker ({_some(unknown)}), so it is not known whether splits share any"
        )
    for one, other in itertools.combinations(splits.values(), 2):
        shared = {row.speaker for row in one.rows if row.speaker} & {row.speaker for row in other.rows if row.speaker}
        if shared:
            raise ManifestError(
                f"{one.name} and {other.name} share {len(shared)} speakers: {_some(shared)}; divide by speaker, or set "
                "shared_speakers=true if the task needs it, as speaker identification does"
            )


def _some(names: "Sequence[str] | set[str] | Mapping[str, object] | set[str | None]") -> str:
    """Return the first three names."""
    each = sorted(map(str, names))
    return ", ".join(each[:3]) + (", ..." if len(each) > 3 else "")
