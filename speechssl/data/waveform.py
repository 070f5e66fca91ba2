"""One utterance of a manifest -> its waveform, wherever it lies: the fast way where it will do."""

import torch
from torch import Tensor

from speechssl.audio.pcm import PcmReader, read_pcm, to_float
from speechssl.audio.reading import SAMPLE_RATE, AudioConfig, normalize_waveform, prepare_samples, read_audio
from speechssl.data.given import Given
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
    """Read an utterance that `manifest` lists, or a part of it, wherever it lies.

    Args:
        manifest: says where paths start from.
        row: the utterance.
        config: policy for decoding.
        start: first sample wanted, at 16 kHz.
        num_samples: wanted, at 16 kHz; None for all from `start` on.
        read: tried first, where the audio is of the usual kind; `read_audio` looks at what it leaves.
        out: (time,) float32, room that is used if the audio fits.

    Returns:
        (time,) float32, 16 kHz.

    Raises:
        AudioError: it cannot be read, or is not as the manifest says.
    """
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
    """Read 16-bit mono audio at 16 kHz; None where it is not that, or something seems wrong."""
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
