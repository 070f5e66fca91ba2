"""What an import took, under which name, and what it left: nothing is lost in silence."""

import csv
import json
from pathlib import Path

import pytest

from speechssl.corpus.formats.exchange import import_manifest
from speechssl.errors import ManifestError


@pytest.fixture
def folder(tmp_path: Path, write_wav) -> Path:
    write_wav(tmp_path / "a.wav", 16_000)
    return tmp_path


def note_of(path: Path, form: str, columns: dict[str, str] | None = None) -> tuple[str, str | None]:
    """Import one utterance; return the note without the name of its file, and the text."""
    manifest, notes = import_manifest(path, form, columns=columns)  # type: ignore[arg-type]
    assert len(notes) == 1
    return notes[0].removeprefix(f"{path}: ").removeprefix(f"{path}/"), manifest.utterances[0].text


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_headers_in_quotes_are_headers(folder, quoting, line_end):
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file, quoting=quoting, lineterminator=line_end)
        writer.writerows([["file_name", "transcription", "age"], ["a.wav", 'hello, "you"', "30"]])
    said, text = note_of(folder, "audiofolder")
    assert said == "metadata.csv: taken: path from file_name, text from transcription; not taken: age"
    assert text == 'hello, "you"'


@pytest.mark.parametrize(
    ("name", "is_known"), [("text", True), ("sentence", True), ("transcript", True), ("said", False)]
)
def test_a_column_of_no_known_name_is_named_and_can_be_asked_for(folder, name, is_known):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "./a.wav", name: "hello"}) + "\n")
    said, text = note_of(folder, "audiofolder")
    assert text == ("hello" if is_known else None)
    assert ("not taken: said" in said) != is_known
    assert note_of(folder, "audiofolder", {"text": name})[1] == "hello"
    with pytest.raises(
        ManifestError, match=rf"columns: expected any of path, .* each = one of file_name, {name}, found"
    ):
        import_manifest(folder, "audiofolder", columns={"text": "words"})


def test_the_first_of_two_texts_is_taken_and_the_other_named(folder):
    row = {"file_name": "a.wav", "sentence": "Hello!", "text": "hello"}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    assert note_of(folder, "audiofolder") == (
        "metadata.jsonl: taken: path from file_name, text; not taken: sentence",
        "hello",
    )
    (folder / "metadata.csv").write_text("file_name\na.wav\n")
    _, notes = import_manifest(folder, "audiofolder")
    assert notes[1] == f"{folder}/metadata.csv: not read, as metadata.jsonl is"


def test_nemo_names_what_it_leaves(folder):
    row = {"audio_filepath": "a.wav", "duration": 1.0, "normalized": "hello", "pred_text": "yellow"}
    (folder / "m.json").write_text(json.dumps(row))  # no last newline
    said, text = note_of(folder / "m.json", "nemo")
    assert (said, text) == (
        "taken: path from audio_filepath, duration_s from duration; not taken: normalized, pred_text",
        None,
    )
    assert note_of(folder / "m.json", "nemo", {"text": "normalized"})[1] == "hello"


def test_kaldi_names_the_tables_it_leaves(folder):
    for name, content in {
        "wav.scp": "a a.wav\n",
        "text": "a hello\n",
        "spk2gender": "a f\n",
        "spk2utt": "a a\n",
    }.items():
        (folder / name).write_text(content)
    assert note_of(folder, "kaldi") == ("taken: path from wav.scp, text; not taken: spk2gender", "hello")


@pytest.mark.parametrize("form", ["kaldi", "lhotse", "fairseq"])
def test_columns_are_refused_where_nothing_has_names_of_its_own(folder, form):
    with pytest.raises(ManifestError, match=rf"columns: {form} has fixed names, found {{'text': 'x'}}"):
        import_manifest(folder, form, columns={"text": "x"})


def test_lhotses_files_have_the_names_that_recipes_give_them(folder):
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": 16_000}
    said = {"id": "s", "recording_id": "r", "start": 0.0, "duration": 1.0, "channel": 0, "text": "hello"}
    for name, row in (
        ("x_recordings_train.jsonl", recording | {"num_samples": 16_000}),
        ("x_supervisions_train.jsonl", said),
    ):
        (folder / name).write_text(json.dumps(row))
    manifest, notes = import_manifest(folder, "lhotse")
    assert (manifest.utterances[0].text, notes) == ("hello", [])
    (folder / "x_supervisions_train.jsonl").unlink()
    manifest, notes = import_manifest(folder, "lhotse")
    assert (manifest.utterances[0].text, len(notes)) == (None, 1)
    assert notes[0].endswith("no texts, as there is no x_supervisions_train.jsonl")
    (folder / "x_recordings_dev.jsonl").write_text("{}")
    with pytest.raises(ManifestError, match=r"holds x_recordings_dev\.jsonl, x_recordings_train\.jsonl; name one"):
        import_manifest(folder, "lhotse")


def test_parts_without_ids_get_some_from_their_times(folder):
    rows = [{"audio_filepath": "a.wav", "offset": start, "duration": 0.25, "text": "x"} for start in (0.0, 0.25, 0.5)]
    rows.append({"audio_filepath": "a.wav", "duration": 1.0})
    (folder / "m.json").write_text("\n".join(map(json.dumps, rows)))
    manifest, _ = import_manifest(folder / "m.json", "nemo")
    ids = ["a-00000000-00000250", "a-00000250-00000500", "a-00000500-00000750", "a"]
    assert [row.id for row in manifest.utterances] == ids
    (folder / "m.json").write_text("\n".join(map(json.dumps, rows[1:])))
    assert [row.id for row in import_manifest(folder / "m.json", "nemo")[0].utterances] == ids[1:]
