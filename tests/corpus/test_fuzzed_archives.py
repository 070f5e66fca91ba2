"""Archives of all kinds of members and with all kinds of damage: listed or named; no crash, hang or silent loss."""

import io
import posixpath
import random
import signal
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechssl.audio.reading import AUDIO_SUFFIXES, read_header
from speechssl.audio.storage import Place
from speechssl.corpus.building import build
from speechssl.corpus.tar_shards import Shard, read_shard, suffix_of
from speechssl.errors import SpeechSSLError

WAV = b"RIFF(\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data\4\0\0\0\1\0\2\0"
PIECES = [b"", b"\0", b"\xff", b"\0" * 512, b"PK\1\2", b"PK\3\4", b"PK\5\6", b"7" * 11, b"../", b"/", b"\xff" * 8]
FORMS = ("gnu", "pax", "ustar", "zip")
SECONDS = 20  # that one case may take at most; it takes thousandths


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"hangs: more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def listed(path: Path) -> Shard:
    with path.open("rb") as file:
        return read_shard(str(path), file, AUDIO_SUFFIXES, lambda *at: read_header(Place(str(path), *at)))


def accounted(shard: Shard) -> int:
    return len(shard.recordings) + len(shard.errors) + sum(shard.passed_over.values())


# Archives as anyone may make them


names = st.one_of(
    st.text(st.sampled_from("ab./ \t\n\0é\udce9\\:"), min_size=1, max_size=12),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.integers(90, 260).map(lambda count: "x" * count),
    st.sampled_from(["../a", "/a", "./a", "a/../b", "a//b", "d/" * 60 + "a"]),
).flatmap(lambda stem: st.sampled_from([".wav", ".WAV", ".txt", ".npy", "", ".m4a"]).map(lambda end: stem + end))
kinds = st.sampled_from(["file"] * 6 + ["folder", "hard link", "link", "pipe"])
archives = st.lists(st.tuples(names, kinds, st.sampled_from([WAV, b"", b"no sound", WAV + b"\0" * 999])), max_size=8)


def make(entries: list[tuple[str, str, bytes]], form: str) -> tuple[bytes, dict[str, bytes], int]:
    """Return an archive, its files by name as its own reader has them, and the number of its members but folders."""
    out = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name, kind, content in entries:
                if kind == "file" and name not in archive.namelist() and "\0" not in name:
                    archive.writestr(zipfile.ZipInfo(name), content)
        with zipfile.ZipFile(out) as archive:
            files = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
        return out.getvalue(), files, len(files)
    types = {"folder": tarfile.DIRTYPE, "hard link": tarfile.LNKTYPE, "link": tarfile.SYMTYPE, "pipe": tarfile.FIFOTYPE}
    with tarfile.open(fileobj=out, mode="w", format={"gnu": 1, "pax": 2, "ustar": 0}[form]) as tar:
        taken = set()
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = types.get(kind, tarfile.REGTYPE), entries[0][0]
            info.size = len(content) if kind == "file" else 0
            if posixpath.normpath(name) not in taken:
                tar.addfile(info, io.BytesIO(content))
                taken.add(posixpath.normpath(name))
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        members = tar.getmembers()
        files = {member.name: tar.extractfile(member).read() for member in members if member.isreg()}
    return out.getvalue(), files, sum(not member.isdir() for member in members)


def every_member_is_accounted_for(folder: Path, entries: list[tuple[str, str, bytes]], form: str) -> None:
    try:
        content, files, count = make(entries, form)
    except (ValueError, UnicodeError, OverflowError):  # the name does not fit into this form
        return
    path = folder / ("x.zip" if form == "zip" else "x.tar")
    path.write_bytes(content)
    with within(SECONDS):
        shard = listed(path)
    texts = sum(suffix_of(name) == ".txt" for name in files)  # one that goes to its audio is not counted
    assert count - texts <= accounted(shard) <= count
    clean = {"/".join(part for part in name.split("/") if part not in ("", ".")): name for name in files}
    for recording in shard.recordings:
        found = content[recording.offset : recording.offset + recording.size]
        assert found in files.values()
        if recording.name in clean:
            assert found == files[clean[recording.name]]
        assert not recording.name.startswith("/")
        assert ".." not in recording.name.split("/")
    plain = {name for name, inside in files.items() if suffix_of(name) == ".wav" and inside.startswith(WAV)}
    ordinary = {name for name in plain if name.isascii() and name.replace("/", "").replace(".", "").isalnum()}
    ordinary = {name for name in ordinary if ".." not in name.split("/") and name[0] != "/"}
    assert {name for name in ordinary if clean[posixpath.normpath(name)] == name} <= {
        clean.get(recording.name) for recording in shard.recordings
    }


CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=60, deadline=None, suppress_health_check=CHECKS, derandomize=True)
@given(archives, st.sampled_from(FORMS))
def test_every_member_is_listed_named_or_counted(tmp_path, entries, form):
    every_member_is_accounted_for(tmp_path, entries, form)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=CHECKS)
@given(archives, st.sampled_from(FORMS))
def test_every_member_of_many_is_listed_named_or_counted(tmp_path, entries, form):
    every_member_is_accounted_for(tmp_path, entries, form)


# Archives that were damaged


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, write_wav: Callable[..., Path]) -> Callable[[str], bytes]:
    """Give a function that packs nine sounds, three texts and a note into an archive of a form."""
    folder = tmp_path_factory.mktemp("sounds")
    files = {}
    for i, suffix in enumerate([".wav", ".flac", ".ogg"] * 3):
        path = write_wav(folder / f"{i}{suffix}", 300 + 50 * i, seed=i)
        files[f"{'deep/' * (i % 3) * 12}{i}{suffix}"] = path.read_bytes()
    files |= {"0.txt": b"zero", "3.json": b'{"text": "three", "speaker": "anna"}', "alone.txt": b"x", "note.md": b"y"}

    def pack(form: str) -> bytes:
        return make([(name, "file", content) for name, content in files.items()], form)[0]

    return pack


def damaged(content: bytes, random_: random.Random) -> bytes:
    """Cut, double or overwrite a stretch, change some bytes, or cut the end off."""
    first = random_.randrange(len(content))
    length = random_.choice([0, 1, 2, 8, 512, 10_000])
    match random_.randrange(5):
        case 0:
            return content[:first]
        case 1:
            return content[:first] + content[first + length :]
        case 2:
            piece = random_.choice([*PIECES, content[first : first + length] * 2, random_.randbytes(3)])
            return content[:first] + piece + content[first + random_.choice([0, len(piece)]) :]
        case 3:
            changed = bytearray(content)
            for _ in range(random_.choice([1, 3, 30])):
                changed[random_.randrange(len(content))] = random_.randrange(256)
            return bytes(changed)
    return repaired(content, random_)


def repaired(content: bytes, random_: random.Random) -> bytes:
    """Change a byte of a tar's header and mend the sum that guards it; of the table of a zip, which nothing guards."""
    changed = bytearray(content)
    if content.startswith(b"PK"):
        start = content.index(b"PK\1\2")
        changed[random_.randrange(start, len(content))] = random_.randrange(256)
        return bytes(changed)
    headers = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    at = random_.choice(headers)
    changed[at + random_.randrange(500)] = random_.choice([*b"0157Lxg\0/.", random_.randrange(256)])
    changed[at + 148 : at + 156] = b" " * 8
    changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)


def try_damaged(whole: Callable[[str], bytes], folder: Path, form: str, cases: int) -> list[int]:
    """Damage an archive in many ways; return how many recordings each still had."""
    content = whole(form)
    path = folder / ("x.zip" if form == "zip" else "x.tar")
    counts = []
    for case in range(cases):
        path.write_bytes(damaged(content, random.Random(case)))
        with within(SECONDS):
            shard = listed(path)
            try:
                built = build([str(path)], skip_bad=True, workers=1)
            except SpeechSSLError as error:
                assert "\n" not in str(error)
            else:
                assert len(built.manifest.utterances) == len(shard.recordings)
        counts.append(len(shard.recordings))
        for recording in shard.recordings:
            assert 0 <= recording.offset <= recording.offset + recording.size <= path.stat().st_size
            assert recording.header == read_header(Place(str(path), recording.offset, recording.size))
        if len(shard.recordings) < 9:
            assert shard.errors or sum(shard.passed_over.values()) > 2, f"silent loss in case {case}"
        assert all("\n" not in str(error) and str(path) in str(error) for error in shard.errors)
    return counts


@pytest.mark.parametrize("form", FORMS)
def test_damaged_archives_are_read_or_refused(whole, tmp_path, form):
    counts = try_damaged(whole, tmp_path, form, cases=25)
    assert min(counts) < 9 <= max(counts)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_many_damaged_archives_are_read_or_refused(whole, tmp_path, form):
    counts = try_damaged(whole, tmp_path, form, cases=1000)
    assert min(counts) == 0
    assert max(counts) == 9
