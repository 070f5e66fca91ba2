"""Made-up recordings with changing bands, as speech has, and manifests of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Manifest, Utterance

RATE = 16_000


def make_speech(duration_s: float = 1.5, *, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Make twelve tones from 150 Hz to 0.45 of the rate, each of another level every 50 ms, and noise: (time,)."""
    random = np.random.default_rng(seed)
    num_samples = round(duration_s * rate)
    steps = num_samples // (rate // 20) + 1
    signal = random.normal(0, 0.003, num_samples)
    for hz in np.geomspace(150, 0.45 * rate, 12):
        levels = np.repeat(random.uniform(0.0, 0.08, steps), rate // 20)[:num_samples]
        signal += levels * np.sin(2 * np.pi * (hz * np.arange(num_samples) / rate + random.uniform()))
    return signal.astype(np.float32)


@pytest.fixture(scope="session")
def speech() -> Callable[..., np.ndarray]:
    """Give the function that makes a recording of a length and a seed."""
    return make_speech


@pytest.fixture(scope="session")
def make_manifest() -> Callable[..., Manifest]:
    """Give a function that writes waveforms by file name, lists them, and returns the manifest."""

    def make(folder: Path, name: str, waveforms: dict[str, np.ndarray], **columns: dict[str, str]) -> Manifest:
        rows = []
        for file, waveform in waveforms.items():
            path = folder / "audio" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(str(path), waveform, RATE)
            key = path.stem
            more = {column: values[key] for column, values in columns.items() if key in values}
            channels = waveform.shape[1] if waveform.ndim == 2 else 1
            rows.append(
                Utterance(
                    id=key,
                    path=f"audio/{file}",
                    num_samples=len(waveform),
                    sample_rate=RATE,
                    channels=channels,
                    **more,
                )
            )
        write_manifest(folder / name, rows)
        return read_manifest(folder / name)

    return make
