"""Manifests: built from folders, written, read, refused."""

from pathlib import Path

import pytest

from speechssl.data.manifest import (
    read_fairseq_manifest,
    read_manifest,
    read_side_file,
    read_table,
    root_from,
    write_fairseq_manifest,
    write_manifest,
)
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ManifestError

HEADER = "id\tpath\tsamples\trate\tchannels"


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


@pytest.mark.parametrize("form", ["id\tpath\tsamples\trate\tchannels\na\ta.wav\t{}\t16000\t1\n", "/root\na.wav\t{}\n"])
def test_a_number_of_samples_beyond_all_reason_is_refused(tmp_path, form):
    (tmp_path / "m.tsv").write_text(form.format("9" * 5000))
    with pytest.raises(ManifestError, match=r"m\.tsv:2: "):
        read_manifest(tmp_path / "m.tsv")


def test_quotes_in_a_tab_separated_side_file_are_text(table):
    assert read_side_file(table("id\ttext", 'x\t"no" he said')) == {"x": {"text": '"no" he said'}}
    assert read_table(table("id\tsaid", 'x\t"no', "y\tyes"), ("id",)) == {"x": {"said": '"no'}, "y": {"said": "yes"}}


def test_a_cell_of_a_csv_may_hold_commas_and_lines_and_a_mark_of_byte_order_is_no_name(table):
    lines = ("\ufeffid,path,text", 'a,x,"one, two', 'three"', "", "a,x,four")
    with pytest.raises(ManifestError, match=r"t\.csv:5: a occurs twice"):
        read_table(table(*lines, name="t.csv"), ("id",))
    path = table(*lines[:3], name="t.csv")
    assert read_table(path, ("id", "path")) == {"a": {"path": "x", "text": "one, two\nthree"}}
    assert read_side_file(path) == {"a": {"text": "one, two\nthree"}}


def test_a_table_that_is_none_is_refused(table, tmp_path):
    with pytest.raises(ManifestError, match=r"none\.tsv: cannot be read .*; name a table in UTF-8"):
        read_table(tmp_path / "none.tsv", ("id",))
    with pytest.raises(ManifestError, match=r"t\.csv: cannot be read \(field larger than field limit"):
        read_table(table("id,text", "x," + "a" * 200_000, name="t.csv"), ("id",))


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
    with pytest.raises(ManifestError, match="its path or text holds a tab or line break"):
        write_manifest(tmp_path / "m.tsv", [utterance(**changes)])
    assert list(tmp_path.iterdir()) == []


def test_columns_of_the_users_own_are_kept(tmp_path):
    path = tmp_path / "m.tsv"
    lines = [f"{HEADER}\temotion\ttext\tage", "a\ta.wav\t10\t16000\t1\tglad\tone\t", "b\tb.wav\t9\t16000\t1\t\t\t40"]
    path.write_text("\n".join(lines) + "\n")
    rows = read_manifest(path).utterances
    assert [row.more for row in rows] == [(("emotion", "glad"),), (("age", "40"),)]
    assert [row.text for row in rows] == ["one", None]
    write_manifest(tmp_path / "again.tsv", rows)
    assert read_manifest(tmp_path / "again.tsv").utterances == rows
    pytest.importorskip("pyarrow")
    with pytest.raises(ManifestError, match="a has the further column emotion, which Parquet does not hold"):
        write_manifest(tmp_path / "m.parquet", rows)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["id\tpath\tsamples", "a\ta.wav\t10"],
            r"m\.tsv:1: expected the columns id path samples rate channels and any",
        ),
        (
            [f"{HEADER}\tspeeker", "a\ta.wav\t10\t16000\t1\tred"],
            r"m\.tsv:1: .*found id path samples rate channels speeker; is speeker one of these, misspelt\?",
        ),
        ([f"{HEADER}\ttext\ttext", "a\ta.wav\t10\t16000\t1\tx\ty"], r"m\.tsv:1: expected the columns"),
        ([HEADER, "a\ta.wav\t10\t16000"], r"m\.tsv:2: expected 5 columns, found 4"),
        ([HEADER, "a\ta\tb.wav\t10\t16000\t1"], r"m\.tsv:2: expected 5 columns, found 6: .*remove tabs inside paths"),
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
    with pytest.raises(ManifestError, match=r"table\.tsv:3: expected `path<TAB>samples` \(fairseq's form\)"):
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


def test_the_way_to_the_audio_is_told_where_it_leads_to_audio(tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/a.wav").touch()
    listed = Manifest(root=tmp_path / "audio", utterances=(utterance("a"),))
    assert root_from(tmp_path / "lists", listed) == "../audio"
    (tmp_path / "audio/a.wav").unlink()
    assert root_from(tmp_path / "lists", listed) == ""
