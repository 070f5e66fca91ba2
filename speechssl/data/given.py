"""Builds a manifest from audio given in Python: arrays, tensors, mappings and file names."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeGuard, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.audio.reading import read_header
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioError, ConfigError

__all__ = ["Audio", "Channels", "Given", "is_one", "list_given"]

Audio: TypeAlias = str | Path | NDArray[Any] | Tensor | Mapping[str, Any]
Channels: TypeAlias = Literal["mean", "first"] | int

_MOST_CHANNELS = 16  # an axis of an array that is no longer than this may be that of channels
_KINDS = "give a file's name, an array of numbers as numpy.asarray makes it, or a whole Manifest"
_FULL_SCALE = {"int8": 2**7, "int16": 2**15, "int32": 2**31}


@dataclass(frozen=True, kw_only=True)
class Given(Manifest):
    """A manifest with some utterances in memory; ids are the indices in the order given."""

    samples: Mapping[str, NDArray[np.float32]]  # (time, channels) by id, at the utterance's rate


def is_one(audio: object) -> TypeGuard[Audio]:
    """Return whether `audio` is one utterance, not several."""
    return isinstance(audio, str | Path | np.ndarray | Tensor | Mapping)


def list_given(
    audio: Audio | Iterable[Audio], *, sample_rate: int | None = None, channels: Channels | None = None
) -> Given:
    """Build a manifest of audio of any kind.

    Args:
        audio: a file name; an array or tensor of samples, (time,), or with an axis of channels; a mapping with `array`
            and `sampling_rate`, as in the package datasets; or several of these. Floats have full scale 1, integers
            the full scale of their type.
        sample_rate: sample rate of all arrays and tensors, in Hz; files and mappings state their own.
        channels: which of several channels to use; None: those of a file are mixed as the model's audio was, those of
            an array are refused.

    Raises:
        AudioError: samples have an unusable type, shape or number of channels, or a file cannot be read.
        ConfigError: an array has no sample rate, a rate is given but not needed, or a channel does not exist.
    """
    if channels not in (None, "mean", "first") and (
        isinstance(channels, bool) or not isinstance(channels, int) or channels < 0
    ):
        raise ConfigError(f"channels={channels!r}: expected 'mean', 'first' or the number of one, counted from 0")
    if not is_one(audio) and (isinstance(audio, bytes) or not isinstance(audio, Iterable)):
        raise AudioError(f"expected audio, or several in a list, found {type(audio).__name__}; {_KINDS}")
    each: list[Any] = [audio] if is_one(audio) else list(cast(Iterable[Any], audio))
    if sample_rate is not None and each and all(isinstance(one, str | Path) for one in each):
        raise ConfigError(f"sample_rate={sample_rate} is for arrays and tensors; files say theirs: leave it out")
    samples: dict[str, NDArray[np.float32]] = {}
    rows = []
    for number, one in enumerate(each):
        key = str(number)
        if isinstance(one, str | Path):
            path = Path(one).absolute()
            header = read_header(path)
            rate, length, count = header.sample_rate, header.num_samples, header.channels
        else:
            path = Path(name := f"array {number}")
            held, stated = (one.get("array"), one.get("sampling_rate")) if isinstance(one, Mapping) else (one, None)
            samples[key] = _columns(held, name, channels)
            rate, (length, count) = _whole_rate(stated or sample_rate, name), samples[key].shape
            if isinstance(channels, int) and channels >= count:
                raise ConfigError(f"{name}: has {count} channels, counted from 0, found channels={channels}")
        rows.append(
            Utterance(
                id=key,
                path=str(path),
                num_samples=length,
                sample_rate=rate,
                channels=count,
                channel=channels if isinstance(channels, int) and count > 1 else None,
            )
        )
    return Given(root=Path(), utterances=tuple(rows), samples=samples)


def _whole_rate(rate: float | None, name: str) -> int:
    """Check a sample rate in Hz.

    Raises:
        ConfigError: the rate is missing, or is not a positive whole number.
    """
    if rate is None:
        raise ConfigError(f"{name}: say its sample_rate, in Hz; only files say theirs themselves")
    if not (math.isfinite(rate) and rate == int(rate) and rate > 0):
        raise ConfigError(f"{name}: sample_rate={rate}: expected a whole number above 0, in Hz")
    return int(rate)


def _columns(given: object, name: str, channels: Channels | None) -> NDArray[np.float32]:
    """Convert samples to (time, channels) float32 of full scale 1.

    Raises:
        AudioError: the type or shape is wrong, or there are several channels and `channels` is None.
    """
    if not isinstance(given, np.ndarray | Tensor):
        raise AudioError(
            f"{name}: expected the name of a file, an array or a tensor, found {type(given).__name__}; {_KINDS}"
        )
    values = given.detach().cpu() if isinstance(given, Tensor) else given
    if isinstance(values, Tensor):
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    scaled = _scaled(values, name)
    if scaled.size == 0:
        raise AudioError(f"{name}: holds no samples; leave it out")
    if scaled.ndim == 1:
        return scaled[:, None]
    if scaled.ndim != 2 or min(scaled.shape) > _MOST_CHANNELS:
        raise AudioError(
            f"{name}: has the shape {scaled.shape}, expected (time,), or (time, channels) or (channels, time) of up to "
            f"{_MOST_CHANNELS} channels; give several utterances as a list"
        )
    columns = scaled if scaled.shape[1] <= scaled.shape[0] else scaled.T
    if columns.shape[1] > 1 and channels is None:
        raise AudioError(
            f"{name}: has {columns.shape[1]} channels; say channels='mean', channels='first' or the number of one, "
            "counted from 0; several utterances are a list, not an array"
        )
    return columns


def _scaled(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Convert samples to float32 of full scale 1."""
    kind = str(values.dtype)
    if np.issubdtype(values.dtype, np.floating):
        return values.astype(np.float32)
    if kind in _FULL_SCALE:
        return (values / np.float64(_FULL_SCALE[kind])).astype(np.float32)
    if kind == "uint8":
        return ((values.astype(np.float64) - 128) / 128).astype(np.float32)
    raise AudioError(
        f"{name}: holds {kind}, whose full scale is not known; expected floats of full scale 1, or "
        f"{', '.join(_FULL_SCALE)} or uint8: convert it, as by `.astype('int16')` where the samples are of 16 bits"
    )
