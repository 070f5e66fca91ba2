"""A fast reader for the usual case, 16-bit mono audio at 16 kHz, bit-identical to `read_audio`.

Decoding to integers takes a quarter of the time of decoding to float32 with all checks. Unusual or damaged files are
left to `read_audio`.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.audio.storage import Place, is_url
from speechssl.errors import AudioError, ConfigError

__all__ = ["PcmReader", "has_fairseq2", "native_reader", "read_pcm", "to_float"]

Samples = NDArray[np.int16] | NDArray[np.float32]  # integers, or floats as from `to_float`
PcmReader = Callable[[Place, int, int, int], Samples | None]  # arguments as for `read_pcm`

_PCM_16 = 2  # libsndfile's SF_FORMAT_PCM_16, in the lower half of a format
_HEADER = 4096  # bytes in which the samples of a plain wav file begin


def read_pcm(place: Place, first: int, count: int, file_samples: int) -> Samples | None:
    """Read samples with soundfile, seeking to the first.

    Args:
        place: the file.
        first: first sample wanted, counted in the file.
        count: number of samples wanted.
        file_samples: expected length of the file, in samples.

    Returns:
        (count,) int16, or float32 from flac, which decodes faster to float32; None if the file is not as expected, and
        `read_audio` must read it.
    """
    try:
        source = place.path if place.is_plain_file else place.open()
        with soundfile.SoundFile(source) as file:
            found = (file.subtype, file.samplerate, file.channels, file.frames)
            if found != ("PCM_16", SAMPLE_RATE, 1, file_samples) or "should be" in file.extra_info:
                return None
            if first:
                file.seek(first)
            kind = "float32" if file.format == "FLAC" else "int16"
            samples: Samples = np.empty(count, kind)
            found_samples = file.buffer_read_into(samples, dtype=kind)
    except (soundfile.LibsndfileError, AudioError):
        return None
    return samples if found_samples == count else None


def native_reader() -> PcmReader:
    """Return a reader like `read_pcm` that maps files into memory and decodes in C++, without Python's lock.

    It uses fairseq2's `FileMapper` and `AudioDecoder`, with the system's libsndfile. They decode whole files only:
    URLs, and parts that are less than half of a file, go through `read_pcm`.

    Raises:
        ConfigError: fairseq2 is not installed, or lacks a system library.
    """
    try:
        import torch
        from fairseq2.data.audio import AudioDecoder  # optional: the extra `fairseq2`
        from fairseq2.data.data_pipeline import FileMapper
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"data.loader=fairseq2 needs it ({error}); `pip install 'speechssl[fairseq2]'` (Python 3.11 or 3.12), "
            "or set data.loader=torch"
        ) from error
    decode_wav, decode_flac = AudioDecoder(dtype=torch.int16), AudioDecoder(dtype=torch.float32)
    find = FileMapper()

    def read(place: Place, first: int, count: int, file_samples: int) -> Samples | None:
        if 2 * count < file_samples or is_url(place.path) or (place.size is None and ":" in place.path):
            return read_pcm(place, first, count, file_samples)
        try:
            block = find(str(place))["data"]
            if not _is_whole(block, file_samples):
                return None
            found = (decode_flac if _start(block)[:4] == b"fLaC" else decode_wav)(block)
        except Exception:  # its errors have no common class; `read_audio` reports the cause
            return None
        samples = found["waveform"].numpy()
        is_usual = found["format"] & 0xFFFF == _PCM_16 and found["sample_rate"] == SAMPLE_RATE
        return samples[first : first + count] if is_usual and samples.shape == (file_samples,) else None

    return read


def has_fairseq2() -> bool:
    """Return whether fairseq2 is installed, without importing it."""
    return find_spec("fairseq2") is not None and find_spec("fairseq2n") is not None


def to_float(samples: Samples, out: NDArray[np.float32]) -> None:
    """Write 16-bit samples as float32 from -1 to 1; exact, as both are multiples of 2**-15."""
    np.multiply(samples, np.float32(2**-15 if samples.dtype == np.int16 else 1), out=out)


def _is_whole(block: Any, file_samples: int) -> bool:
    """Return whether the bytes are flac, or complete wav of exactly `file_samples`."""
    start = _start(block)
    if start[:4] == b"fLaC":
        return True
    at = start.find(b"data", 12)
    declared = int.from_bytes(start[at + 4 : at + 8], "little")
    return start[:4] == b"RIFF" and at > 0 and declared == 2 * file_samples <= len(block) - at - 8


def _start(block: Any) -> bytes:
    return bytes(memoryview(block)[:_HEADER])
