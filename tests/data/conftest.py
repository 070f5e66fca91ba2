"""A small corpus with labels and tokens, that several tests of data read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.audio.reading import AudioConfig
from speechssl.data.dataset import SpeechDataset
from speechssl.data.labels import FrameLabels
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Manifest


@pytest.fixture
def corpus(tmp_path: Path, make_corpus: Callable[..., Path]) -> Manifest:
    """Give eight transcribed utterances."""
    return read_manifest(make_corpus(tmp_path / "corpus"))


@pytest.fixture
def dataset(corpus: Manifest, random_labels: Callable[..., FrameLabels]) -> SpeechDataset:
    """Give them with labels of MFCC and of a model's frames, and tokens of which the last tells them apart."""
    return SpeechDataset(
        corpus,
        AudioConfig(),
        hop=320,
        window=325,
        labels=[random_labels(corpus), random_labels(corpus, hop=320, window=325, clusters=9)],
        tokens={row.id: [2, 3, i + 2] for i, row in enumerate(corpus.utterances)},
    )
