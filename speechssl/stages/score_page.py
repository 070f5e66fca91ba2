"""HTML page of a scoring in one file: error rates, audio of the worst utterances, and a model's best tokens over it."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile
from torch import Tensor

from speechssl.asr.scoring.error_page import PathToken, Recording, Report, System, write_score_page
from speechssl.asr.scoring.evaluate import Evaluation, Reference
from speechssl.asr.scoring.intervals import Difference
from speechssl.asr.scoring.score_summary import advice
from speechssl.asr.transcripts.timed import best_path
from speechssl.asr.transcripts.transcript_reading import read_json_lines
from speechssl.audio.reading import SAMPLE_RATE, AudioConfig
from speechssl.config import configuration
from speechssl.data.dataset import read_utterance
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioError, ConfigError, ManifestError
from speechssl.hub.model_formats import read_saved
from speechssl.parallel import pick_device
from speechssl.stages.posteriors import PosteriorConfig, log_posteriors

__all__ = ["PageConfig", "read_confidences", "write_page"]

_ANY_RATE = AudioConfig(min_sample_rate=1)
_LEAST_BYTES_PER_S = 4_000  # lower bound for FLAC: utterances that cannot fit are not read
_BASE64 = 4 / 3


@configuration
class PageConfig:
    """Limits on the audio in the page."""

    worst: int = 100  # utterances with audio: those with the highest WER of the first system
    audio_mb: float = 30.0  # size of the audio in the file, at most

    def __post_init__(self) -> None:
        if self.worst < 0 or not self.audio_mb >= 0:
            raise ConfigError(f"score: worst and audio_mb must be 0 or more, found {self.worst}, {self.audio_mb}")


@dataclass(frozen=True, kw_only=True)
class _Sounds:
    """FLAC by utterance id, and the utterances left out."""

    flac: Mapping[str, bytes]
    too_large: int
    unreadable: Sequence[str]


def write_page(
    out: Path,
    source: Path,
    manifest: Manifest | None,
    references: Sequence[Reference],
    systems: Sequence[tuple[Path, Evaluation]],
    differences: tuple[Difference, Difference] | None = None,
    *,
    confidences: Mapping[str, float],
    model: Path | None = None,
    config: PageConfig,
) -> list[str]:
    """Write the page of a scoring.

    Args:
        out: the file.
        source: the file of the references.
        manifest: manifest of the audio; None if the references name no audio: the page has no sound then.
        references: the references that were scored.
        systems: one or two, each with the file of its texts.
        differences: result of `judge` for two systems.
        confidences: confidences of the first system by utterance id; some, all or none.
        model: folder of a fine-tuned model, whose best tokens are drawn over the spectrograms.
        config: how much audio.

    Returns:
        The notes of the page on what it lacks.

    Raises:
        CheckpointError: `model` is not a fine-tuned model.
    """
    ranked = sorted(
        systems[0][1].utterances,
        key=lambda row: (-row.word_errors.rate, -row.character_errors.rate, row.id),
    )
    rows = {} if manifest is None else {row.id: row for row in manifest.utterances}
    chosen = [rows[row.id] for row in ranked[: config.worst] if row.id in rows]
    sounds = _Sounds(flac={}, too_large=0, unreadable=())
    paths: dict[str, list[PathToken]] = {}
    rate, notes = 50.0, [f"no sound: {source} does not say where the audio is"]
    if manifest is not None:
        sounds = _read_sounds(manifest, chosen, config.audio_mb * 1e6)
        notes = _notes(sounds, len(chosen), config)
    if model is not None and manifest is not None:
        heard = replace(manifest, utterances=tuple(row for row in chosen if row.id in sounds.flac))
        paths, rate, skipped = _paths(model, heard)
        notes.append(f"tokens over the spectrograms: the most probable of each frame by {model}")
        notes += [f"no tokens: {reason}" for reason in skipped]
    names = _short_names([path for path, _ in systems])
    report = Report(
        name=_short_names([source])[0],
        references=references,
        systems=[System(name=name, evaluation=each) for name, (_, each) in zip(names, systems, strict=True)],
        differences=differences,
        durations_s={row.id: row.duration_s for row in rows.values()},
        confidences=confidences,
        recordings={key: Recording(flac=flac, path=paths.get(key, ())) for key, flac in sounds.flac.items()},
        frames_per_second=rate,
        sources={"references": str(source)} | {name: str(path) for name, (path, _) in zip(names, systems, strict=True)},
        notes=[*advice(systems[0][1]), *notes],
    )
    write_score_page(report, out)
    return notes


def read_confidences(hypotheses: Path, columns: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, float]:
    """Return a system's confidences by utterance id; empty if there are none.

    Args:
        hypotheses: file of its texts; `.jsonl` of `speechssl transcribe` holds confidences.
        columns: result of `read_columns`; its column `confidence` has precedence. Empty cells are left out.

    Raises:
        ManifestError: a value is not a finite number.
    """
    cells: dict[str, str] = {}
    if hypotheses.suffix.lower() == ".jsonl":
        cells = {key: str(row.get("confidence", "")) for key, row in read_json_lines(hypotheses).items()}
    cells |= {key: row["confidence"] for key, row in (columns or {}).items() if row.get("confidence", "").strip()}
    return {key: _number(cell, key) for key, cell in cells.items() if cell}


def _number(cell: str, key: str) -> float:
    try:
        found = float(cell)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ManifestError(f"{key}: confidence is {cell!r}, expected a number; correct or empty the cell")
    return found


def _read_sounds(manifest: Manifest, rows: Sequence[Utterance], most_bytes: float) -> _Sounds:
    """Encode utterances in order within the limit of size; one too long for the remaining space is skipped."""
    flac: dict[str, bytes] = {}
    unreadable: list[str] = []
    left, too_large = most_bytes / _BASE64, 0
    for row in rows:
        if row.duration_s * _LEAST_BYTES_PER_S > left:
            too_large += 1
            continue
        try:
            encoded = _flac(read_utterance(manifest, row, _ANY_RATE))
        except AudioError as error:
            unreadable.append(str(error))
            continue
        if len(encoded) > left:
            too_large += 1
            continue
        flac[row.id] = encoded
        left -= len(encoded)
    return _Sounds(flac=flac, too_large=too_large, unreadable=unreadable)


def _flac(waveform: Tensor) -> bytes:
    """Encode (time,) float32 at 16 kHz with 16 bits per sample."""
    file = io.BytesIO()
    soundfile.write(file, waveform.numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Shorten paths to the parts in which they differ.

    Examples:
        >>> _short_names([Path("/runs/hubert/test.tsv")])
        ['hubert/test.tsv']
        >>> _short_names([Path("/runs/hubert/asr/test.tsv"), Path("/runs/mfcc/asr/test.tsv")])
        ['hubert', 'mfcc']
    """
    if len(paths) == 1 or len(set(paths)) < len(paths):
        return [
            "/".join(path.parts[-2:]) + (" again" if path in paths[:place] else "") for place, path in enumerate(paths)
        ]
    parts = [list(path.parts) for path in paths]
    for end in (0, -1):
        while all(parts) and len({each[end] for each in parts}) == 1:
            for each in parts:
                del each[end]
    return ["/".join(each) for each in parts] if all(parts) else [str(path) for path in paths]


