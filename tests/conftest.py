"""Small corpora and small models that several folders of tests share."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.data.labels import FrameLabels, LabelSource
from speechssl.data.manifest import write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.model.encoder import EncoderConfig
from speechssl.model.hourglass import HourglassConfig
from speechssl.model.transformer import TransformerConfig

TEXTS = ("one two", "two", "one", "six two one", "ten", "six", "ten two", "one ten")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit-for-bit comparisons need one thread; no test runs inside somebody's torchrun job."""
    torch.set_num_threads(1)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert "TORCHELASTIC_RUN_ID" not in os.environ


def voice(num_samples: int, *, seed: int = 0, rate: int = 16_000) -> np.ndarray:
    """Make a tone with noise, (time,) float32."""
    random = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * random.uniform(100, 1000) * np.arange(num_samples) / rate)
    return (0.3 * tone + random.normal(0, 0.05, num_samples)).astype(np.float32)


@pytest.fixture(scope="session")
def write_wav() -> Callable[..., Path]:
    """Give a function that writes a tone with noise to a sound file of any kind, and returns its path."""

    def write(
        path: Path, num_samples: int = 16_000, *, rate: int = 16_000, channels: int = 1, seed: int = 0, **kind: str
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = [voice(num_samples, seed=seed + channel, rate=rate) for channel in range(channels)]
        soundfile.write(str(path), np.stack(columns, 1), rate, **kind)
        return path

    return write


@pytest.fixture(scope="session")
def make_utterances() -> Callable[..., list[Utterance]]:
    """Give a function that lists utterances of the given lengths in samples, without any audio."""

    def make(lengths: Iterable[int], *, rate: int = 16_000) -> list[Utterance]:
        return [
            Utterance(id=f"u{i:04d}", path=f"u{i:04d}.wav", num_samples=n, sample_rate=rate, channels=1)
            for i, n in enumerate(lengths)
        ]

    return make


@pytest.fixture(scope="session")
def make_corpus(write_wav: Callable[..., Path], make_utterances: Callable[..., list[Utterance]]) -> Callable[..., Path]:
    """Give a function that writes audio of the given lengths, transcribed, and returns the manifest's path."""

    def make(folder: Path, lengths: Iterable[int] = range(8_000, 16_000, 1_000)) -> Path:
        rows = []
        for i, row in enumerate(make_utterances(lengths)):
            write_wav(folder / row.path, row.num_samples, seed=10 * i)
            rows.append(Utterance(**{**vars(row), "text": TEXTS[i % len(TEXTS)]}))
        write_manifest(folder / "manifest.tsv", rows)
        return folder / "manifest.tsv"

    return make


@pytest.fixture(scope="session")
def tiny_encoder() -> EncoderConfig:
    """A trunk of two layers, 20 ms a frame, with every kind of dropout switched on."""
    return EncoderConfig(
        conv=((8, 10, 5), (16, 4, 4), (16, 4, 4), (16, 4, 4)),
        transformer=TransformerConfig(
            dim=32, num_layers=2, num_heads=2, ffn_dim=64, position_kernel=8, position_groups=4, layer_drop=0.2
        ),
    )


@pytest.fixture(scope="session")
def log_mel_encoder(tiny_encoder: EncoderConfig) -> EncoderConfig:
    """The tiny trunk with log-mel input, 20 ms a frame."""
    return dataclasses.replace(tiny_encoder, input="log_mel", log_mel_bins=40, conv=((16, 3, 2), (16, 3, 1)))


@pytest.fixture(scope="session")
def hourglass_encoder(tiny_encoder: EncoderConfig) -> EncoderConfig:
    """The tiny trunk whose first layer runs on means of two frames."""
    transformer = dataclasses.replace(tiny_encoder.transformer, hourglass=HourglassConfig(before=0))
    return dataclasses.replace(tiny_encoder, transformer=transformer)


@pytest.fixture(scope="session")
def random_labels() -> Callable[..., FrameLabels]:
    """Give a function that draws labels for every utterance of a manifest, with the geometry of MFCC frames."""

    def draw(manifest: Manifest, clusters: int = 5, *, hop: int = 160, window: int = 400) -> FrameLabels:
        source = LabelSource(clusters=clusters, hop=hop, window=window, features="mfcc", kmeans="0123")
        random = np.random.default_rng(0)
        units = {
            row.id: random.integers(clusters, size=source.count(row.num_samples_16k)).astype(np.int16)
            for row in manifest.utterances
        }
        return FrameLabels(source=source, units=units)

    return draw
