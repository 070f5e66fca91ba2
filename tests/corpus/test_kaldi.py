"""Kaldi's data directories: what Kaldi would run, cut or look up elsewhere is refused by name."""

from dataclasses import replace

import pytest

from speechssl.corpus.formats.exchange import export_manifest, import_manifest
from speechssl.data.utterances import Manifest
from speechssl.errors import ManifestError


@pytest.fixture
def directory(tmp_path, write_wav):
    """Give a function that writes files of a data directory beside two recordings, and reads it."""
    write_wav(tmp_path / "a.wav", 16_000)
    write_wav(tmp_path / "b.wav", 8000)

    def read(**files: str) -> Manifest:
        for name, text in ({"wav_scp": "a a.wav\nb  b.wav\n"} | files).items():
            (tmp_path / name.replace("_", ".")).write_text(text, encoding="utf-8")
        return import_manifest(tmp_path, "kaldi")[0]

    return read


def test_tables_are_joined_by_key_in_any_order(directory):
    found = directory(text="b zo  dus\na\n", utt2spk="b s\na a\n", utt2lang="a\tnl\nb nl\n")
    assert [(row.id, row.text, row.speaker, row.language) for row in found.utterances] == [
        ("a", None, None, "nl"),
        ("b", "zo  dus", "s", "nl"),
    ]


@pytest.mark.parametrize("path", ["sph2pipe -f wav a.sph |", "touch ran; cat a.wav|", "| cat"])
def test_commands_are_refused_by_name_and_not_run(directory, tmp_path, path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ManifestError, match=r"wav\.scp:1: .* is a command, and commands are not run"):
        directory(wav_scp=f"a {path}\n")
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "wav.scp"]


@pytest.mark.parametrize("path", ["-", "raw.ark:1203", "raw.ark:1203[0:5]"])
def test_archives_and_standard_input_are_refused(directory, path):
    with pytest.raises(ManifestError, match=r"wav\.scp:1: Kaldi reads .* as standard input or part of an archive"):
        directory(wav_scp=f"a {path}\n")


def test_segments_that_are_whole_recordings_rename_them(directory):
    found = directory(segments="utt-b b 0 0.5\nutt-a a 0.00 -1\n", text="utt-a ja\n")
    assert [(row.id, row.path, row.text) for row in found.utterances] == [
        ("utt-b", "b.wav", None),
        ("utt-a", "a.wav", "ja"),
    ]


@pytest.mark.parametrize(
    ("segment", "start", "end"),
    [("a 0.2 1.0", 3200, 16_000), ("a 0 0.5", 0, 8000), ("a 0.3 -1", 4800, 16_000), ("a 0.99 1.04", 15_840, 16_000)],
)
def test_segments_are_parts_of_recordings(directory, segment, start, end):
    (row,) = directory(segments=f"utt {segment}\n", text="utt ja\n").utterances
    assert (row.id, row.path, row.text, row.file_samples) == ("utt", "a.wav", "ja", 16_000)
    assert (row.start, row.start + row.num_samples) == (start, end)


def test_segments_that_meet_share_no_sample_and_leave_none_out(directory):
    found = directory(segments="u a 0.11111 0.3333\nv a 0.3333 0.7777\n").utterances
    assert found[0].start + found[0].num_samples == found[1].start


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"text": "c no such\n"}, r"text:1: 1 keys are not utterances of the directory: c"),
        ({"wav_scp": "a a.wav\na b.wav\n"}, r"wav\.scp:2: a occurs twice, first at .*:1"),
        ({"wav_scp": "a\n"}, r"wav\.scp:1: expected a key and a value"),
        ({"segments": "u c 0 1\n"}, r"segments:1: the recording 'c' is not in wav\.scp"),
        ({"segments": "u a 0\n"}, r"segments:1: expected `utterance recording start end`"),
        (
            {"segments": "u a 0 2.5\n"},
            r"segments:1: starts at 0 s and ends at 2\.5 s, a\.wav lasts 1 s: not a part of it",
        ),
        ({"segments": "u a 0 nan\n"}, r"segments:1: starts at 0 s and ends at nan s"),
        ({"segments": "u a 0.5 0.5\n"}, r"segments:1: starts at 0\.5 s and ends at 0\.5 s"),
        ({"segments": "u a 1 -1\n"}, r"segments:1: starts at 1 s, a\.wav lasts 1 s"),
        ({"segments": "u a -1 0.5\n"}, r"segments:1: starts at -1 s"),
        ({"segments": "u a 1e999 1e999\n"}, r"segments:1: starts at inf s"),
    ],
)
def test_tables_that_do_not_fit_are_named(directory, files, message):
    with pytest.raises(ManifestError, match=message):
        directory(**files)


def test_what_is_written_is_sorted_by_bytes_with_every_speaker_listed(corpus, tmp_path):
    notes = export_manifest(corpus, tmp_path / "out", "kaldi")
    ids = sorted((row.id for row in corpus.utterances), key=str.encode)
    for name in ("wav.scp", "text", "utt2spk", "utt2lang"):
        lines = (tmp_path / "out" / name).read_text(encoding="utf-8").splitlines()
        assert [line.split(" ")[0] for line in lines] == ids
    speakers = (tmp_path / "out/spk2utt").read_text(encoding="utf-8")
    assert speakers == "anna anna-1601 anna-2401\nbert bert-4001\nběta běta-3201\n"
    assert notes == ["a Kaldi data directory has no place for split: left out"]
    other = replace(corpus, utterances=tuple(replace(row, speaker=row.speaker[::-1]) for row in corpus.utterances))
    assert "do not sort like their speakers" in export_manifest(other, tmp_path / "out", "kaldi")[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "a b"}, r"'a b': 'a b' has a blank, where Kaldi would split it"),
        ({"speaker": "anna b"}, r"'anna b' has a blank"),
        ({"path": "rm -r x |"}, r"is a command"),
        ({"path": "x.ark:12"}, r"standard input or part of an archive"),
        ({"path": "x.wav "}, r"Kaldi cannot hold the path"),
    ],
)
def test_what_kaldi_would_read_as_something_else_is_not_written(corpus, tmp_path, change, message):
    wrong = replace(corpus, utterances=(replace(corpus.utterances[0], **change),))
    with pytest.raises(ManifestError, match=message):
        export_manifest(wrong, tmp_path / "out", "kaldi")
    assert not (tmp_path / "out").exists()


def test_a_second_export_leaves_no_texts_of_the_first(corpus, tmp_path):
    export_manifest(corpus, tmp_path / "out", "kaldi")
    silent = replace(corpus, utterances=tuple(replace(row, text=None) for row in corpus.utterances))
    export_manifest(silent, tmp_path / "out", "kaldi")
    assert not (tmp_path / "out/text").exists()
