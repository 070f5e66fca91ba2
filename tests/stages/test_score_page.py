"""Which sounds a scoring's page gets, and a model's tokens over them: speechssl.stages.score_page."""

import base64
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
import soundfile

from speechssl.__main__ import main
from speechssl.asr.scoring.evaluate import ScoreConfig, evaluate
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Manifest
from speechssl.errors import ConfigError, ManifestError
from speechssl.hub.saved import SavedModel
from speechssl.stages.score import read_hypotheses, references_of
from speechssl.stages.score_page import PageConfig, read_confidences, write_page
from speechssl.stages.transcribe import transcribe


def page_of(out: Path, manifest: Manifest, **settings: object) -> tuple[list[str], dict, dict[str, bytes]]:
    """Write a page; return its notes, its data, and its sounds by utterance id."""
    rows = references_of(manifest)
    heard = {row.id: row.text for row in rows} | {"u0003": "six six six two one", "u0000": "two", "u0005": "six six"}
    evaluation = evaluate(rows, heard, ScoreConfig(samples=10))
    others = {"model": settings.pop("model", None), "config": PageConfig(**settings)}  # type: ignore[arg-type]
    systems = [(Path("one.tsv"), evaluation)]
    notes = write_page(out, Path("refs.tsv"), manifest, rows, systems, confidences={}, **others)  # type: ignore[arg-type]
    text = out.read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*)</script>', text)[1])  # type: ignore[index]
    assert data["notes"] == notes
    sounds = re.findall(r'<script type="text/plain" id="audio-(\d+)">(.*)</script>', text)
    return notes, data, {rows[int(index)].id: base64.b64decode(body) for index, body in sounds}


def test_the_worst_have_sound_and_it_is_what_the_manifest_lists(corpus: Path, tmp_path: Path) -> None:
    manifest = read_manifest(corpus)
    notes, data, sounds = page_of(tmp_path / "p.html", manifest, worst=2)
    assert set(sounds) == {"u0005", "u0003"}  # WER of 1, and of 2/3 against 1/2 of u0000
    for row in manifest.utterances:
        if row.id in sounds:
            samples, rate = soundfile.read(io.BytesIO(sounds[row.id]), dtype="int16")
            assert rate == 16_000
            assert (samples == soundfile.read(manifest.audio_path(row), dtype="int16")[0]).all()
    assert notes == ["audio of 2 utterances, of the 2 with the highest WER: 16 kHz mono, FLAC"]
    assert [row["s"] for row in data["utterances"]] == [round(row.duration_s, 3) for row in manifest.utterances]


