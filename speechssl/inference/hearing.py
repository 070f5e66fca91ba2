"""What a model in memory is given to hear, as a manifest, and its results as they were asked for: one, or a list."""

from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor

from speechssl.data.given import Audio, Channels, is_one, list_given
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioSettingError, ConfigError
from speechssl.stages.data import read_waveform
from speechssl.stages.features import FeatureSource

__all__ = ["Heard", "as_given", "listed", "waveform_of"]

Heard = Audio | Iterable[Audio] | Manifest
Result = TypeVar("Result")


def listed(audio: Heard, sample_rate: int | None, channels: Channels | None) -> Manifest:
    """Return a manifest of what is to be heard.

    Raises:
        AudioError: as `list_given`.
        ConfigError: arrays without a sample rate, or a manifest with one, or with the number of a channel.
    """
    if isinstance(audio, Manifest):
        if sample_rate is not None:
            raise ConfigError("sample_rate is for arrays and tensors; a manifest says its files' rates: leave it out")
        if isinstance(channels, int):
            raise ConfigError("channels: a manifest numbers them in its column `channel`; leave the number out")
        return audio
    return list_given(audio, sample_rate=sample_rate, channels=channels)


def waveform_of(manifest: Manifest, row: Utterance, source: FeatureSource) -> Tensor:
    """Read an utterance; an error names settings as methods of models do."""
    try:
        return read_waveform(manifest, row, audio=source.audio, window=source.window)
    except AudioSettingError as error:
        raise error.under("") from None


def as_given(audio: Heard, found: list[Result]) -> Result | list[Result]:
    """Return one result for one utterance, a list for several."""
    return found[0] if is_one(audio) else found
