"""Archives in a build: shards with texts, ids, what is passed over, what is refused; also beside plain files."""

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.corpus.building import build, describe_built
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.errors import AudioError, ManifestError

Pack = Callable[..., Path]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, write_wav: Callable[..., Path]) -> bytes:
    return write_wav(tmp_path_factory.mktemp("sound") / "a.flac", 1600).read_bytes()


@pytest.fixture
def pack(tmp_path: Path, sound: bytes) -> Pack:
    """Give a function that packs members into `speech/NAME`; True stands for a sound."""

    def write(name: str, members: dict[str, bytes | str | bool]) -> Path:
        path = tmp_path / "speech" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        contents = {
            key: sound if value is True else value.encode() if isinstance(value, str) else value
            for key, value in members.items()
        }
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                for key, value in contents.items():
                    archive.writestr(key, value)
        else:
            with tarfile.open(path, "w") as tar:
                for key, value in contents.items():
                    info = tarfile.TarInfo(key)
                    info.size = len(value)
                    tar.addfile(info, io.BytesIO(value))
        return path

    return write


def said(built) -> dict[str, tuple[str | None, ...]]:
    return {row.id: (row.text, row.speaker, row.language) for row in built.manifest.utterances}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_shard_gives_utterances_with_what_stands_beside_them(pack, tmp_path, kind):
    about = {"text": " one  two\n", "speaker_id": 7, "lang": "en"}
    members = {"0/17.flac": True, "0/17.json": json.dumps(about), "0/18.json": "{}", "0/18.flac": True}
    members |= {"0/19.txt": "drei\tvier\n", "0/19.json": '{"text": "not this", "speaker": "bert"}', "0/19.flac": True}
    pack(f"shards/3.{kind}", members)
    built = build([str(tmp_path / "speech")])
    assert said(built) == {
        "shards-3-0-17": ("one  two", "7", "en"),
        "shards-3-0-18": (None, None, None),
        "shards-3-0-19": ("drei vier", "bert", None),
    }
    assert built.passed_over == {}
    write_manifest(tmp_path / "m.tsv", built.manifest.utterances)
    again = read_manifest(tmp_path / "m.tsv", root=tmp_path / "speech")
    assert list(again.utterances) == list(built.manifest.utterances)


def test_what_is_listed_in_an_archive_reads_as_the_file_does(pack, tmp_path, sound):
    pack("x.tar", {"a.flac": True})
    (tmp_path / "a.flac").write_bytes(sound)
    manifest = build([str(tmp_path / "speech")]).manifest
    (row,) = manifest.utterances
    assert (row.num_samples, row.sample_rate, row.channels) == (1600, 16_000, 1)
    found = read_audio(manifest.place(row), AudioConfig())
    assert torch.equal(found, read_audio(tmp_path / "a.flac", AudioConfig()))


def test_files_and_archives_are_listed_together_in_order_of_their_paths(pack, tmp_path, sound):
    pack("b.tar", {"2.flac": True, "1.flac": True})
    pack("d/e.zip", {"1.flac": True})
    for name in ("a.flac", "c.flac"):
        (tmp_path / "speech" / name).write_bytes(sound)
    for workers in (1, 3):
        built = build([str(tmp_path / "speech")], workers=workers)
        assert list(said(built)) == ["a", "b-2", "b-1", "c", "d-e-1"]
    only = build([str(tmp_path / "speech")], archives=False)
    assert list(said(only)) == ["a", "c"]
    assert only.passed_over == {".tar": 1, ".zip": 1}


def test_archives_named_directly_and_a_list_of_them(pack, tmp_path):
    one, other = pack("x/0.tar", {"a.flac": True}), pack("y/0.tar", {"a.flac": True})
    assert list(said(build([str(one)]))) == ["0-a"]
    both = build([str(one), str(other)])
    assert list(said(both)) == ["x-0-a", "y-0-a"]
    assert both.manifest.root == tmp_path / "speech"
    (tmp_path / "speech/all.txt").write_text("x/0.tar\n\ny\n", encoding="utf-8")
    assert build([str(tmp_path / "speech/all.txt")]).manifest == both.manifest
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(ManifestError, match=r"none\.txt: lists nothing"):
        build([str(tmp_path / "none.txt")])
    with pytest.raises(ManifestError, match=r"m\.tsv: is neither a folder, an archive, audio nor a list"):
        (tmp_path / "m.tsv").write_text("x")
        build([str(tmp_path / "m.tsv")])