def test_beyond_the_limit_less_is_embedded_and_the_page_says_so(corpus: Path, tmp_path: Path) -> None:
    manifest = read_manifest(corpus)
    _, _, everything = page_of(tmp_path / "p.html", manifest)
    assert len(everything) == 8
    largest = max(map(len, everything.values()))
    limit = (len(everything["u0005"]) + largest // 2) * 4 / 3 / 1e6
    notes, _, sounds = page_of(tmp_path / "p.html", manifest, audio_mb=limit)
    assert set(sounds) == {"u0005"}
    assert notes[1] == f"7 of the worst have no audio here: the limit is {limit:g} MB"
    notes, _, sounds = page_of(tmp_path / "p.html", manifest, audio_mb=0.0)
    assert sounds == {}
    assert notes[1].startswith("8 of the worst")


def test_sound_that_cannot_be_read_is_named_and_the_rest_is_written(corpus: Path, tmp_path: Path) -> None:
    manifest = read_manifest(corpus)
    rows = [dataclasses.replace(row, path="gone.wav") if row.id == "u0003" else row for row in manifest.utterances]
    lost = Manifest(root=manifest.root, utterances=tuple(rows))
    notes, _, sounds = page_of(tmp_path / "p.html", lost, worst=3)
    assert set(sounds) == {"u0005", "u0000"}
    assert notes[1].startswith("the audio of 1 utterances cannot be read: ") and "gone.wav" in notes[1]


def test_the_models_tokens_spell_its_greedy_text(corpus: Path, finetuned: Path, tmp_path: Path) -> None:
    manifest = read_manifest(corpus)
    _, data, sounds = page_of(tmp_path / "p.html", manifest, worst=8, model=finetuned)
    texts = {each.id: each.text for each in transcribe(finetuned, manifest)[0]}
    encoder = SavedModel.read(finetuned).description.encoder
    assert data["fps"] == 16_000 / encoder.hop
    paths = {row["id"]: row["path"] for row in data["utterances"]}
    assert set(paths) == set(sounds) == set(texts)
    spelt = {key: " ".join("".join(each[0] for each in path).replace("|", " ").split()) for key, path in paths.items()}
    assert spelt == texts
    assert any(paths.values())
    for row in manifest.utterances:
        frames = (row.num_samples_16k - encoder.window) // encoder.hop + 1
        ends = [start + count for _, start, count, _ in paths[row.id]]
        assert all(end <= frames for end in ends) and ends == sorted(ends)
        assert all(0 < probability <= 1 for *_, probability in paths[row.id])


def test_confidences_come_from_the_table_or_from_json_lines(tmp_path: Path) -> None:
    lines = tmp_path / "h.jsonl"
    lines.write_text('{"id": "a", "text": "one", "confidence": 0.5}\n{"id": "b", "text": ""}\n')
    assert read_confidences(lines) == {"a": 0.5}
    assert read_hypotheses(lines) == {"a": "one", "b": ""}
    assert read_confidences(lines, {"a": {"confidence": " "}, "b": {"confidence": "0.25"}}) == {"a": 0.5, "b": 0.25}
    assert read_confidences(tmp_path / "h.tsv", {"a": {"sex": "f"}}) == {}
    for wrong in ("high", "nan"):
        with pytest.raises(ManifestError, match=f"a: confidence is '{wrong}', expected a number"):
            read_confidences(tmp_path / "h.tsv", {"a": {"confidence": wrong}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "x"}\n', "h.jsonl:1: expected an object with an id"),
        ("[1]\n", "h.jsonl:1: expected an object with an id"),
        ('{"id": "a"}\n\n{"id": "a"}\n', "h.jsonl:3: a occurs twice"),
        ("{\n", "h.jsonl:1: expected an object"),
    ],
)
def test_json_lines_that_cannot_be_used_are_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "h.jsonl").write_text(content)
    with pytest.raises(ManifestError, match=said):
        read_hypotheses(tmp_path / "h.jsonl")


@pytest.mark.parametrize("change", [{"worst": -1}, {"audio_mb": -0.1}, {"audio_mb": float("nan")}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="worst and audio_mb must be 0 or more"):
        PageConfig(**change)  # type: ignore[arg-type]


def test_the_command_writes_the_page(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {row.id: row.text for row in read_manifest(corpus).utterances}
    for name, lose in (("one.tsv", 2), ("two.tsv", 0)):
        rows = [f"{key}\t{'' if place < lose else text}\n" for place, (key, text) in enumerate(texts.items())]
        (tmp_path / name).write_text("id\ttext\n" + "".join(rows))
    arguments = ["score", str(corpus), str(tmp_path / "one.tsv"), str(tmp_path / "two.tsv"), "--by", "duration"]
    page = tmp_path / "report.html"
    assert main([*arguments, "--samples", "20", "--html", str(page), "--worst", "3"]) == 0
    assert f"{page}: audio of 3 utterances" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert text.count('type="text/plain"') == 3
    data = json.loads(re.search(r'id="data">(.*)</script>', text)[1])  # type: ignore[index]
    assert [each["name"] for each in data["systems"]] == ["one.tsv", "two.tsv"]
    assert data["facts"]["references"] == str(corpus)
    assert data["facts"]["two.tsv"] == str(tmp_path / "two.tsv")
    assert data["differences"][0]["difference"] < 0
    assert list(data["groups"]) == ["duration"]
    assert main([*arguments, "--html", str(page), "--worst", "-1"]) == 2
