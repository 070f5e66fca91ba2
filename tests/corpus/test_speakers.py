"""Speakers from folders and patterns: found for every recording, or refused with a count."""

import tarfile
from pathlib import Path

import pytest

from speechssl.__main__ import main
from speechssl.corpus.building import build, speakers_from
from speechssl.data.manifest import read_manifest
from speechssl.errors import ConfigError, ManifestError


@pytest.fixture
def speech(tmp_path, write_wav) -> Path:
    """Write four files of three speakers, in folders at two depths."""
    for i, name in enumerate(("anna/a_1.wav", "anna/a_2.wav", "hall/bert/b_1.wav", "cleo/c_1.flac")):
        write_wav(tmp_path / "speech" / name, 1600 + i)
    return tmp_path / "speech"


def speakers(folder: Path | str, rule: str, **options: Path) -> list[str | None]:
    return [row.speaker for row in build([str(folder)], speaker_from=rule, **options).manifest.utterances]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("folder", ["anna", "anna", "cleo", "bert"]),
        ("^([^/]+)/", ["anna", "anna", "cleo", "hall"]),
        (r"(\d)_|(?P<speaker>[a-z])_\d[.]", ["a", "a", "c", "b"]),
    ],
)
def test_the_speaker_is_the_folder_or_what_the_pattern_s_group_finds(speech, rule, expected):
    assert speakers(speech, rule) == expected


def test_a_folder_of_one_speaker_is_named_for_that_speaker(speech):
    assert speakers(speech / "anna", "folder") == ["anna", "anna"]


def test_members_of_archives_have_folders_too(speech, tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(speech, "x")
    assert sorted(speakers(tmp_path / "all.tar", "folder")) == ["anna", "anna", "bert", "cleo"]


def test_a_side_file_says_more_than_a_folder(speech, tmp_path):
    (tmp_path / "side.tsv").write_text("path\tspeaker\nanna/a_2.wav\tzoe\n")
    assert speakers(speech, "folder", side_file=tmp_path / "side.tsv") == ["anna", "zoe", "cleo", "bert"]


def test_recordings_without_a_speaker_are_counted_and_refused(speech, write_wav):
    with pytest.raises(ManifestError, match=r"from \(\[ab\]\)_: 1 of 4 recordings do not match .*: cleo/c_1\.flac; "):
        speakers(speech, "([ab])_")
    write_wav(speech / "stray.wav")
    with pytest.raises(ManifestError, match=r"folder: 1 of 5 recordings lie in .*speech itself, .*: stray\.wav; move"):
        speakers(speech, "folder")


@pytest.mark.parametrize(("rule", "message"), [("anna", "has no group"), ("(", "not a regular expression")])
def test_a_pattern_that_finds_no_one_is_refused(rule, message):
    with pytest.raises(ConfigError, match=f"--speaker-from .*: {message}"):
        speakers_from(rule, ["a/b.wav"], Path())


def test_the_command_counts_the_speakers(speech, tmp_path, capsys):
    arguments = ["manifest", "build", str(speech), "-o", str(tmp_path / "m.tsv"), "--speaker-from", "folder"]
    assert main(arguments) == 0
    assert "speakers, by folder: 3\n" in capsys.readouterr().out
    assert {row.speaker for row in read_manifest(tmp_path / "m.tsv").utterances} == {"anna", "bert", "cleo"}
