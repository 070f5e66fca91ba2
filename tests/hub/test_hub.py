"""Models by their name on the hub, offline, from a cache laid out as huggingface_hub lays it out."""

from pathlib import Path

import pytest

from speechssl.errors import CheckpointError
from speechssl.hub.download import fetch
from speechssl.hub.model_formats import read_saved
from speechssl.hub.saved import SavedModel
from tests.hub.models import model_of

constants = pytest.importorskip("huggingface_hub.constants")

COMMITS = {"main": "a" * 40, "older/v1.0": "b" * 40}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, name: str, files: dict[str, bytes], *, revision: str = "main") -> Path:
    """Put files of a repository where huggingface_hub would: blobs, a snapshot that links to them, a reference."""
    repo = cache / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMITS[revision]
    for folder in (repo / "blobs", snapshot, (repo / "refs" / revision).parent):
        folder.mkdir(parents=True, exist_ok=True)
    (repo / "refs" / revision).write_text(COMMITS[revision])
    for file, content in files.items():
        blob = repo / "blobs" / f"{COMMITS[revision][:8]}-{file}"
        blob.write_bytes(content)
        (snapshot / file).symlink_to(blob)
    return snapshot


def files_of(model: SavedModel, folder: Path) -> dict[str, bytes]:
    model.write(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_is_found_by_name_and_by_revision(cache, tmp_path):
    first, second = model_of("wav2vec2"), model_of("hubert")
    cached(cache, "org/small-model", files_of(first, tmp_path / "a"))
    cached(cache, "org/small-model", files_of(second, tmp_path / "b"), revision="older/v1.0")
    assert read_saved("hf://org/small-model").fingerprint() == first.fingerprint()
    assert read_saved("hf://org/small-model@older/v1.0").fingerprint() == second.fingerprint()
    assert read_saved(f"hf://org/small-model@{COMMITS['older/v1.0']}").fingerprint() == second.fingerprint()
    assert read_saved(Path("hf://org/small-model")).fingerprint() == first.fingerprint(), "a path has one slash less"


def test_one_file_of_a_repository(cache, tmp_path):
    snapshot = cached(cache, "org/files", {"model.pt": b"x"})
    assert fetch("hf://org/files/model.pt") == snapshot / "model.pt"
    assert fetch("hf://org/files@main/model.pt") == snapshot / "model.pt"


@pytest.mark.parametrize("where", ["hf://org", "hf://", "hf://org/a b", "hf://org/name@"])
def test_what_is_no_name_is_refused(where):
    with pytest.raises(CheckpointError, match="expected hf://org/name"):
        fetch(where)


def test_what_is_not_there_says_so(cache):
    with pytest.raises(CheckpointError, match="hf://org/nothing: not in this machine's cache"):
        read_saved("hf://org/nothing")
    cached(cache, "org/some", {"config.json": b"{}"})
    with pytest.raises(CheckpointError, match="hf://org/some@other: not in this machine's cache"):
        read_saved("hf://org/some@other")