def test_a_sample_whose_suffix_has_two_parts_gets_its_text(pack, tmp_path):
    pack("x.tar", {"1.audio.flac": True, "1.json": '{"text": "one"}', "2.a.flac": True, "2.b.flac": True, "2.txt": "?"})
    built = build([str(tmp_path / "speech")])
    assert said(built)["x-1.audio"] == ("one", None, None)
    assert said(built)["x-2.a"] == said(built)["x-2.b"] == (None, None, None)  # whose text it is, nobody knows
    assert built.passed_over == {".txt": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9", "'a.txt': not UTF-8 at byte 3"),
        ("a.json", b"{", "'a.json': not JSON"),
        ("a.json", b"[" * 100_000, "'a.json': "),
        ("a.json", b"[1]", r"'a.json': expected a JSON object, found '\[1\]'"),
        ("a.json", b'{"text": ["one"]}', r"text is \['one'\], expected a string"),
        ("a.json", rb'{"text": "\ud800"}', "not Unicode text"),
    ],
)
def test_a_text_that_cannot_be_taken_is_named_and_the_audio_kept(pack, tmp_path, name, content, message):
    pack("x.tar", {"a.flac": True, name: content})
    with pytest.raises(AudioError, match=rf"x\.tar: .*{message}"):
        build([str(tmp_path / "speech")])
    built = build([str(tmp_path / "speech")], skip_bad=True)
    assert said(built) == {"x-a": (None, None, None)}
    assert len(built.errors) == 1


def test_nothing_in_an_archive_is_left_out_in_silence(pack, tmp_path, sound):
    members = {
        "a.flac": True,
        "bad.flac": b"no sound",
        "cut.flac": sound[:30],
        "b.m4a": b"x",
        "notes": b"",
        "d.npy": b"",
    }
    pack("x.tar", {**members, "in.tar": b"", "../out.flac": True, "alone.txt": b""})
    (tmp_path / "speech/y.tar.gz").write_bytes(b"\x1f\x8b")
    built = build([str(tmp_path / "speech")], skip_bad=True)
    assert list(said(built)) == ["x-a"]
    assert len(built.errors) == 5
    for name in ("bad.flac", "cut.flac", "b.m4a", "../out.flac", "y.tar.gz"):
        assert sum(name in str(error) for error in built.errors) == 1, name
    assert built.passed_over == {"": 1, ".npy": 1, ".tar": 1, ".txt": 1}
    assert sorted(describe_built(built)[0].split(": ")[1].split(", ")) == [
        "1 .npy",
        "1 .tar",
        "1 .txt",
        "1 without suffix",
    ]


def test_two_members_of_one_name_are_refused(pack, tmp_path):
    path = pack("x.tar", {"a.flac": True})
    with tarfile.open(path, "a") as tar:
        tar.add(__file__, "other.py")
        info = tarfile.TarInfo("./a.flac")
        content = path.read_bytes()[512 : 512 + tar.getmember("a.flac").size]
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ManifestError, match=r"the id 'x-a' belongs to x\.tar:512:\d+ and to x\.tar:"):
        build([str(tmp_path / "speech")])


def test_an_archive_that_cannot_be_opened_is_named(pack, tmp_path):
    pack("x.tar", {"a.flac": True})
    (tmp_path / "speech/y.tar").symlink_to(tmp_path / "none")
    (tmp_path / "speech/z.zip").write_bytes(b"")
    built = build([str(tmp_path / "speech")], skip_bad=True)
    assert list(said(built)) == ["x-a"]
    assert [str(error).split(": ")[1] for error in built.errors] == [
        "a broken link; remove it",
        "is damaged or truncated (empty file); copy it again",
    ]


def test_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "speech").mkdir()
    os.mkfifo(tmp_path / "speech/a.wav")
    with pytest.raises(AudioError, match=r"a\.wav: no regular file; remove it"):
        build([str(tmp_path / "speech")])


def test_a_link_back_to_a_folder_above_is_followed_once(tmp_path, sound):
    (tmp_path / "speech/sub").mkdir(parents=True)
    (tmp_path / "speech/a.flac").write_bytes(sound)
    (tmp_path / "speech/sub/back").symlink_to(tmp_path / "speech")
    built = build([str(tmp_path / "speech")])
    assert list(said(built)) == ["a"]
    assert built.passed_over == {"links to a folder above": 1}


def test_a_name_as_long_as_file_systems_allow_is_listed(pack, tmp_path, sound):
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / ("é" * 125 + ".flac")).write_bytes(sound)
    pack("x.tar", {"d/" * 40 + "y" * 250 + ".flac": True})
    assert [len(key) for key in said(build([str(tmp_path / "speech")]))] == [332, 125]
