"""NeMo's lines: its own keys for what it knows, parts of recordings, paths that move with the audio."""

import json
from pathlib import Path

import pytest

from speechssl.corpus.formats.exchange import export_manifest, import_manifest
from speechssl.errors import ManifestError


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_paths_are_relative_beside_the_audio_and_whole_elsewhere(corpus, tmp_path):
    export_manifest(corpus, corpus.root / "train.json", "nemo")
    assert rows(corpus.root / "train.json")[0] == {
        "audio_filepath": "a/one.wav",
        "duration": 1601 / 16_000,
        "text": "to be",
        "id": "anna-1601",
        "speaker": "anna",
        "lang": "en",
        "split": "train",
    }
    assert import_manifest(corpus.root / "train.json", "nemo")[0] == corpus
    for target in (tmp_path / "train.json", tmp_path / "far/train.json"):
        export_manifest(corpus, target, "nemo")
        assert rows(target)[0]["audio_filepath"] == str(corpus.root / "a/one.wav")
        assert import_manifest(target, "nemo", root=corpus.root)[0] == corpus


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 0.05, "duration": 0.2}, r"starts at 0\.05 s and lasts 0\.2 s, a/one\.wav lasts 0\.1000"),
        ({"offset": 0.0, "duration": 0.0}, r"starts at 0 s and lasts 0 s"),
        ({"offset": -0.01, "duration": 0.02}, r"starts at -0\.01 s"),
        ({"duration": 9.0}, r"states 9 s, a/one\.wav lasts 0\.1000"),
        ({"duration": "long"}, r"duration is 'long', expected seconds"),
        ({"duration": float("nan")}, r"states nan s"),
        ({"audio_filepath": None}, r"the path '' is empty"),
        ({"audio_filepath": ["a/one.wav"]}, r"audio_filepath is \['a/one\.wav'\], expected a string"),
        ({"id": ""}, r"the id is empty"),
    ],
)
def test_what_a_manifest_cannot_hold_is_named(corpus, tmp_path, change, message):
    row = {"audio_filepath": "a/one.wav", "duration": 0.1, "text": ""} | change
    (tmp_path / "n.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=rf"n\.json:1: .*{message}"):
        import_manifest(tmp_path / "n.json", "nemo", root=corpus.root)


def test_rounded_durations_numbers_as_speakers_and_keys_of_others_are_taken(corpus, tmp_path):
    row = {"audio_filepath": "a/one.wav", "duration": 0.12, "speaker": 17, "offset": 0, "pred_text": "x"}
    (tmp_path / "n.json").write_text(json.dumps(row) + "\n\n", encoding="utf-8")
    (found,) = import_manifest(tmp_path / "n.json", "nemo", root=corpus.root)[0].utterances
    assert (found.id, found.speaker, found.num_samples, found.text) == ("a-one", "17", 1601, None)


def test_an_offset_makes_a_part(corpus, tmp_path):
    row = {"audio_filepath": "a/one.wav", "offset": 0.05, "duration": 0.025}
    (tmp_path / "n.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (found,) = import_manifest(tmp_path / "n.json", "nemo", root=corpus.root)[0].utterances
    assert (found.start, found.num_samples, found.file_samples) == (800, 400, 1601)
