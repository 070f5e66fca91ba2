"""Names of `audio.reading` under the path that scripts imported them from before the package was divided into wings."""

from speechssl.audio.reading import SAMPLE_RATE, AudioConfig, normalize_waveform, read_audio, read_header

__all__ = ["SAMPLE_RATE", "AudioConfig", "normalize_waveform", "read_audio", "read_header"]
