"""Stage `score`: reference texts and hypotheses of any format -> references with their groups."""

import dataclasses
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from speechssl.asr.scoring.evaluate import Evaluation, Reference, block_names, by_number
from speechssl.asr.transcripts.transcript_reading import Said, Texts, read_texts
from speechssl.audio.reading import AudioConfig
from speechssl.data.manifest import read_table
from speechssl.data.utterances import Manifest, Utterance
from speechssl.downstream.group_scores import UNKNOWN, Grouped, Ratio, gap_line, score_groups
from speechssl.errors import ConfigError, ManifestError
from speechssl.text.languages import is_code_like, read_language

__all__ = [
    "GROUPINGS",
    "cell_of",
    "error_ratios",
    "gap_lines",
    "gaps_of",
    "read_columns",
    "read_hypotheses",
    "references_of",
    "with_known_languages",
]

GROUPINGS = ("speaker", "language", "split", "duration", "snr")  # available without a table
_BANDS_S = (1.0, 2.0, 5.0, 10.0, 20.0)
_BANDS_DB = (0.0, 10.0, 20.0, 30.0)
_ANY_RATE = AudioConfig(min_sample_rate=1)


def references_of(
    source: Manifest | Texts,
    groupings: Sequence[str] = (),
    columns: Mapping[str, Mapping[str, str]] | None = None,
    *,
    sound: Manifest | None = None,
) -> list[Reference]:
    """Return texts with the groups of each utterance.

    Args:
        source: a manifest with a text for every utterance, or the result of `read_texts`.
        groupings: names from `GROUPINGS`, or of columns; `snr` reads the audio, `duration` may read its headers.
        columns: result of `read_columns`.
        sound: manifest of the audio, if `source` is not one.

    Raises:
        ManifestError: a text is missing, a grouping is not known, or an utterance has no group in it.
        AudioError: `snr` is requested and a file cannot be read.
    """
    rows: Sequence[Utterance | Said]
    if isinstance(source, Manifest):
        sound, rows = source, source.utterances
    else:
        sound, rows = sound or source.manifest, source.said
    is_heard = sound is not None and not {"snr", "duration"}.isdisjoint(groupings)
    heard = {row.id: row for row in sound.utterances} if sound is not None and is_heard else {}
    untranscribed = [row.id for row in rows if not row.text]
    if untranscribed:
        raise ManifestError(
            f"{len(untranscribed)} utterances have no text: {', '.join(untranscribed[:3])}; transcribe or remove them"
        )
    further = {row.id: row for row in sound.utterances if row.more} if sound is not None else {}
    known = {name: None for row in (columns or {}).values() for name in row}
    known |= {name: None for row in further.values() for name, _ in row.more}
    unknown = [name for name in groupings if name not in GROUPINGS and name not in known]
    if unknown:
        raise ManifestError(
            f"no grouping {unknown[0]!r}; take one of {', '.join([*GROUPINGS, *known])}, or name a table that has it"
        )
    return [
        Reference(
            id=row.id,
            text=row.text or "",
            speaker=row.speaker,
            language=row.language,
            groups={
                name: _group_of(sound, heard.get(row.id), further.get(row.id, row), name, columns or {})
                for name in groupings
            },
        )
        for row in rows
    ]


def with_known_languages(references: Sequence[Reference], where: Path) -> tuple[list[Reference], list[str]]:
    """Check the languages of references, on which normalisation depends.

    Args:
        references: references from a manifest.
        where: path of the manifest, for messages.

    Returns:
        The references, without languages that are words instead of codes (`English`); and a line about each word.

    Raises:
        ManifestError: a language has the form of a code that does not exist.
    """
    no_code: dict[str, list[str]] = {}
    for row in references:
        try:
            read_language(row.language)
        except ConfigError as error:
            if is_code_like(row.language or ""):
                raise ManifestError(f"{where}: {row.id}: column language: {error}") from error
            no_code.setdefault(row.language or "", []).append(row.id)
    known = [dataclasses.replace(row, language=None) if row.language in no_code else row for row in references]
    return known, [
        f"{where}: column language: {word!r} of {len(ids)} utterances ({', '.join(ids[:3])}) is no code; no language's "
        "rules of capitals and marks are applied to them; write a code, such as tr or tur for Turkish"
        for word, ids in no_code.items()
    ]


