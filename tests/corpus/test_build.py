"""Manifests built from folders."""

import os
import resource
import subprocess
from pathlib import Path

import pytest

from speechssl.audio.ffmpeg import ffmpeg_program, ffmpeg_version
from speechssl.corpus import finding
from speechssl.corpus.building import build, build_manifest, describe_built
from speechssl.data.manifest import write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioError, ManifestError


@pytest.fixture
def corpus(tmp_path, write_wav) -> Path:
    """Lay out three files in two folders, and one that is no audio."""
    write_wav(tmp_path / "audio/b/2.wav", 1600)
    write_wav(tmp_path / "audio/a/1.flac", 4410, rate=44_100, channels=2)
    write_wav(tmp_path / "audio/a/3.WAV", 800, format="WAV")
    (tmp_path / "audio/a/notes.txt").write_text("not audio")
    return tmp_path / "audio"


@pytest.fixture
def table(tmp_path):
    """Give a function that writes a file of the given lines."""

    def write(*lines: str, name: str = "table.tsv") -> Path:
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return tmp_path / name

    return write


@pytest.mark.parametrize("workers", [1, 4, None])
def test_a_folder_becomes_utterances_sorted_by_path_for_any_number_of_workers(corpus, workers):
    manifest, errors = build_manifest(corpus, workers=workers)
    assert manifest == Manifest(
        root=corpus,
        utterances=(
            Utterance(id="a-1", path="a/1.flac", num_samples=4410, sample_rate=44_100, channels=2),
            Utterance(id="a-3", path="a/3.WAV", num_samples=800, sample_rate=16_000, channels=1),
            Utterance(id="b-2", path="b/2.wav", num_samples=1600, sample_rate=16_000, channels=1),
        ),
    )
    assert errors == []


def test_durations_and_lengths_at_16_khz_follow_the_rate(corpus):
    manifest, _ = build_manifest(corpus)
    assert [row.num_samples_16k for row in manifest.utterances] == [1600, 800, 1600]
    assert manifest.duration_s == pytest.approx(0.1 + 0.05 + 0.1)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("num_samples", [1, 999, 12_345])
def test_the_length_at_16_khz_is_what_reading_the_file_gives(tmp_path, write_wav, rate, num_samples):
    from speechssl.audio.reading import AudioConfig, read_audio

    path = write_wav(tmp_path / "a.wav", num_samples, rate=rate)
    (row,) = build_manifest(tmp_path)[0].utterances
    assert row.num_samples_16k == len(read_audio(path, AudioConfig(min_sample_rate=8000)))


def test_only_the_suffixes_asked_for_are_listed(corpus):
    assert [row.id for row in build_manifest(corpus, suffixes=(".flac",))[0].utterances] == ["a-1"]


def test_building_reports_progress_over_all_files(corpus):
    seen = []

    def progress(paths, total):
        seen.append(total)
        for path in paths:
            seen.append(path.name)
            yield path

    build([str(corpus)], progress=progress)
    assert seen == [3, "a/1.flac", "a/3.WAV", "b/2.wav"]


def test_linked_folders_are_followed(corpus, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/here").symlink_to(corpus / "b")
    assert [row.path for row in build_manifest(tmp_path / "linked")[0].utterances] == ["here/2.wav"]


def test_a_bad_file_stops_the_build_and_is_named(corpus):
    (corpus / "b/bad.wav").write_bytes(b"")
    with pytest.raises(AudioError, match=r"b/bad\.wav: the file is empty"):
        build_manifest(corpus)


def test_bad_files_are_left_out_and_listed_when_asked_for(corpus):
    (corpus / "b/bad.wav").write_bytes(b"")
    (corpus / "a/worse.flac").write_text("no sound")
    manifest, errors = build_manifest(corpus, skip_bad=True)
    assert [row.id for row in manifest.utterances] == ["a-1", "a-3", "b-2"]
    assert [str(error).split(":")[0] for error in errors] == [str(corpus / "a/worse.flac"), str(corpus / "b/bad.wav")]


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="none: no such folder; name the folder that holds the audio"):
        build_manifest(tmp_path / "none")


def test_a_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"no audio found; expected files ending in \.wav, \.flac"):
        build_manifest(tmp_path)


def test_two_files_with_one_id_are_refused(corpus, write_wav):
    write_wav(corpus / "a-1.wav")
    with pytest.raises(ManifestError, match=r"the id 'a-1' belongs to a/1\.flac and to a-1\.wav; rename one"):
        build_manifest(corpus)


def test_a_path_that_is_not_utf8_is_refused_by_its_bytes(corpus, write_wav):
    write_wav(corpus / "x.wav", 8000).rename(corpus / os.fsdecode(b"caf\xe9.wav"))
    with pytest.raises(ManifestError, match=r"b'caf\\xe9\.wav': its path is not UTF-8; rename the file"):
        build_manifest(corpus)


