"""Manifests of what lies at URLs: folders, lists, archives; by HTTP from a server of our own, in memory, by file."""

import http.server
import os
import shutil
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
import torch

from speechssl.__main__ import main
from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.corpus.building import build
from speechssl.corpus.remote import RemoteFile, open_url
from speechssl.corpus.scan_cache import scan_cache_beside
from speechssl.data.manifest import read_manifest
from speechssl.errors import AudioError, ManifestError

fsspec = pytest.importorskip("fsspec", reason="URLs need the extra `remote`")
pytest.importorskip("aiohttp", reason="URLs need the extra `remote`")

NAMES = ["a.flac", "sub dir/b c.wav", "sub dir/č.flac", "notes.md"]


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, and notes what was asked for."""

    folder: Path
    has_ranges = True
    fails = 0  # so many times, from now on
    served: list[tuple[str, str, int]]  # method, path, bytes
    pages: dict[str, str]  # path -> page instead of the listing

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def __init__(self, *args: object) -> None:
        super().__init__(*args, directory=str(args[2].folder))  # type: ignore[attr-defined,arg-type]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.server.folder / unquote(self.path).strip("/")
        wanted = self.headers.get("Range")
        if self.path in self.server.pages:
            self._answer(200, self.server.pages[self.path].encode(), "text/html")
        elif path.is_dir():
            super().do_GET()
        elif self.server.fails > 0:
            self.server.fails -= 1
            self.send_error(503)
        elif not path.is_file():
            self.send_error(404)
        elif wanted and self.server.has_ranges:
            first, last = wanted.removeprefix("bytes=").split("-")
            self._answer(206, path.read_bytes()[int(first) : int(last) + 1 if last else None], "audio/x")
        else:
            self._answer(200, path.read_bytes(), "audio/x")

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self.server.served.append((self.command, self.path, len(content)))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def speech(tmp_path: Path, write_wav: Callable[..., Path]) -> Path:
    for seed, name in enumerate(NAMES[:3]):
        write_wav(tmp_path / "www/speech" / name, 800 + 100 * seed, seed=seed)
    (tmp_path / "www/speech/notes.md").write_text("x")
    return tmp_path / "www/speech"


@pytest.fixture
def server(speech: Path) -> Iterator[Server]:
    Server.folder = speech.parent
    server = Server(("127.0.0.1", 0), Handler)
    server.served, server.pages = [], {}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def at(request: pytest.FixtureRequest, speech: Path, server: Server) -> str:
    """Give the URL of the folder, by the protocol asked for."""
    match request.param:
        case "http":
            return f"{server.url}/speech"
        case "file":
            return speech.as_uri()
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for path in speech.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/speech/{path.relative_to(speech)}", path.read_bytes())
    return "memory://speech"


every = pytest.mark.parametrize("at", ["http", "file", "memory"], indirect=True)


def packed(speech: Path) -> Path:
    """Put the audio into an archive in its place, behind two megabytes of something else."""
    with tarfile.open(speech / "x.tar", "w") as tar:
        (speech / "big.bin").write_bytes(b"\1" * 2**21)
        for name in ("big.bin", *NAMES[:3]):
            tar.add(speech / name, name)
            (speech / name).unlink()
    return speech / "x.tar"


@every
def test_a_folder_at_a_url_is_listed_like_one_here(speech, at):
    here, there = build([str(speech)]), build([at + "/"])
    assert there.passed_over == here.passed_over == {".md": 1}
    for row, found in zip(here.manifest.utterances, there.manifest.utterances, strict=True):
        assert (found.id, found.num_samples, found.sample_rate) == (row.id, row.num_samples, row.sample_rate)
        assert found.path.startswith(at.split("//")[0])
        samples = read_audio(there.manifest.place(found), AudioConfig())
        assert torch.equal(samples, read_audio(here.manifest.place(row), AudioConfig()))


@pytest.mark.parametrize("at", ["http", "memory"], indirect=True)
def test_archives_at_urls_are_listed_like_ones_here(speech, server, request, at):
    archive = packed(speech)
    if at.startswith("memory"):
        fsspec.filesystem("memory").store.clear()
        fsspec.filesystem("memory").pipe_file("/speech/x.tar", archive.read_bytes())
    here, there = build([str(archive)]), build([f"{at}/x.tar"])
    assert there.passed_over == {".bin": 1}
    for row, found in zip(here.manifest.utterances, there.manifest.utterances, strict=True):
        assert (found.id, found.num_samples) == (row.id, row.num_samples)
        assert found.path.endswith(f"/{row.path}")
        samples = read_audio(there.manifest.place(found), AudioConfig())
        assert torch.equal(samples, read_audio(here.manifest.place(row), AudioConfig()))


def test_no_more_of_an_archive_is_fetched_than_its_headers(speech, server):
    archive = packed(speech)
    built = build([f"{server.url}/speech/x.tar"])
    assert len(built.manifest.utterances) == 3
    assert sum(size for _, _, size in server.served) < archive.stat().st_size / 2


def test_a_server_without_parts_of_files_sends_a_file_once(speech, server):
    packed(speech)
    server.has_ranges = False
    assert len(build([f"{server.url}/speech/x.tar"]).manifest.utterances) == 3
    assert len(server.served) == 1


def test_urls_listed_in_a_text_file_and_a_command(speech, server, tmp_path, capsys):
    urls = [f"{server.url}/speech/{quote(name)}" for name in NAMES[:3]]
    (tmp_path / "urls.txt").write_text("\n".join(urls) + "\n", encoding="utf-8")
    arguments = ["manifest", "build", str(tmp_path / "urls.txt"), "-o", str(tmp_path / "out/m.tsv")]
    assert main(arguments) == 0
    assert "relative" not in capsys.readouterr().out  # URLs are relative to nothing
    manifest = read_manifest(tmp_path / "out/m.tsv")
    assert [row.id for row in manifest.utterances] == ["a", "sub dir-b c", "sub dir-č"]
    assert [row.path for row in manifest.utterances] == urls
    assert [row.id for row in build([urls[1]]).manifest.utterances] == ["b c"]
    assert main(arguments) == 0
    assert "unchanged: 3 files" in capsys.readouterr().out


@every
def test_a_second_build_asks_for_stamps_only(speech, server, at, tmp_path):
    first = build([at], scan_cache=scan_cache_beside(tmp_path / "m.tsv"))
    server.served.clear()
    again = build([at], scan_cache=scan_cache_beside(tmp_path / "m.tsv"))
    assert again.manifest == first.manifest
    if at.startswith("file"):
        assert (first.reused, again.reused) == (0, 3)
    if at.startswith("http"):
        assert server.served == []
        shutil.copy(speech / NAMES[2], speech / NAMES[0])
        os.utime(speech / NAMES[0], (1, 1))
        changed = build([at], scan_cache=scan_cache_beside(tmp_path / "m.tsv"))
        assert changed.reused == 2
        assert changed.manifest.utterances[0].num_samples == 1000


def test_a_page_that_links_elsewhere_is_not_followed(speech, server):
    links = ["../secret.wav", "/other/b.wav", "https://127.0.0.1:1/c.wav", "?C=N;O=D", "/", "../", "a.flac", "a.flac#x"]
    links += ["sub%20dir/../../secret.wav", "/speech/../secret.wav"]
    server.pages["/speech/"] = "".join(f'<a href="{link}">x</a>' for link in links)
    built = build([f"{server.url}/speech/"])
    assert [row.path for row in built.manifest.utterances] == [f"{server.url}/speech/a.flac"]


def test_what_is_not_there_is_named_by_its_url(speech, server):
    for name in ("none.flac", "none.tar"):
        with pytest.raises(AudioError, match=rf"{server.url}/speech/{name}: cannot be opened"):
            build([f"{server.url}/speech/{name}"])
    with pytest.raises(ManifestError, match=rf"{server.url}/none: cannot be listed"):
        build([f"{server.url}/none"])
    with pytest.raises(ManifestError, match=r"nosuch://x/y: .*[Pp]rotocol"):
        build(["nosuch://x/y"])
    (speech / "bad.flac").write_bytes(b"no sound")
    (speech / "bad.tar").write_bytes(b"no archive" * 100)
    (speech / "c.m4a").write_bytes(b"x")
    built = build([f"{server.url}/speech"], skip_bad=True)
    assert len(built.manifest.utterances) == 3
    assert len(built.errors) == 3
    for name in ("bad.flac", "bad.tar", "c.m4a"):
        assert sum(f"{server.url}/speech/{name}: " in str(error) for error in built.errors) == 1


def test_a_server_that_fails_is_asked_again_and_then_named(speech, server, monkeypatch):
    monkeypatch.setattr("speechssl.corpus.remote.time.sleep", lambda _: None)
    server.fails = 2
    assert len(build([f"{server.url}/speech/a.flac"]).manifest.utterances) == 1
    server.fails = 100
    with pytest.raises(AudioError, match=rf"^{server.url}/speech/a\.flac: cannot be fetched \(503"):
        build([f"{server.url}/speech/a.flac"])
    packed(speech)
    with pytest.raises(AudioError, match=rf"^{server.url}/speech/x\.tar: cannot be fetched \(503"):
        build([f"{server.url}/speech/x.tar"])


def test_an_archive_whose_url_has_a_query_is_refused(server):
    with pytest.raises(AudioError, match=r"x\.tar\?sig=1: an archive's URL must end in its name"):
        build([f"{server.url}/speech/x.tar?sig=1"])


def test_without_fsspec_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    for url in ("s3://bucket/speech", "s3://bucket/a.flac"):
        with pytest.raises((ManifestError, AudioError), match=r"pip install 'speechssl\[remote\]'"):
            build([url])


def test_a_remote_file_reads_like_one_here(tmp_path):
    content = bytes(range(256)) * 5000
    fsspec.filesystem("memory").pipe_file("/bytes", content)
    file = open_url("memory://bytes")
    assert isinstance(file, RemoteFile)
    for position, size in ((0, 10), (2**18 - 5, 10), (0, 2**20), (len(content) - 3, 10), (len(content) + 9, 1)):
        assert file.seek(position) == position
        assert file.read(size) == content[position : position + size]
    assert file.seek(-4, 2) == len(content) - 4
    assert (file.seek(1, 1), file.read()) == (len(content) - 3, content[-3:])