def error_ratios(evaluation: Evaluation) -> dict[str, Ratio]:
    """Return the CER and the WER of an evaluation as scores of its utterances' indices."""
    errors = {
        "CER": [row.character_errors for row in evaluation.utterances],
        "WER": [row.word_errors for row in evaluation.utterances],
    }
    return {
        name: Ratio(
            np.array([row.substitutions + row.deletions + row.insertions for row in rows], float),
            np.array([row.reference for row in rows], float),
        )
        for name, rows in errors.items()
    }


def gaps_of(references: Sequence[Reference], evaluation: Evaluation) -> dict[str, dict[str, Grouped]]:
    """Compare the groups of each grouping: by grouping, then CER and WER; bootstrap as the evaluation says."""
    config, ratios = evaluation.config, error_ratios(evaluation)
    blocks = block_names(references, config)
    return {
        grouping: {
            name: score_groups(
                ratio,
                [row.groups.get(grouping, UNKNOWN) for row in references],
                blocks,
                higher_is_better=False,
                samples=config.samples,
                level=config.level,
                seed=config.seed,
                order=by_number,
            )
            for name, ratio in ratios.items()
        }
        for grouping in evaluation.groups
    }


def gap_lines(gaps: Mapping[str, Mapping[str, Grouped]]) -> list[str]:
    """Describe the gaps of `gaps_of`, and the groups that are not ranked."""
    found = []
    for grouping, by_score in gaps.items():
        grouped = [*by_score.values()]
        found.append(f"gaps by {grouping}:")
        found += [f"  {gap_line(name, each.gap)}" for name, each in by_score.items() if each.gap is not None]
        found += [f"  {note}" for note in grouped[0].notes]
    return found


def read_hypotheses(path: Path) -> dict[str, str]:
    """Read hypotheses by utterance id, in any format of `asr.transcripts.transcript_reading`."""
    return read_texts(path, "hypothesis").by_id()


def read_columns(path: Path) -> dict[str, dict[str, str]]:
    """Read a table (tabs, or commas for `.csv`) of properties of utterances or speakers, by `id` or `speaker`.

    Raises:
        ManifestError: neither column exists, a row has too few cells, or a key occurs twice.
    """
    return read_table(path, ("id", "speaker"))


def _group_of(
    sound: Manifest | None,
    heard: Utterance | None,
    row: Utterance | Said,
    name: str,
    columns: Mapping[str, Mapping[str, str]],
) -> str:
    match name:
        case "speaker" | "language" | "split":
            return getattr(row, name) or UNKNOWN
        case "duration":
            duration_s = row.duration_s if heard is None else heard.duration_s
            return UNKNOWN if duration_s is None else _band(duration_s, _BANDS_S, "s")
        case "snr":
            from speechssl.asr.scoring.snr import estimate_snr_db
            from speechssl.data.waveform import read_utterance  # both import torch, which texts do not need

            if sound is None or heard is None:
                raise ManifestError(f"{row.id}: the references do not say where its audio is, which snr reads")
            return _band(estimate_snr_db(read_utterance(sound, heard, _ANY_RATE)), _BANDS_DB, "dB")
    return cell_of(row, name, columns) or UNKNOWN


def cell_of(row: Utterance | Said, name: str, columns: Mapping[str, Mapping[str, str]]) -> str:
    """Return the cell of an utterance in a column of a table by id or speaker, or else of its manifest; or ''."""
    told = columns.get(row.id) or columns.get(row.speaker or "") or {}
    if name in told or not isinstance(row, Utterance):
        return told.get(name) or ""
    return dict(row.more).get(name) or str(getattr(row, name, None) or "")


def _band(value: float, limits: Sequence[float], unit: str) -> str:
    """Return the name of the band that holds a value.

    Examples:
        >>> _band(3.0, (1.0, 2.0, 5.0), "s"), _band(0.5, (1.0, 2.0), "s"), _band(2.0, (1.0, 2.0), "s")
        ('from 2 to 5 s', 'below 1 s', 'over 2 s')
    """
    place = bisect_right(limits, value)
    if place == 0:
        return f"below {limits[0]:g} {unit}"
    if place == len(limits):
        return f"over {limits[-1]:g} {unit}"
    return f"from {limits[place - 1]:g} to {limits[place]:g} {unit}"
