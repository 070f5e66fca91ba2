"""Manifests: built from folders, written, read, refused."""

import os
from pathlib import Path

import pytest

from speechssl.data import manifest as manifest_module
from speechssl.data.manifest import (
    Manifest,
    Utterance,
    build_manifest,
    read_fairseq_manifest,
    read_manifest,
    read_side_file,
    write_atomically,
    write_fairseq_manifest,
    write_manifest,
)
from speechssl.errors import AudioError, ManifestError

HEADER = "id\tpath\tsamples\trate\tchannels"


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


def utterance(key: str = "a", **changes: object) -> Utterance:
    return Utterance(
        **{"id": key, "path": f"{key}.wav", "num_samples": 10, "sample_rate": 16_000, "channels": 1, **changes}
    )


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
    from speechssl.data.audio import AudioConfig, read_audio

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

    build_manifest(corpus, progress=progress)
    assert seen == [3, "1.flac", "3.WAV", "2.wav"]


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
    with pytest.raises(ManifestError, match=r"no audio below it; expected files ending in \.wav, \.flac"):
        build_manifest(tmp_path)


def test_two_files_with_one_id_are_refused(corpus, write_wav):
    write_wav(corpus / "a-1.wav")
    with pytest.raises(ManifestError, match=r"the id 'a-1' belongs to a/1\.flac and to a-1\.wav; rename one"):
        build_manifest(corpus)


def test_a_path_that_is_not_utf8_is_refused_by_its_bytes(corpus, write_wav):
    write_wav(corpus / "x.wav", 8000).rename(corpus / os.fsdecode(b"caf\xe9.wav"))
    with pytest.raises(ManifestError, match=r"b'caf\\xe9\.wav': a path that is not UTF-8; rename the file"):
        build_manifest(corpus)


@pytest.mark.parametrize("form", ["id\tpath\tsamples\trate\tchannels\na\ta.wav\t{}\t16000\t1\n", "/root\na.wav\t{}\n"])
def test_a_number_of_samples_beyond_all_reason_is_refused(tmp_path, form):
    (tmp_path / "m.tsv").write_text(form.format("9" * 5000))
    with pytest.raises(ManifestError, match=r"m\.tsv:2: "):
        read_manifest(tmp_path / "m.tsv")


@pytest.mark.parametrize("name", ["a\tb.wav", "a\nb.wav"])
def test_a_tab_or_line_break_in_a_path_is_refused(corpus, write_wav, name):
    write_wav(corpus / name)
    with pytest.raises(ManifestError, match="a tab or line break in its path; rename the file"):
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


def test_quotes_in_a_tab_separated_side_file_are_text(table):
    assert read_side_file(table("id\ttext", 'x\t"no" he said')) == {"x": {"text": '"no" he said'}}


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
        ([], r"table\.tsv: empty"),
    ],
)
def test_a_side_file_that_does_not_fit_is_refused(corpus, table, lines, message):
    with pytest.raises(ManifestError, match=message):
        build_manifest(corpus, side_file=table(*lines))


def test_a_manifest_survives_being_written_and_read(tmp_path):
    rows = (
        utterance("a", text='он сказал "да"', speaker="anna"),
        utterance("b", path="deep/er b.wav", num_samples=7, sample_rate=44_100, channels=2),
        utterance("c", language="hi", split="dev", text=" नमस्ते "),
    )
    write_manifest(tmp_path / "new/m.tsv", rows)
    assert read_manifest(tmp_path / "new/m.tsv") == Manifest(root=tmp_path / "new", utterances=rows)


def test_columns_that_nobody_fills_are_not_written(tmp_path):
    write_manifest(tmp_path / "m.tsv", [utterance(speaker="anna")])
    assert (tmp_path / "m.tsv").read_text() == f"{HEADER}\tspeaker\na\ta.wav\t10\t16000\t1\tanna\n"


def test_a_manifest_saved_with_windows_line_ends_is_read(tmp_path):
    (tmp_path / "m.tsv").write_bytes(f"{HEADER}\ttext\r\na\ta.wav\t10\t16000\t1\thello\r\n".encode())
    assert read_manifest(tmp_path / "m.tsv").utterances == (utterance(text="hello"),)


def test_a_corpus_that_moved_is_found_through_the_root(tmp_path):
    write_manifest(tmp_path / "m.tsv", [utterance()])
    manifest = read_manifest(tmp_path / "m.tsv", root=Path("/new/place"))
    assert manifest.audio_path(manifest.utterances[0]) == Path("/new/place/a.wav")


