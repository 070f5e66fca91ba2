"""Broken files of every kind: each gives a finding or none, and never ends the check."""

from pathlib import Path

import numpy as np
import pytest

from speechssl.corpus.check.checking import check_manifests
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.data.utterances import Manifest, Utterance

SUFFIXES = ("wav", "flac", "ogg", "mp3", "opus")


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Cut, overwrite, double, or empty a part of a file; half of the time near its beginning."""
    limit = 200 if random.random() < 0.5 else len(data)
    start, size = int(random.integers(limit)), int(random.integers(1, 64))
    match random.integers(5):
        case 0:
            return data[:start]
        case 1:
            return data[:start] + random.bytes(size) + data[start + size :]
        case 2:
            return data[:start] + data[start + size :]
        case 3:
            return data[: start + size] + data[start:]
        case _:
            return data[:start] + bytes(size) + data[start + size :]


def write_mutations(folder: Path, count: int, speech) -> Manifest:
    import soundfile

    random = np.random.default_rng(0)
    originals = {}
    for suffix in SUFFIXES:
        path = folder / f"original.{suffix}"
        soundfile.write(str(path), speech(0.7), 16_000, format="OGG" if suffix == "opus" else None, **kind(suffix))
        originals[suffix] = path.read_bytes()
    rows = []
    for number in range(count):
        suffix = SUFFIXES[number % len(SUFFIXES)]
        name = f"{number}.{suffix}"
        (folder / name).write_bytes(mutate(originals[suffix], random))
        rows.append(Utterance(id=name, path=name, num_samples=11_200, sample_rate=16_000, channels=1))
    return Manifest(root=folder, utterances=tuple(rows))


def kind(suffix: str) -> dict[str, str]:
    return {"subtype": "OPUS"} if suffix == "opus" else {}


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
def test_every_broken_file_is_looked_at_and_none_ends_the_check(tmp_path, capfd, speech, count):
    manifest = write_mutations(tmp_path, count, speech)
    report = check_manifests([manifest], ["m"], CheckConfig(file_limit_s=20), jobs=2)
    assert [checked.row.id for checked in report.rows] == [row.id for row in manifest.utterances]
    assert [finding for finding in report.findings if finding.name == "crashed"] == []
    found = {finding.name for finding in report.findings}
    assert {"unreadable", "truncated"} <= found
    assert "Traceback" not in capfd.readouterr().err