def _notes(sounds: _Sounds, wanted: int, config: PageConfig) -> list[str]:
    notes = [f"audio of {len(sounds.flac)} utterances, of the {wanted} with the highest WER: 16 kHz mono, FLAC"]
    if sounds.too_large:
        notes.append(f"{sounds.too_large} of the worst have no audio here: the limit is {config.audio_mb:g} MB")
    if sounds.unreadable:
        named = "; ".join(sounds.unreadable[:3])
        notes.append(f"the audio of {len(sounds.unreadable)} utterances cannot be read: {named}")
    return notes


def _paths(run: Path, manifest: Manifest) -> tuple[dict[str, list[PathToken]], float, list[str]]:
    """Return a model's best tokens by id, its frames per second, and the reason for each utterance left out."""
    saved = read_saved(run)
    model, vocabulary = saved.recogniser()
    model.to(pick_device())
    skipped: list[str] = []
    found = log_posteriors(model, manifest, saved.description.audio, PosteriorConfig(), skipped=skipped)
    paths = {
        key: [
            PathToken(vocabulary.tokens[token.id], token.start, token.end - token.start, token.probability)
            for token in best_path(log_probs)
        ]
        for key, log_probs in found
    }
    return paths, SAMPLE_RATE / model.encoder.config.hop, skipped
