"""Small folders laid out exactly like the real corpora, with noise for speech."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

VOICE = Path("usr/share/festival/voices/russian/msu_ru_nsh_clunits")
SOUNDS = Path("usr/share/asterisk/sounds")


def noise(name: str, seconds: float, rate: int = 16_000) -> np.ndarray:
    """Make noise that differs from name to name and is the same every time."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest())
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)).astype("float32")


@pytest.fixture
def write_audio() -> Callable[..., Path]:
    def write(path: Path, seconds: float = 0.25, rate: int = 16_000) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(str(path), noise(str(path.name), seconds, rate), rate)
        return path

    return write


@pytest.fixture
def festvox_tree(tmp_path: Path, write_audio: Callable[..., Path]) -> Callable[..., Path]:
    """Give a function that lays out festvox-ru with the given texts, as an unpacked package."""

    def lay_out(texts: dict[str, str]) -> Path:
        tree = tmp_path / "festvox"
        for folder in ("etc", "lab", "wav"):
            (tree / VOICE / folder).mkdir(parents=True, exist_ok=True)
        lines = [f'( {name} "{text}" )' for name, text in texts.items()]
        (tree / VOICE / "etc/txt.done.data").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name in texts:
            write_audio(tree / VOICE / f"wav/{name}.wav")
            (tree / VOICE / f"lab/{name}.lab").write_text("#\n0.05000 125 pau\n0.20000 125 aa\n0.25000 125 pau\n")
        documents = tree / "usr/share/doc/festvox-ru"
        documents.mkdir(parents=True, exist_ok=True)
        (documents / "changelog.Debian.gz").write_bytes(
            gzip.compress(b"festvox-ru (0.5+dfsg-6) unstable; urgency=low\n")
        )
        return tree

    return lay_out


@pytest.fixture
def asterisk_tree(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that adds one language of Asterisk's prompts to an unpacked tree."""

    def lay_out(voice: str, texts: dict[str, str], untexted: tuple[str, ...] = ()) -> Path:
        tree = tmp_path / "asterisk"
        language = voice[:2]
        for key in (*texts, *untexted):
            path = tree / SOUNDS / voice / f"{key}.g722"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(hashlib.blake2b(f"{language}/{key}".encode()).digest() * 32)  # any bytes are G.722
        documents = tree / f"usr/share/doc/asterisk-core-sounds-{language}"
        documents.mkdir(parents=True, exist_ok=True)
        lines = ["; Core Asterisk Sounds", "", *(f"{key}: {text}" for key, text in texts.items())]
        packed = gzip.compress(("\ufeff" + "\n".join(lines) + "\n").encode())
        (documents / f"core-sounds-{language}.txt.gz").write_bytes(packed)
        return tree

    return lay_out
