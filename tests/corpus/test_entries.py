"""What a list from elsewhere names does not leave the root, and odd names work or are refused by name."""

import json
import os
from pathlib import Path

import pytest

from speechssl.corpus.entries import Entry, as_manifest, place, text_lines
from speechssl.corpus.formats.exchange import export_manifest, import_manifest
from speechssl.errors import ManifestError


@pytest.fixture
def root(tmp_path, write_wav) -> Path:
    """Lay out a folder of audio, a file beside it, and links of every kind."""
    write_wav(tmp_path / "root/a/in.wav", 800)
    write_wav(tmp_path / "outside.wav", 800)
    for name, target in (
        ("inner.wav", "a/in.wav"),
        ("link.wav", "../outside.wav"),
        ("absolute.wav", str(tmp_path / "outside.wav")),
        ("up", ".."),
        ("loop", "loop"),
        ("dangling", "../gone.wav"),
    ):
        (tmp_path / "root" / name).symlink_to(target)
    os.mkfifo(tmp_path / "root/pipe.wav")
    return tmp_path / "root"


@pytest.mark.parametrize("written", ["a/in.wav", "./a/in.wav", "a/../a/in.wav", "inner.wav", "up/root/a/in.wav"])
def test_paths_below_the_root_are_taken(root, written):
    assert (root / place(written, root, where="t:1")).samefile(root / "a/in.wav")


@pytest.mark.parametrize(
    "written",
    ["../outside.wav", "a/../../outside.wav", "link.wav", "absolute.wav", "up/outside.wav", "/etc/passwd", "dangling"],
)
def test_paths_that_leave_the_root_are_refused_whatever_way_they_take(root, written):
    with pytest.raises(ManifestError, match=rf"^t:1: '{written}' leaves the root .* with --root"):
        place(written, root, where="t:1")


def test_another_root_may_be_named(root):
    outer = root.parent
    assert place(str(root / "link.wav"), outer, where="t:1") == "root/link.wav"
    assert place(str(outer / "outside.wav"), outer, where="t:1") == "outside.wav"


def test_a_root_that_is_a_link_holds_what_lies_behind_it(root):
    (root.parent / "name").symlink_to("root")
    assert place("a/in.wav", root.parent / "name", where="t:1") == "a/in.wav"
    assert place(str(root / "a/in.wav"), root.parent / "name", where="t:1") == "a/in.wav"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "is empty"),
        ("a\tb.wav", r"'a\\tb\.wav' is empty or has a tab"),
        ("a\nb.wav", "has a tab or line break"),
        ("a\rb.wav", "has a tab or line break"),
        ("a\0b.wav", "has a tab or line break"),
        ("a\udcff.wav", r"'a\\udcff\.wav' is not UTF-8; rename the file"),
        ("a", "is missing, or no regular file"),
        ("pipe.wav", "is missing, or no regular file"),
        ("gone.wav", "is missing, or no regular file"),
        ("loop", "(cannot be followed|is not there)"),  # Python 3.13 resolves it to itself
        ("x" * 256 + ".wav", "(cannot be followed|is not there)"),
    ],
)
def test_names_that_cannot_be_used_are_refused_by_name(root, written, message):
    with pytest.raises(ManifestError, match=message):
        place(written, root, where="t:1")


NAMES = [
    " a b.wav",
    "a  .wav",
    "é" * 125 + "e.wav",
    "x" * 251 + ".wav",
    "a,\"b';$(x)`.wav",
    "-.wav",
    "#%?.wav",
    "日本.wav",
]


@pytest.mark.parametrize("form", ["table", "nemo", "lhotse", "audiofolder", "kaldi"])
def test_odd_names_come_back_from_every_format(tmp_path, write_wav, form):
    entries = []
    for number, name in enumerate(NAMES):
        assert len(name.encode()) <= 255
        write_wav(tmp_path / "speech" / name, 800)
        entries.append(Entry(where="t", path=name, id=f"u{number}"))
    corpus = as_manifest(entries, tmp_path / "speech")
    targets = {"table": "o/t.csv", "nemo": "o/n.json", "lhotse": "o", "audiofolder": "speech", "kaldi": "o"}
    export_manifest(corpus, tmp_path / targets[form], form)
    assert import_manifest(tmp_path / targets[form], form, root=tmp_path / "speech")[0] == corpus


@pytest.mark.parametrize(
    ("form", "file", "line"),
    [
        ("fairseq", "t.tsv", "{root}\n../outside.wav\t800\n"),
        ("kaldi", "wav.scp", "u ../outside.wav\n"),
        ("nemo", "n.json", '{{"audio_filepath": "../outside.wav", "duration": 0.05}}\n'),
        ("table", "t.csv", "path\n{root}/../outside.wav\n"),
        ("audiofolder", "metadata.jsonl", '{{"file_name": "link.wav"}}\n'),
    ],
)
def test_no_format_opens_the_way_out(root, form, file, line):
    (root / file).write_text(line.format(root=root), encoding="utf-8")
    source = root if form in ("kaldi", "audiofolder") else root / file
    with pytest.raises(ManifestError, match=rf"{file}:\d: .* leaves the root"):
        import_manifest(source, form)


@pytest.mark.parametrize("text", ["a\tb", "a\nb", "\udc80"])
def test_texts_a_manifest_cannot_hold_are_named(root, text):
    (root / "n.json").write_text(json.dumps({"audio_filepath": "a/in.wav", "text": text}) + "\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"n\.json:1: '.*' has a tab or line break, or is not UTF-8"):
        import_manifest(root / "n.json", "nemo")


def test_lines_end_as_on_any_system_and_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "t").write_bytes("\ufeffa b\r\nc\u2028d\n".encode())
    assert list(text_lines(tmp_path / "t")) == [(f"{tmp_path}/t:1", "a b"), (f"{tmp_path}/t:2", "c\u2028d")]
