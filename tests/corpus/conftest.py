"""A small corpus of sound files with everything a manifest can say of them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.corpus.building import build_manifest
from speechssl.data.utterances import Manifest

SAID = {  # path: text, speaker, language, split
    "a/one.wav": ("to be", "anna", "en", "train"),
    "a/two words.flac": ("not to, be", "anna", "en", "train"),
    "b/tři.wav": ("být “či” nebýt", "běta", "cs", "dev"),
    "b/vier.wav": ("zijn", "bert", "nl", "dev"),
}


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory, write_wav: Callable[..., Path]) -> Path:
    """Write the files, all 16 kHz mono, once."""
    folder = tmp_path_factory.mktemp("sounds")
    for seed, name in enumerate(SAID):
        write_wav(folder / name, 1601 + 800 * seed, seed=seed)
    return folder


@pytest.fixture
def corpus(sounds: Path, tmp_path: Path) -> Manifest:
    """Give a manifest, with ids that are not the ones of the paths, of files in a folder of its own."""
    shutil.copytree(sounds, tmp_path / "speech")
    bare, _ = build_manifest(tmp_path / "speech", workers=1)
    rows = []
    for row in bare.utterances:
        text, speaker, language, split = SAID[row.path]
        key = f"{speaker}-{row.num_samples}"
        rows.append(replace(row, id=key, text=text, speaker=speaker, language=language, split=split))
    return Manifest(root=tmp_path / "speech", utterances=tuple(rows))
