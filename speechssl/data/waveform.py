"""Reads the waveform of one utterance, shifted if its manifest says so, with a fast path for 16 kHz mono PCM."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from speechssl.audio.pcm import PcmReader, read_pcm, to_float
from speechssl.audio.reading import SAMPLE_RATE, AudioConfig, normalize_waveform, prepare_samples, read_audio
from speechssl.data.given import Given
from speechssl.data.shifted import Shifted
from speechssl.data.utterances import Manifest, Utterance

__all__ = ["read_utterance"]


def read_utterance(
    manifest: Manifest,
    row: Utterance,
    config: AudioConfig,
    *,
    start: int = 0,
    num_samples: int | None = None,
    read: PcmReader = read_pcm,
    out: Tensor | None = None,
) -> Tensor:
    """Read an utterance of `manifest`, or a part of it, from memory, a file, an archive or a URL.

    Args:
        manifest: holds the root of the paths, the samples, or the shift under which audio is read.
        row: the utterance.
        config: policy for decoding.
        start: first sample wanted, at 16 kHz.
        num_samples: samples wanted, at 16 kHz; None for all from `start` on.
        read: fast reader of PCM, tried first for 16 kHz mono; `read_audio` is the fallback.
        out: (time,) float32, memory for the result, used if the audio fits.

    Returns:
        (time,) float32, 16 kHz.

    Raises:
        AudioError: the audio cannot be read, or differs from the manifest.
    """
    if isinstance(manifest, Shifted):
        limit_s = config.max_duration_s if num_samples is None else math.inf
        as_recorded = replace(config, normalize=False, max_duration_s=limit_s)

        def read_recorded(source: Manifest, each: Utterance, first: int, count: int | None) -> Tensor:
            return read_utterance(source, each, as_recorded, start=first, num_samples=count)

        shifted = manifest.waveform(row, read_recorded)
        wanted = shifted[start : None if num_samples is None else start + num_samples].contiguous()
        if config.normalize:
            normalize_waveform(wanted)
        return wanted
    if isinstance(manifest, Given) and row.id in manifest.samples:
        samples = manifest.samples[row.id]
        waveform = prepare_samples(samples, row.sample_rate, config, where=row.path, channel=row.channel)
        return waveform[start : None if num_samples is None else start + num_samples]
    usual = _read_usual(manifest, row, config, start=start, num_samples=num_samples, read=read, out=out)
    if usual is not None:
        return usual
    return read_audio(
        manifest.place(row),
        config,
        segment=row.segment,
        start=start,
        num_samples=num_samples,
        expected_samples=row.file_samples or row.num_samples,
        decoder=row.decoder,
    )


def _read_usual(
    manifest: Manifest,
    row: Utterance,
    config: AudioConfig,
    *,
    start: int,
    num_samples: int | None,
    read: PcmReader,
    out: Tensor | None,
) -> Tensor | None:
    """Read 16-bit mono audio at 16 kHz; None for other audio, or if anything seems wrong."""
    if (row.sample_rate, row.channels) != (SAMPLE_RATE, 1) or config.min_sample_rate > SAMPLE_RATE:
        return None
    count = row.num_samples - start
    if num_samples is not None:
        count = min(count, num_samples)
    elif row.duration_s > config.max_duration_s:
        return None
    if count <= 0:
        return None
    samples = read(manifest.place(row), row.start + start, count, row.file_samples or row.num_samples)
    if samples is None or (num_samples is None and start == 0 and not samples.any()):
        return None
    waveform = torch.empty(count) if out is None or len(out) < count else out[:count]
    to_float(samples, waveform.numpy())
    if config.normalize:
        normalize_waveform(waveform)
    return waveform