@pytest.mark.parametrize("changes", [{"path": "a\tb.wav"}, {"text": "two\nlines"}, {"speaker": "a\rb"}])
def test_a_tab_or_line_break_is_never_written(tmp_path, changes):
    with pytest.raises(ManifestError, match="a tab or line break in its path or text"):
        write_manifest(tmp_path / "m.tsv", [utterance(**changes)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["id\tpath\tsamples", "a\ta.wav\t10"],
            r"m\.tsv:1: expected the columns id path samples rate channels and any",
        ),
        (
            [f"{HEADER}\tcolour", "a\ta.wav\t10\t16000\t1\tred"],
            r"m\.tsv:1: .*found id path samples rate channels colour",
        ),
        ([f"{HEADER}\ttext\ttext", "a\ta.wav\t10\t16000\t1\tx\ty"], r"m\.tsv:1: expected the columns"),
        ([HEADER, "a\ta.wav\t10\t16000"], r"m\.tsv:2: expected 5 columns, found 4"),
        ([HEADER, "a\ta\tb.wav\t10\t16000\t1"], r"m\.tsv:2: expected 5 columns, found 6: .*a tab inside a path"),
        ([HEADER, "a\ta.wav\t10\t16000\t1", ""], r"m\.tsv:3: expected 5 columns, found 1"),
        ([HEADER, "a\ta.wav\tten\t16000\t1"], r"m\.tsv:2: samples is 'ten', expected a positive whole number"),
        ([HEADER, "a\ta.wav\t0\t16000\t1"], r"m\.tsv:2: samples is '0', expected a positive whole number"),
        ([HEADER, "a\ta.wav\t-5\t16000\t1"], r"m\.tsv:2: samples is '-5', expected a positive whole number"),
        ([HEADER, "a\ta.wav\t10\t16e3\t1"], r"m\.tsv:2: rate is '16e3', expected a positive whole number"),
        ([HEADER, "a\ta.wav\t10\t16000\t"], r"m\.tsv:2: channels is '', expected a positive whole number"),
        ([HEADER], r"m\.tsv: lists no utterances; build it again"),
        ([], r"m\.tsv: empty; build it again"),
        (
            [HEADER, "a\ta.wav\t10\t16000\t1", "a\tb.wav\t10\t16000\t1"],
            r"m\.tsv: the id 'a' belongs to a\.wav and to b\.wav; rename one of them",
        ),
        ([HEADER, "a\ta.wav\t10\t16000\t1", "a\ta.wav\t10\t16000\t1"], r"m\.tsv: the id 'a' .* a\.wav and to a\.wav"),
        ([HEADER, "\ta.wav\t10\t16000\t1"], r"m\.tsv: .*id ''"),
    ],
)
def test_a_manifest_that_does_not_parse_is_refused_with_its_line(table, lines, message):
    with pytest.raises(ManifestError, match=message):
        read_manifest(table(*lines, name="m.tsv"))


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"m\.tsv: cannot read the manifest \(No such file"):
        read_manifest(tmp_path / "m.tsv")


def test_a_manifest_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "m.tsv").write_bytes(
        f"{HEADER}\ttext\na\ta.wav\t10\t16000\t1\t".encode() + "да".encode("koi8-r") + b"\n"
    )
    with pytest.raises(ManifestError, match=r"m\.tsv: not UTF-8 at byte 5\d; save it as UTF-8"):
        read_manifest(tmp_path / "m.tsv")


def test_a_fairseq_manifest_is_told_apart_by_its_first_line_and_read(table):
    path = table("/data/audio", "a/1.flac\t400", "b.wav\t16000", name="train.tsv")
    assert read_manifest(path) == Manifest(
        root=Path("/data/audio"),
        utterances=(
            utterance("a-1", path="a/1.flac", num_samples=400),
            utterance("b", path="b.wav", num_samples=16_000),
        ),
    )


def test_a_fairseq_manifest_takes_another_root(table):
    assert read_manifest(table("/data", "b.wav\t16000"), root=Path("/new")).root == Path("/new")


@pytest.mark.parametrize("line", ["a.wav", "a.wav\tmany", "a\tb.wav\t100", "a.wav\t-1"])
def test_a_fairseq_row_that_does_not_parse_is_refused_with_its_line(table, line):
    with pytest.raises(ManifestError, match=r"table\.tsv:3: expected `path<TAB>samples` \(fairseq form\)"):
        read_fairseq_manifest(table("/data", "ok.wav\t100", line))


def test_a_fairseq_manifest_without_rows_is_refused(table):
    with pytest.raises(ManifestError, match=r"table\.tsv: lists no utterances"):
        read_manifest(table("/data"))


def test_a_fairseq_manifest_survives_being_written_and_read(tmp_path):
    manifest = Manifest(root=tmp_path, utterances=(utterance("x-a", path="x/a.wav"), utterance("b")))
    write_fairseq_manifest(tmp_path / "train.tsv", manifest)
    assert (tmp_path / "train.tsv").read_text() == f"{tmp_path}\nx/a.wav\t10\nb.wav\t10\n"
    assert read_manifest(tmp_path / "train.tsv") == manifest


def test_audio_that_fairseq_would_refuse_is_not_written_in_its_form(tmp_path):
    manifest = Manifest(root=tmp_path, utterances=(utterance(sample_rate=44_100),))
    with pytest.raises(ManifestError, match=r"a\.wav: audio is 44100 Hz; .*resample the audio to 16000 Hz first"):
        write_fairseq_manifest(tmp_path / "train.tsv", manifest)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "m.tsv"
    write_manifest(path, [utterance("old")])
    before = path.read_bytes()

    def full(self: Path, text: str, **_: object) -> None:
        with self.open("w") as file:
            file.write(text[:5])
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            write_manifest(path, [utterance("new")])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_never_seen_half_written(tmp_path, monkeypatch):
    path = tmp_path / "text"
    write_atomically(path, "old")
    seen = []
    replace = os.replace

    def look_then_replace(self: Path, target: Path) -> None:
        seen.append(path.read_text())
        replace(self, target)

    monkeypatch.setattr(manifest_module.Path, "replace", look_then_replace)
    write_atomically(path, "new")
    assert (seen, path.read_text()) == (["old"], "new")
