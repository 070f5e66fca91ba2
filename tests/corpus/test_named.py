"""Whatever a user names becomes utterances: manifests, audio, folders, archives, tables and lists of other toolkits."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from speechssl.__main__ import main
from speechssl.corpus.formats.exchange import export_manifest
from speechssl.corpus.named import is_manifest, read_named
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Manifest
from speechssl.errors import AudioError, ManifestError

ROWS = [("u1", "../speech/anna/1.wav", "one two"), ("u2", "../speech/bert/2.wav", "three")]


@pytest.fixture
def lists(tmp_path, write_wav, monkeypatch) -> Path:
    """Write two recordings and give the folder for lists, beside theirs."""
    write_wav(tmp_path / "speech/anna/1.wav", 1601)
    write_wav(tmp_path / "speech/bert/2.wav", 2402)
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "lists"


def found(manifest: Manifest) -> list[tuple[str, str, int, str | None]]:
    """Return id, name of the file, samples and text of each utterance whose audio is there."""
    assert all(manifest.audio_path(row).is_file() for row in manifest.utterances)
    return [(row.id, Path(row.path).name, row.num_samples, row.text) for row in manifest.utterances]


EXPECTED = [("u1", "1.wav", 1601, "one two"), ("u2", "2.wav", 2402, "three")]


@pytest.mark.parametrize(
    ("name", "sign", "header"),
    [
        ("t.tsv", "\t", "id path text"),
        ("t.tsv", "\t", None),
        ("t.tsv", "\t", "utt_id audio_path transcript"),
        ("t.csv", ",", "ID wav wrd"),
        ("t.csv", ",", None),
        ("t.csv", ";", "id path text"),
        ("t.csv", "\t", "id path text"),
        ("t.txt", " ", "id path text"),
        ("t.txt", " ", None),
        ("t.txt", "|", None),
        ("t.txt", "|", "id path text"),
        ("table", "\t", None),
    ],
)
def test_a_table_of_id_path_and_text_is_taken_with_a_header_or_without(lists, name, sign, header):
    lines = ([sign.join(header.split())] if header else []) + [sign.join(row) for row in ROWS]
    (lists / name).write_text("\n".join(lines) + "\n")
    said: list[str] = []
    assert found(read_named(lists / name, tell=said.append)) == EXPECTED
    assert "with the headers of 2 files" in said[-1]
    assert ("without a header: id, path, text" in said[-1]) == (header is None)


@pytest.mark.parametrize("columns", [(1,), (0, 1), (1, 2)], ids=["path", "id path", "path text"])
@pytest.mark.parametrize("sign", ["\t", " "])
def test_a_table_may_lack_ids_or_texts(lists, columns, sign):
    (lists / "t.lst").write_text("".join(sign.join(row[i] for i in columns) + "\n" for row in ROWS))
    key, text = 0 in columns, 2 in columns
    assert found(read_named(lists / "t.lst")) == [
        (one[0] if key else made, *one[1:3], one[3] if text else None)
        for one, made in zip(EXPECTED, ("anna-1", "bert-2"), strict=True)
    ]


def test_paths_of_a_table_may_start_where_the_user_is_or_at_a_root(lists, monkeypatch):
    (lists / "t.tsv").write_text("u1\tanna/1.wav\tone two\nu2\tbert/2.wav\tthree\n")
    assert found(read_named(lists / "t.tsv", root=lists.parent / "speech")) == EXPECTED
    with pytest.raises(ManifestError, match=r"t\.tsv:1: .*lists/anna/1\.wav is missing"):
        read_named(lists / "t.tsv")
    monkeypatch.chdir(lists.parent / "speech")
    assert found(read_named(lists / "t.tsv")) == EXPECTED


def test_links_to_audio_are_followed_and_blanks_in_paths_are_no_end(lists, tmp_path):
    (lists / "my first.wav").symlink_to(tmp_path / "speech/anna/1.wav")
    (lists / "t.txt").write_text(f"my first.wav\n{lists.parent}/speech/bert/2.wav\n")
    assert [row[1:3] for row in found(read_named(lists / "t.txt"))] == [("my first.wav", 1601), ("2.wav", 2402)]


def test_audio_folders_and_archives_are_taken(lists, tmp_path):
    shutil.copy("speech/anna/1.wav", lists / "sound.bin")
    assert found(read_named(lists / "sound.bin"))[0][:3] == ("sound", "sound.bin", 1601)
    assert found(read_named(Path("speech/anna/1.wav")))[0][:3] == ("1", "1.wav", 1601)
    assert [row[0] for row in found(read_named(tmp_path / "speech"))] == ["anna-1", "bert-2"]
    shutil.make_archive(str(lists / "all"), "tar", "speech")
    assert [row.id for row in read_named(lists / "all.tar").utterances] == ["all-anna-1", "all-bert-2"]


@pytest.mark.parametrize("form", ["kaldi", "nemo", "lhotse", "audiofolder", "fairseq"])
def test_lists_of_other_toolkits_are_taken(lists, form):
    (lists / "t.tsv").write_text("".join("\t".join(row) + "\n" for row in ROWS))
    listed = read_named(lists / "t.tsv")
    out = {"nemo": "n.json", "audiofolder": "../speech", "fairseq": "train.tsv"}.get(form, form)
    export_manifest(listed, lists / out, form)
    taken = read_named(lists / out)
    if form == "fairseq":
        assert [row[1:3] for row in found(taken)] == [row[1:3] for row in EXPECTED]
    else:
        assert found(taken) == EXPECTED
    if form == "kaldi":
        assert found(read_named(lists / "kaldi/wav.scp")) == EXPECTED


def test_anybody_s_objects_with_a_path_are_taken_zipped_or_not(lists):
    lines = "".join(json.dumps({"key": key, "wav": path, "sentence": text}) + "\n" for key, path, text in ROWS)
    (lists / "t.jsonl").write_text(lines)
    (lists / "z.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert found(read_named(lists / "t.jsonl")) == found(read_named(lists / "z.jsonl.gz")) == EXPECTED


def test_a_manifest_is_believed_and_no_header_is_read(lists):
    (lists / "m.tsv").write_text("id\tpath\tsamples\trate\tchannels\na\tnowhere.wav\t7\t16000\t1\n")
    said: list[str] = []
    assert read_named(lists / "m.tsv", tell=said.append) == read_manifest(lists / "m.tsv")
    assert not said
    assert is_manifest(lists / "m.tsv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", b"id\ttext\na\thello\n", r"t\.tsv:1: neither a manifest nor a table of audio: .* found 'id.ttext'"),
        (
            "t.txt",
            b"only some words\n",
            r"expected a header with a column `path`, or lines of `path`, `path text`",
        ),
        ("t.tsv", b"\0\1\2", "is neither readable audio nor text in UTF-8"),
        (
            "t.txt",
            "caf\u00e9".encode("latin-1"),
            "is neither readable audio nor text in UTF-8; save a list as UTF-8",
        ),
        ("t.jsonl", b'{"text": "a"}\n', "names no audio: expected a key such as audio_filepath, found text"),
        ("t.json", b"[\n1]\n", "expected a JSON object on each line"),
        ("t.tsv", b"a\tb\tx.wav\n", "nor a table of audio"),
        ("t.tsv", b"", "empty; build it again"),
    ],
)
def test_what_lists_no_audio_is_refused_with_what_was_expected(lists, name, content, message):
    (lists / name).write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_named(lists / name)


def test_broken_audio_is_an_error_of_audio(lists):
    (lists / "x.flac").write_bytes(b"\0\1\2")
    with pytest.raises(AudioError, match=r"x\.flac"):
        read_named(lists / "x.flac")
    with pytest.raises(AudioError, match=r"no such file"):
        read_named(lists / "none.flac")


def test_commands_take_what_was_named_and_keep_it_as_a_manifest(lists, capsys):
    (lists / "t.txt").write_text("".join(" ".join(row) + "\n" for row in ROWS))
    assert main(["manifest", "filter", "lists/t.txt", "-o", "out/m.tsv", "--text"]) == 0
    assert "read as a table without a header" in capsys.readouterr().err
    assert found(read_manifest(Path("out/m.tsv"))) == EXPECTED
    assert main(["manifest", "check", "speech"]) == 0
    assert main(["manifest", "stats", "speech/anna/1.wav"]) == 0
