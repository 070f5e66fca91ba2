"""Fetching and unpacking Debian packages: speechssl.corpus.fetch.debian."""

import shutil
import subprocess
from pathlib import Path

import pytest

from speechssl.corpus.fetch.debian import package_versions, unpacked_packages
from speechssl.errors import CorpusError

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds a .deb with dpkg-deb")


def make_package(name: str, folder: Path) -> Path:
    staging = folder / "staging"
    (staging / "DEBIAN").mkdir(parents=True)
    (staging / f"usr/share/{name}").mkdir(parents=True)
    (staging / f"usr/share/{name}/file").write_text("content")
    control = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: x\n"
    (staging / "DEBIAN/control").write_text(control)
    archive = folder / f"{name}_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(staging), str(archive)], check=True, capture_output=True)
    shutil.rmtree(staging)
    return archive


def test_without_apt_get_the_error_says_what_to_do_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(command: list[str], **_: object) -> None:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(subprocess, "run", not_found)
    with pytest.raises(CorpusError, match=r"apt-get: not found, .* by hand and pass the folder as --source"):
        unpacked_packages(["festvox-ru"], tmp_path, None)


def test_a_failed_download_names_the_command_its_last_words_and_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(100, command, stderr="Reading...\nE: Unable to locate package festvox-ru\n")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(CorpusError, match=r"`apt-get download festvox-ru` .*100: E: Unable .*; run `apt-get update`"):
        unpacked_packages(["festvox-ru"], tmp_path, None)


def test_a_source_without_the_packages_names_the_missing_ones(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no one_\*.deb and 1 more; download them with `apt-get download one two`"):
        unpacked_packages(["one", "two"], tmp_path / "scratch", tmp_path)


@needs_dpkg
def test_packages_are_unpacked_into_one_tree(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_package(name, tmp_path)
    tree = unpacked_packages(["one", "two"], tmp_path / "scratch", tmp_path)
    assert (tree / "usr/share/one/file").read_text() == (tree / "usr/share/two/file").read_text() == "content"
    assert package_versions(["one"], tree) == {"one": "unknown"}


@needs_dpkg
def test_a_broken_archive_is_an_error_and_leaves_no_tree(tmp_path: Path) -> None:
    (tmp_path / "one_1.0_all.deb").write_bytes(b"not an archive")
    with pytest.raises(CorpusError, match=r"dpkg-deb -x .*download .*one_1.0_all.deb again"):
        unpacked_packages(["one"], tmp_path / "scratch", tmp_path)
    assert not (tmp_path / "scratch/tree").exists()


def test_an_unpacked_tree_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "usr/share").mkdir(parents=True)
    assert unpacked_packages(["one"], tmp_path / "scratch", tmp_path) == tmp_path


@needs_dpkg
def test_folders_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    make_package("one", tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    tree = unpacked_packages(["one"], Path("scratch"), Path("source"))
    assert (tree / "usr/share/one/file").read_text() == "content"