@pytest.mark.parametrize("name", ["a\tb.wav", "a\nb.wav"])
def test_a_tab_or_line_break_in_a_path_is_refused(corpus, write_wav, name):
    write_wav(corpus / name)
    with pytest.raises(ManifestError, match="its path holds a tab or line break; rename the file"):
        build_manifest(corpus)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("side.tsv", ["id\ttext\tspeaker", "a-1\thello, you\tanna", "b-2\tдым\tboris"]),
        ("side.csv", ["id,text,speaker", 'a-1,"hello, you",anna', "b-2,дым,boris"]),
        ("side.tsv", ["speaker\tpath\ttext", "anna\ta/1.flac\thello, you", "boris\tb/2.wav\tдым"]),
    ],
)
def test_columns_of_a_side_file_are_joined_by_id_or_path(corpus, table, name, lines):
    manifest, _ = build_manifest(corpus, side_file=table(*lines, name=name))
    rows = {row.id: (row.text, row.speaker) for row in manifest.utterances}
    assert rows == {"a-1": ("hello, you", "anna"), "a-3": (None, None), "b-2": ("дым", "boris")}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["text\tspeaker", "a\tb"], r"table\.tsv:1: expected a column `id` or `path` .*, found text speaker"),
        (["id\tcolour", "a-1\tred"], r"table\.tsv:1: expected a column .*, found id colour"),
        ([""], r"table\.tsv:1: expected a column `id` or `path`"),
        (["id\ttext", "a-1\tone", "a-1\ttwo"], r"table\.tsv:3: a-1 occurs twice; keep one of its rows"),
        (["id\ttext", "zz\tone", "a-1\ttwo", "yy\tone"], r"table\.tsv: 2 rows name no audio file: zz, yy; correct"),
        (["id\ttext\tspeaker", "a-1\tone"], r"table\.tsv:2: expected 3 columns, as many as the first line"),
        (["id\ttext", "b-2\tx", "a-1\tone\ttwo"], r"table\.tsv:3: expected 2 columns, as many as the first line"),
        ([], r"table\.tsv:1: expected a column .*, found nothing"),
    ],
)
def test_a_side_file_that_does_not_fit_is_refused(corpus, table, lines, message):
    with pytest.raises(ManifestError, match=message):
        build_manifest(corpus, side_file=table(*lines))


def test_a_full_disk_leaves_the_old_manifest_and_is_said_of_the_new_one(corpus, tmp_path):
    path, rows = tmp_path / "m.tsv", build_manifest(corpus)[0].utterances
    write_manifest(path, rows[:1])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*m\.tsv'"):
            write_manifest(path, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir() if "tmp" in each.name] == []


@pytest.mark.skipif(ffmpeg_program() is None, reason="makes and decodes m4a with ffmpeg")
def test_what_ffmpeg_decodes_is_listed(corpus):
    command = [ffmpeg_program(), "-v", "error", "-i", corpus / "b/2.wav", "-c:a", "aac", corpus / "b/4.M4A"]
    subprocess.run(command, check=True)
    rows = build_manifest(corpus)[0].utterances
    assert [row.id for row in rows] == ["a-1", "a-3", "b-2", "b-4"]
    assert rows[-1].num_samples >= 1600


def test_what_only_ffmpeg_decodes_is_counted_where_there_is_none(corpus, monkeypatch):
    monkeypatch.setattr(finding, "ffmpeg_program", lambda: None)
    (corpus / "b/4.m4a").write_bytes(b"x")
    (corpus / "b/5.M4A").write_bytes(b"x")
    built = build([str(corpus)])
    assert len(built.manifest.utterances) == 3
    passed_over, cure = describe_built(built)
    assert passed_over == "passed over: 2 .m4a (needs ffmpeg), 1 .txt"
    assert "pip install imageio-ffmpeg" in cure
    with pytest.raises(ManifestError, match=r"no audio found; .* 2 \.m4a \(needs ffmpeg\)"):
        build([str(corpus)], suffixes=(".m4a",), archives=False)


def test_a_folder_that_cannot_be_listed_is_named(corpus, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(finding.os, "scandir", scandir)
    with pytest.raises(AudioError, match=r"audio/b: cannot be listed \(Permission denied\)"):
        build([str(corpus)])
    built = build([str(corpus)], skip_bad=True)
    assert (len(built.manifest.utterances), len(built.errors)) == (2, 1)


def test_a_file_that_cannot_be_read_at_all_stops_even_a_build_that_skips(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(ManifestError, match=r"none of its audio can be read; the first of 1 errors: .*a\.wav"):
        build([str(tmp_path)], skip_bad=True)


def test_names_that_are_no_data_are_passed_over_and_counted(corpus, write_wav):
    before = build_manifest(corpus)[0]
    for name in ("._a.wav", "__MACOSX/b.wav", "sub/__MACOSX/._b.flac"):
        (corpus / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus / name).write_bytes(b"\0\5\x16\7")
    write_wav(corpus / ".cache/c.wav", 100)
    write_wav(corpus / ".taken.wav", 100)
    built = build([str(corpus)])
    assert len(built.manifest.utterances) == len(before.utterances) + 1
    assert built.passed_over == {"of macOS, as ._x.wav": 3, "in hidden folders": 1, ".txt": 1}
    assert len(build([str(corpus / ".cache")]).manifest.utterances) == 1


@pytest.mark.skipif(ffmpeg_program() is None, reason="makes and decodes m4a with ffmpeg")
def test_what_one_ffmpeg_decoded_is_decoded_again_by_another(corpus, tmp_path, monkeypatch):
    command = [ffmpeg_program(), "-v", "error", "-i", corpus / "b/2.wav", "-c:a", "aac", corpus / "b/4.m4a"]
    subprocess.run(command, check=True)
    for path in corpus.rglob("*.*"):
        os.utime(path, (0, 0))
    scan_cache = tmp_path / "scan_cache"

    def built():
        monkeypatch.setattr("speechssl.corpus.finding._SETTLED_NS", 0)
        return build([str(corpus)], scan_cache=scan_cache)

    first = built()
    assert [row.decoder for row in first.manifest.utterances] == [None] * 3 + [ffmpeg_version()]
    again = built()
    assert again.reused == 4
    assert again.manifest == first.manifest
    for module in ("corpus.building", "audio.reading"):
        monkeypatch.setattr(f"speechssl.{module}.ffmpeg_version", lambda: "ffmpeg 0.1")
    other = built()
    assert other.reused == 0
    assert other.manifest.utterances[-1].decoder == "ffmpeg 0.1"
