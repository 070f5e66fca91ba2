"""Audio in archives, at URLs, in parts of recordings, and in formats that ffmpeg decodes."""

import dataclasses
import re
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.audio import ffmpeg, storage
from speechssl.audio import reading as audio
from speechssl.audio.ffmpeg import ffmpeg_program
from speechssl.audio.reading import AudioConfig, Segment, read_audio, read_header
from speechssl.audio.storage import Place
from speechssl.corpus.check.checking import check_manifests
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.data.dataset import read_utterance
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioError, ManifestError

ANY = AudioConfig(min_sample_rate=8_000)


@pytest.fixture
def flac(tmp_path: Path, write_wav: Callable[..., Path]) -> Path:
    return write_wav(tmp_path / "audio/a.flac", 12_345)


@pytest.fixture
def quiet_server(tmp_path: Path) -> Iterator[str]:
    """Serve the temporary folder over HTTP, whole files only, and give its URL."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def tarred(flac: Path) -> tuple[Path, int, int]:
    archive = flac.parent.parent / "shards/0.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        tar.add(flac.parent, "folder")
    with tarfile.open(archive) as tar:
        member = next(each for each in tar if each.isfile())
        return archive, member.offset_data, member.size


def test_bytes_of_a_tar_are_read_like_the_file(flac: Path) -> None:
    archive, offset, size = tarred(flac)
    place = Place.parse(f"shards/0.tar:{offset}:{size}", archive.parent.parent)
    assert read_header(place) == read_header(flac)
    assert torch.equal(read_audio(place, ANY), read_audio(flac, ANY))
    assert torch.equal(read_audio(place, ANY, start=5_000, num_samples=999), read_audio(flac, ANY)[5_000:5_999])


def test_bytes_of_a_zip_are_read_like_the_file(flac: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(flac, "a.flac")
    content, whole = (tmp_path / "x.zip").read_bytes(), flac.read_bytes()
    place = Place.parse(f"x.zip:{content.index(whole)}:{len(whole)}", tmp_path)
    assert torch.equal(read_audio(place, ANY), read_audio(flac, ANY))


def test_an_archive_that_was_cut_says_how_much_is_left(flac: Path) -> None:
    archive, offset, size = tarred(flac)
    archive.write_bytes(archive.read_bytes()[: offset + 100])
    with pytest.raises(AudioError, match=rf"0.tar:{offset}:{size}: the archive ends after 100 of {size} bytes"):
        read_header(Place(str(archive), offset, size))


def test_a_missing_archive_is_named() -> None:
    with pytest.raises(AudioError, match=r"/none/x.tar:0:9: cannot be opened .No such file"):
        read_header(Place("/none/x.tar", 0, 9))


@pytest.mark.parametrize("name", ["a:1:2.flac", "a.flac:1:2", "x.tar:1", "x.tar:a:b", "x.tar"])
def test_only_numbers_behind_an_archive_are_a_place_in_it(name: str) -> None:
    assert Place.parse(name, Path("/data")) == Place(f"/data/{name}")


def test_a_place_is_written_as_it_was_read() -> None:
    for written in ("/data/x.TAR:512:9", "s3://bucket/x.tar:512:9", "https://host/a.flac"):
        assert str(Place.parse(written, Path("/data"))) == written


@pytest.mark.parametrize("whole", [2**24, 100])
def test_a_url_is_read_like_the_file(
    flac: Path, quiet_server: str, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    pytest.importorskip("aiohttp", reason="URLs need fsspec and aiohttp")
    monkeypatch.setattr(storage, "_FETCHED_WHOLE", whole)
    place = Place.parse(f"{quiet_server}/audio/a.flac", Path("/nowhere"))
    assert read_header(place) == read_header(flac)
    assert torch.equal(read_audio(place, ANY), read_audio(flac, ANY))


def test_a_url_is_fetched_once(flac: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec", reason="URLs need fsspec")
    fsspec.filesystem("memory").pipe_file("/once.flac", flac.read_bytes())
    fetched, fetch = [], Place._fetch
    monkeypatch.setattr(Place, "_fetch", lambda place: fetched.append(place) or fetch(place))
    place = Place("memory://once.flac")
    assert torch.equal(read_audio(place, ANY), read_audio(flac, ANY))
    assert fetched == [place]


def test_a_url_that_is_not_there_is_named(quiet_server: str) -> None:
    pytest.importorskip("aiohttp", reason="URLs need fsspec and aiohttp")
    with pytest.raises(AudioError, match=rf"{quiet_server}/none.flac: cannot be fetched"):
        read_audio(Place(f"{quiet_server}/none.flac"), ANY)


def test_bytes_of_an_archive_in_memory_are_read(flac: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="URLs need fsspec")
    archive, offset, size = tarred(flac)
    fsspec.filesystem("memory").pipe_file("/x.tar", archive.read_bytes())
    place = Place.parse(f"memory://x.tar:{offset}:{size}", Path("/nowhere"))
    assert torch.equal(read_audio(place, ANY), read_audio(flac, ANY))


def test_without_fsspec_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(AudioError, match=r"pip install 'speechssl\[remote\]'"):
        read_header(Place("s3://bucket/a.flac"))


@pytest.mark.parametrize("rate", [16_000, 8_000, 44_100])
def test_a_segment_is_read_as_if_it_were_its_own_file(
    tmp_path: Path, write_wav: Callable[..., Path], rate: int
) -> None:
    whole = write_wav(tmp_path / "long.wav", 5 * rate, rate=rate, subtype="FLOAT")
    samples, _ = soundfile.read(whole, dtype="float32")
    start, length = rate // 3, 2 * rate + 77
    soundfile.write(tmp_path / "cut.wav", samples[start : start + length], rate, subtype="FLOAT")
    segment = Segment(start, length)
    cut = read_audio(tmp_path / "cut.wav", ANY)
    assert torch.equal(read_audio(whole, ANY, segment=segment, expected_samples=5 * rate), cut)
    for first, count in ((0, 1_000), (12_345, 2_000), (len(cut) - 50, 50)):
        part = read_audio(whole, ANY, segment=segment, start=first, num_samples=count)
        assert torch.equal(part, read_audio(tmp_path / "cut.wav", ANY, start=first, num_samples=count))


def test_a_segment_behind_the_end_is_an_error(flac: Path) -> None:
    with pytest.raises(AudioError, match="holds 12345 samples, the utterance ends at 12346"):
        read_audio(flac, ANY, segment=Segment(12_000, 346))


def test_the_longest_duration_is_that_of_the_segment(tmp_path: Path, write_wav: Callable[..., Path]) -> None:
    path = write_wav(tmp_path / "a.wav", 160_000)
    short = AudioConfig(max_duration_s=1.0)
    assert len(read_audio(path, short, segment=Segment(5, 16_000))) == 16_000
    with pytest.raises(AudioError, match="lasts 1 s, expected at most 1"):
        read_audio(path, short, segment=Segment(5, 16_001))


def test_parts_of_a_file_survive_the_manifest(flac: Path, tmp_path: Path) -> None:
    row = Utterance(id="whole", path="audio/a.flac", num_samples=12_345, sample_rate=16_000, channels=1)
    first = dataclasses.replace(row, id="first", num_samples=500, file_samples=12_345)
    later = dataclasses.replace(row, id="later", num_samples=345, start=12_000, file_samples=12_345)
    write_manifest(tmp_path / "m.tsv", [row, first, later])
    manifest = read_manifest(tmp_path / "m.tsv")
    assert manifest.utterances == (row, first, later)
    whole = read_utterance(manifest, row, ANY)
    assert torch.equal(read_utterance(manifest, first, ANY), whole[:500])
    assert torch.equal(read_utterance(manifest, later, ANY, start=5, num_samples=10), whole[12_005:12_015])
    flac.write_bytes((tmp_path / "audio/a.flac").read_bytes())
    longer = Manifest(root=tmp_path, utterances=(dataclasses.replace(first, file_samples=12_346),))
    with pytest.raises(AudioError, match="holds 12345 samples, the manifest says 12346"):
        read_utterance(longer, longer.utterances[0], ANY)


@pytest.mark.parametrize(
    ("start", "file_samples", "said"),
    [("5", "", "expected both start and file_samples"), ("x", "9", "in samples"), ("5", "14", "of a file of 14")],
)
def test_a_part_that_cannot_be_is_refused(tmp_path: Path, start: str, file_samples: str, said: str) -> None:
    header = "id\tpath\tsamples\trate\tchannels\tstart\tfile_samples"
    (tmp_path / "m.tsv").write_text(f"{header}\na\ta.wav\t10\t16000\t1\t{start}\t{file_samples}\n")
    with pytest.raises(ManifestError, match=said):
        read_manifest(tmp_path / "m.tsv")


@pytest.mark.skipif(ffmpeg_program() is None, reason="decodes m4a with ffmpeg")
def test_m4a_is_decoded_by_ffmpeg(tmp_path: Path, write_wav: Callable[..., Path]) -> None:
    wav = write_wav(tmp_path / "a.wav", 48_000)
    program = ffmpeg_program()
    assert program is not None
    made = [program, "-v", "error", "-i", str(wav), "-c:a", "aac", "-b:a", "96k", str(tmp_path / "a.m4a")]
    subprocess.run(made, check=True)
    header = read_header(tmp_path / "a.m4a")
    assert header.sample_rate == 16_000
    assert header.num_samples >= 48_000
    decoded = read_audio(tmp_path / "a.m4a", ANY)
    assert len(decoded) == header.num_samples
    original = read_audio(wav, ANY)
    best = max(np.corrcoef(decoded[shift : shift + 40_000], original[:40_000])[0, 1] for shift in (0, 1024, 2048))
    assert best > 0.9
    part = read_audio(tmp_path / "a.m4a", ANY, segment=Segment(100, 20_000), start=50, num_samples=10)
    assert torch.equal(part, decoded[150:160])
    (tmp_path / "a.m4a").write_bytes(b"nothing of the kind")
    with pytest.raises(AudioError, match=r"a.m4a: ffmpeg cannot decode it"):
        read_header(tmp_path / "a.m4a")


@pytest.mark.parametrize("listed", [47_900, 48_000, 48_128, 48_900])
@pytest.mark.parametrize("held", [48_000, 48_128])
def test_what_another_ffmpeg_adds_behind_the_sound_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: int, held: int
) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, (held, 1)).astype(np.float32)
    monkeypatch.setattr(audio, "decode_by_ffmpeg", lambda _: (sound, 16_000))
    (tmp_path / "a.m4a").write_bytes(b"x")
    read = read_audio(tmp_path / "a.m4a", ANY, expected_samples=listed)
    assert len(read) == listed
    same = min(listed, held)
    assert np.array_equal(read[:same], sound[:same, 0])
    assert not read[same:].any()
    part = read_audio(tmp_path / "a.m4a", ANY, segment=Segment(47_000, 900), expected_samples=listed)
    assert np.array_equal(part, sound[47_000:47_900, 0])
    row = Utterance(id="a", path="a.m4a", num_samples=listed, sample_rate=16_000, channels=1)
    report = check_manifests([Manifest(root=tmp_path, utterances=(row,))], ["m"], CheckConfig(), jobs=1)
    assert not report.has_errors


def test_a_decoder_that_begins_elsewhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "decode_by_ffmpeg", lambda _: (np.ones((48_000, 1), np.float32), 16_000))
    (tmp_path / "a.mka").write_bytes(b"x")
    with pytest.raises(
        AudioError, match=r"a\.mka: holds 48000 samples as ffmpeg.* decodes it, the manifest says 49024"
    ):
        read_audio(tmp_path / "a.mka", ANY, expected_samples=49_024)


@pytest.mark.parametrize(
    ("name", "listed", "decoder", "said", "finding"),
    [
        (
            "a.mka",
            49_024,
            "ffmpeg 7",
            r"as ffmpeg 9 decodes it, the manifest says 49024 as ffmpeg 7 decoded it",
            "header",
        ),
        ("a.wma", 48_512, "ffmpeg 7", r"or use ffmpeg 7", "header"),  # half a frame of length, a whole one of beginning
        ("a.wma", 48_512, None, r"as ffmpeg 9 decodes it, the manifest says 48512; another version, ", "truncated"),
        ("a.m4a", 48_100, "ffmpeg 9", r"by the same version; the file was changed or truncated", "truncated"),
        ("a.m4a", 48_100, "ffmpeg 7", None, None),
        ("a.m4a", 48_000, "ffmpeg 9", None, None),
    ],
)
def test_the_manifest_remembers_the_decoder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    listed: int,
    decoder: str | None,
    said: str,
    finding: str,
) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, (48_000, 1)).astype(np.float32)
    monkeypatch.setattr(audio, "decode_by_ffmpeg", lambda _: (sound, 16_000))
    for module in (audio, ffmpeg):
        monkeypatch.setattr(module, "ffmpeg_version", lambda: "ffmpeg 9")
    (tmp_path / name).write_bytes(b"x")
    row = Utterance(id="a", path=name, num_samples=listed, sample_rate=16_000, channels=1, decoder=decoder)
    write_manifest(tmp_path / "m.tsv", [row])
    manifest = read_manifest(tmp_path / "m.tsv")
    assert manifest.utterances == (row,)
    report = check_manifests([manifest], ["m"], CheckConfig(), jobs=1)
    errors = [each for each in report.findings if each.severity == "error"]
    if said is None:
        assert len(read_utterance(manifest, row, ANY)) == listed
        assert not errors
    else:
        with pytest.raises(AudioError, match=said):
            read_utterance(manifest, row, ANY)
        assert [each.name for each in errors] == [finding]
        assert re.search(said, errors[0].message)


def test_without_ffmpeg_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "ffmpeg_program", lambda: None)
    (tmp_path / "a.m4a").write_bytes(b"x")
    with pytest.raises(AudioError, match="needs ffmpeg"):
        read_header(tmp_path / "a.m4a")
