"""Judges one file by its measurements and its row of the manifest."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from speechssl.audio.ffmpeg import surplus
from speechssl.audio.reading import SAMPLE_RATE, other_decoder
from speechssl.corpus.check.measure import Measured
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.data.utterances import Utterance

__all__ = ["FINDINGS", "Finding", "Severity", "findings_of_file"]

Severity = Literal["error", "warning"]

# An error stops training or makes results wrong; a warning is for a person to review.
FINDINGS: dict[str, tuple[Severity, str]] = {
    "unreadable": ("error", "cannot be opened or decoded"),
    "crashed": ("error", "ended the process that decoded it, or took too long"),
    "truncated": ("error", "fewer samples than its header or the manifest says"),
    "damaged": ("warning", "decoded, but the decoder reports a problem"),
    "header": ("error", "another rate, channels or length than the manifest says"),
    "not_finite": ("error", "NaN or infinite samples"),
    "silent": ("error", "no audible sound"),
    "clipped": ("warning", "cut off at full scale"),
    "dc_offset": ("warning", "its mean is not 0"),
    "rate": ("error", "recorded below the rate that training wants"),
    "narrowband": ("warning", "nothing in the upper band: upsampled, or removed by a codec"),
    "cancelling": ("error", "channels whose mean is silent, as if one were inverted"),
    "channels": ("warning", "channels that differ; training averages them"),
    "short": ("warning", "too short to learn from"),
    "long": ("warning", "too long for one utterance"),
    "duplicate": ("warning", "the same samples as another row of its manifest"),
    "similar": ("warning", "sounds like a copy of another row of its manifest"),
    "leaked_audio": ("error", "the same samples in a later manifest"),
    "leaked_similar": ("warning", "sounds like a copy of a row in a later manifest"),
    "leaked_text": ("warning", "the same text in a later manifest"),
    "leaked_speaker": ("warning", "a speaker who is also in a later manifest"),
    "text_rate": ("warning", "far more or fewer characters a second than others of its language"),
    "script": ("error", "letters outside the script"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fault of one utterance."""

    manifest: int  # index of the manifest
    id: str
    name: str  # a key of FINDINGS
    value: float | None  # the measurement that was judged, None where there is none
    message: str  # expected, found

    @property
    def severity(self) -> Severity:
        """Severity of this kind of finding."""
        return FINDINGS[self.name][0]


def findings_of_file(manifest: int, row: Utterance, measured: Measured, config: CheckConfig) -> list[Finding]:
    """Judge one file by itself; a quantity that cannot be measured, such as the bandwidth of silence, is skipped."""
    found = [*_of_decoding(row, measured), *(_of_sound(measured, config) if measured.num_samples else ())]
    return [Finding(manifest=manifest, id=row.id, name=name, value=value, message=text) for name, value, text in found]


def _of_decoding(row: Utterance, measured: Measured) -> Iterator[tuple[str, float | None, str]]:
    header, decoded = measured.header, measured.num_samples
    if header is None:
        yield "unreadable", None, measured.problem or "holds no samples; remove it"
        return
    is_of_rate = header.sample_rate == row.sample_rate
    listed = row.file_samples or row.num_samples
    off = listed - header.num_samples
    if off and is_of_rate and header.decoder is not None:
        if abs(off) > surplus(row.path, row.decoder):  # the tolerance of `read_audio`
            is_lost = off > 0 and row.decoder in (None, header.decoder)
            text = other_decoder(listed, row.decoder, header)
            yield "truncated" if is_lost else "header", header.num_samples, text
            return
        header = replace(header, num_samples=listed)
        decoded = min(row.num_samples, decoded + max(0, off))
    promised = row.num_samples if row.file_samples else max(header.num_samples, row.num_samples if is_of_rate else 0)
    if measured.problem or decoded < promised:
        reason = measured.problem or f"{decoded} of {promised} samples could be decoded; copy it again"
        yield "truncated", decoded, reason
    elif measured.complaint:
        yield "damaged", None, f"its decoder reports: {measured.complaint}"
    of_file = max(header.num_samples, decoded)
    if row.file_samples is None:
        of_file = max(decoded, promised)
    for what, of_manifest, found in (
        ("sample rate", row.sample_rate, header.sample_rate),
        ("channels", row.channels, header.channels),
        ("samples", listed, of_file),
    ):
        if of_manifest != found:
            yield "header", found, f"the manifest says {what} {of_manifest}, the file has {found}"


def _of_sound(measured: Measured, config: CheckConfig) -> Iterator[tuple[str, float | None, str]]:
    assert measured.header is not None  # there are samples
    rate = measured.header.sample_rate
    duration_s = measured.num_samples / rate
    if measured.not_finite:
        yield "not_finite", measured.not_finite, f"{measured.not_finite} samples are NaN or infinite"
    peak_db = 20 * math.log10(max(measured.peak, 1e-10))
    is_silent = peak_db < config.silent_db
    if is_silent:
        yield "silent", round(peak_db, 1), f"its peak is {peak_db:.0f} dB of full scale"
    if measured.clipped_share > config.clipped_share:
        share = f"{100 * measured.clipped_share:.2g} %"
        yield "clipped", measured.clipped_share, f"{share} of its samples are in runs at full scale"
    if abs(measured.mean) > config.dc_offset:
        yield "dc_offset", measured.mean, f"its mean is {measured.mean:.3f} of full scale, expected 0"
    if rate < config.min_sample_rate:
        yield "rate", rate, f"recorded at {rate} Hz, expected at least {config.min_sample_rate}"
    nominal_hz = min(rate, SAMPLE_RATE) / 2
    if not is_silent and measured.cut_hz and measured.cut_hz < config.bandwidth_share * nominal_hz:
        message = f"its sound ends at {measured.cut_hz:.0f} Hz, its rate promises {nominal_hz:.0f}"
        yield "narrowband", measured.cut_hz, message
    if measured.channel_difference > config.cancelling_difference:
        message = "its channels cancel: set data.audio.channels=first, or name one in the column `channel`"
        yield "cancelling", measured.channel_difference, message
    elif measured.channel_difference > config.channel_difference:
        lost = f"{100 * measured.channel_difference**2:.0f} %"
        yield "channels", measured.channel_difference, f"averaging its channels loses {lost} of their energy"
    if duration_s < config.min_duration_s:
        yield "short", duration_s, f"lasts {duration_s:.3f} s, expected at least {config.min_duration_s:g}"
    if duration_s > config.max_duration_s:
        yield "long", duration_s, f"lasts {duration_s:.1f} s, expected at most {config.max_duration_s:g}"
