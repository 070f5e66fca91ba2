"""Long audio in windows, streams, alignments and files given by name: the stages around a fine-tuned model."""

import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.__main__ import main
from speechssl.asr.lm.arpa import write_arpa
from speechssl.asr.lm.kneser_ney import NGramConfig, estimate
from speechssl.asr.transcripts.timed import Timed
from speechssl.audio.reading import AudioConfig
from speechssl.corpus.named import files_as_manifest
from speechssl.data.batching import Example, collate
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Utterance
from speechssl.errors import AudioError, ConfigError, ManifestError, VocabularyError
from speechssl.hub.saved import SavedModel
from speechssl.stages.align import align
from speechssl.stages.posteriors import PosteriorConfig, log_posteriors, read_ahead
from speechssl.stages.stream import StreamConfig, stream
from speechssl.stages.transcribe import transcribe
from tests.model.precisions import skip_without


@pytest.fixture
def long(corpus, tmp_path) -> Path:
    """Give a file of all utterances of the corpus, one after the other."""
    manifest = read_manifest(corpus)
    pieces = [soundfile.read(manifest.audio_path(row), dtype="int16")[0] for row in manifest.utterances]
    soundfile.write(tmp_path / "long.wav", np.concatenate(pieces), 16_000)
    return tmp_path / "long.wav"


def posteriors(run: Path, manifest, **settings) -> dict[str, torch.Tensor]:
    model, _ = SavedModel.read(run).recogniser()
    return dict(log_posteriors(model, manifest, AudioConfig(), PosteriorConfig(**settings)))


def test_windows_give_as_many_frames_as_the_whole_and_nearly_their_values(finetuned, long):
    manifest = files_as_manifest([long])
    whole = posteriors(finetuned, manifest)["long"]
    parts = posteriors(finetuned, manifest, window_s=3.0, overlap_s=1.5)["long"]
    assert parts.shape == whole.shape
    assert (parts.argmax(-1) == whole.argmax(-1)).float().mean() > 0.95
    assert parts.exp().sum(-1) == pytest.approx(1, abs=1e-4)


def test_what_fits_into_a_window_is_encoded_as_a_whole(finetuned, long):
    manifest = files_as_manifest([long])
    whole, fitting = posteriors(finetuned, manifest), posteriors(finetuned, manifest, window_s=13.0)
    assert torch.equal(whole["long"], fitting["long"])


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("window_s", [60.0, 3.0])
def test_fewer_bits_change_what_is_emitted_by_rounding(finetuned, long, window_s, precision):
    skip_without(precision)
    manifest = files_as_manifest([long])
    exact, rounded = (
        posteriors(finetuned, manifest, window_s=window_s, overlap_s=1.5, precision=each)["long"]
        for each in ("float32", precision)
    )
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.02


def test_reading_ahead_gives_the_same_batches_and_stops_at_the_same_error():
    batches = [collate([Example(id=str(number), waveform=torch.ones(4))]) for number in range(3)]

    def failing():
        yield from batches
        raise AudioError("the fourth")

    assert [batch.ids for batch in read_ahead(iter(batches))] == [("0",), ("1",), ("2",)]
    assert [*read_ahead(iter([]))] == []
    ahead = read_ahead(failing())
    assert [next(ahead).ids for _ in range(3)] == [("0",), ("1",), ("2",)]
    with pytest.raises(AudioError, match="the fourth"):
        next(ahead)


def test_long_and_short_audio_come_in_the_manifests_order(finetuned, corpus):
    manifest = read_manifest(corpus)
    cut_at = sorted(row.duration_s for row in manifest.utterances)[4]
    found, _ = transcribe(finetuned, manifest, PosteriorConfig(window_s=cut_at, overlap_s=0.1, batch_s=2))
    assert [each.id for each in found] == [row.id for row in manifest.utterances]


def test_overlaps_longer_than_the_window_are_refused():
    with pytest.raises(ConfigError, match="expected 0 <= overlap_s < window_s, found 9 and 5"):
        PosteriorConfig(window_s=5, overlap_s=9)


def test_files_are_named_by_their_stems_unless_two_share_one(tmp_path, write_wav):
    paths = [write_wav(tmp_path / name) for name in ("a/x.wav", "b/x.wav", "y.flac")]
    assert [row.id for row in files_as_manifest(paths).utterances] == [str(paths[0]), str(paths[1]), "y"]
    with pytest.raises(ManifestError, match=r"y\.flac: is given twice"):
        files_as_manifest([paths[2], paths[2]])


def test_the_command_writes_every_format_of_files_and_manifests(finetuned, corpus, long, tmp_path, capsys):
    assert main(["transcribe", str(finetuned), str(long), "-o", str(tmp_path / "t.jsonl"), "--window-s", "3"]) == 0
    found = json.loads((tmp_path / "t.jsonl").read_text())
    assert (found["id"], found["path"]) == ("long", str(long))
    assert " ".join(word["text"] for word in found["words"]) == found["text"]
    assert main(["transcribe", str(finetuned), str(corpus), "-o", str(tmp_path / "all.TextGrid")]) == 0
    assert len(list((tmp_path / "all").glob("*.TextGrid"))) == len(read_manifest(corpus).utterances)
    assert "8 files: 8 utterances, 0 skipped" in capsys.readouterr().out
    assert main(["transcribe", str(finetuned), str(corpus), str(long), "-o", str(tmp_path / "t.tsv")]) == 2


def test_the_command_aligns_texts(finetuned, corpus, tmp_path):
    assert main(["align", str(finetuned), str(corpus), "-o", str(tmp_path / "a.ctm")]) == 0
    rows = [line.split() for line in (tmp_path / "a.ctm").read_text().splitlines()]
    for row in read_manifest(corpus).utterances:
        mine = [cells for cells in rows if cells[0] == row.id]
        assert [cells[4] for cells in mine] == row.text.split()
        starts = [float(cells[2]) for cells in mine]
        assert starts == sorted(starts)
        assert 0 <= starts[0] < float(mine[-1][2]) + float(mine[-1][3]) <= row.duration_s + 0.03


def test_alignments_are_the_most_probable_of_all(finetuned, corpus):
    """Compare with every path through a short piece of the trellis."""
    from speechssl.stages.align import _align_tokens

    log_probs = torch.randn(6, 4, generator=torch.Generator().manual_seed(3)).log_softmax(-1)
    ids = [2, 2, 3]
    best = max(_paths(log_probs, ids), key=lambda found: found[0])[1]
    tokens = _align_tokens(log_probs, ids, where="x")
    held = [0] * 6
    for token in tokens:
        held[token.start : token.end] = [token.id] * (token.end - token.start)
    assert held == best


def _paths(log_probs, ids):
    for path in torch.cartesian_prod(*[torch.tensor([0, 2, 3])] * 6).tolist():
        merged = [token for place, token in enumerate(path) if token and (place == 0 or path[place - 1] != token)]
        if merged == ids:
            yield float(log_probs[range(6), path].sum()), path


def test_a_text_that_cannot_be_aligned_is_named_or_counted(finetuned, corpus):
    manifest = read_manifest(corpus)
    first, second, *rest = manifest.utterances
    rows = (dataclasses.replace(first, text="on" * 40), dataclasses.replace(second, text="zebra"), *rest)
    wrong = dataclasses.replace(manifest, utterances=rows)
    with pytest.raises(VocabularyError, match=r"u000[01]: the text (needs 80 frames|holds)"):
        align(finetuned, wrong)
    found, skipped = align(finetuned, wrong, skip=True)
    assert [each.id for each in found] == [row.id for row in rest]
    assert sorted(reason.split(":")[0] for reason in skipped) == ["u0000", "u0001"]
    untold = dataclasses.replace(manifest, utterances=(dataclasses.replace(first, text=None),))
    with pytest.raises(ManifestError, match="1 utterances have no text: u0000"):
        align(finetuned, untold)


def streamed(run: Path, content: bytes, config: StreamConfig) -> list[Timed]:
    model, vocabulary = SavedModel.read(run).recogniser()
    return list(stream(model, vocabulary, io.BytesIO(content), config))


@pytest.mark.parametrize("run", ["finetuned", "finetuned_on_log_mel"])
@pytest.mark.parametrize("chunk_s", [0.25, 1.0, 30.0])
def test_a_stream_that_is_heard_whole_has_the_words_of_the_file(run, long, chunk_s, request):
    finetuned = request.getfixturevalue(run)
    content = soundfile.read(long, dtype="int16")[0].astype("<i2").tobytes()
    (whole,), _ = transcribe(finetuned, files_as_manifest([long]))
    words = streamed(finetuned, content, StreamConfig(chunk_s=chunk_s, ahead_s=20.0, context_s=60.0))
    assert [word.text for word in words] == [word.text for word in whole.words]
    for name in ("start_s", "end_s", "confidence"):
        expected = [getattr(word, name) for word in whole.words]
        assert [getattr(word, name) for word in words] == pytest.approx(expected, rel=1e-5)


def test_a_stream_longer_than_its_context_keeps_its_clock(finetuned, long):
    content = soundfile.read(long, dtype="int16")[0].astype("<i2").tobytes()
    words = streamed(finetuned, content, StreamConfig(chunk_s=0.3, ahead_s=0.5, context_s=3.0))
    starts = [word.start_s for word in words]
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert words[-1].end_s <= len(content) / 32_000 + 0.03


def test_a_stream_that_ends_within_a_sample_says_so(finetuned):
    with pytest.raises(AudioError, match="ended within a sample"):
        streamed(finetuned, b"\0" * 32_001, StreamConfig())
    assert streamed(finetuned, b"", StreamConfig()) == []
    with pytest.raises(ConfigError, match="below context_s"):
        StreamConfig(chunk_s=10, ahead_s=10)


def test_the_command_reads_samples_from_standard_input(finetuned, long, tmp_path, monkeypatch, capsys):
    content = soundfile.read(long, dtype="int16")[0].astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["transcribe", str(finetuned), "-", "-o", str(tmp_path / "s.jsonl")]) == 0
    found = json.loads((tmp_path / "s.jsonl").read_text())
    assert found["id"] == "stream"
    assert len(capsys.readouterr().out.splitlines()) == len(found["text"].split()) + 1


@pytest.mark.parametrize("given", [["--beam", "8"], ["--hot-word", "two"], ["--nbest", "3"], ["--flashlight"]])
def test_a_search_of_samples_from_standard_input_is_refused(finetuned, tmp_path, capsys, given):
    assert main(["transcribe", str(finetuned), "-", "-o", str(tmp_path / "s.jsonl"), *given]) == 2
    assert f"{given[0]}: samples from stdin are decoded greedily" in capsys.readouterr().err


def test_what_a_file_cannot_hold_is_refused_before_anything_is_heard(finetuned, corpus, tmp_path, monkeypatch, capsys):
    heard = []
    monkeypatch.setattr("speechssl.stages.transcribe.log_posteriors", lambda *given, **named: heard.append(given) or ())
    odd = shutil.copy(corpus.parent / "u0001.wav", tmp_path / "a\tb\nc.wav")
    for out, said in (
        ("t.tsv", "has a tab or line break in id"),
        ("t.doc", "expected a name that ends in one of .tsv"),
    ):
        assert main(["transcribe", str(finetuned), str(odd), "-o", str(tmp_path / out)]) == 2
        assert said in capsys.readouterr().err
    assert not heard
    monkeypatch.undo()
    assert main(["transcribe", str(finetuned), str(odd), "-o", str(tmp_path / "t.jsonl")]) == 0
    assert json.loads((tmp_path / "t.jsonl").read_text())["id"] == "a\tb\nc"


def test_the_command_searches_with_a_language_model_and_lists_alternatives(finetuned, corpus, tmp_path):
    words, lm, out = tmp_path / "lexicon.tsv", tmp_path / "lm.arpa", tmp_path / "t.jsonl"
    assert main(["lm", "build", str(corpus), "-o", str(lm), "--order", "2"]) == 0
    assert main(["lm", "lexicon", str(corpus), "-o", str(words), "--model", str(finetuned)]) == 0
    common = ["transcribe", str(finetuned), str(corpus), "-o", str(out), "--beam", "20", "--nbest", "3"]
    assert main([*common, "--lm", str(lm), "--lexicon", str(words)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {word for row in rows for word in row["text"].split()} <= {"one", "two", "six", "ten"}
    scores = [alternative["score"] for alternative in rows[0]["alternatives"]]
    assert 1 < len(scores) <= 3
    assert scores == sorted(scores, reverse=True)
    assert rows[0]["alternatives"][0]["text"] == rows[0]["text"]
    assert main([*common, "--flashlight"]) == 2


def test_the_command_takes_what_tuning_found(finetuned, corpus, tmp_path):
    lm, folder, out = tmp_path / "lm.arpa", tmp_path / "tuned", tmp_path / "t.tsv"
    assert main(["lm", "build", str(corpus), "-o", str(lm), "--order", "2"]) == 0
    grid = ["--lm-weights", "0 2", "--word-scores", "0", "--rounds", "0", "--beam", "10"]
    assert main(["lm", "tune", str(finetuned), str(corpus), "--lm", str(lm), "-o", str(folder), *grid]) == 0
    assert main(["transcribe", str(finetuned), str(corpus), "-o", str(out), "--tuned", str(folder)]) == 0
    best = json.loads((folder / "tune.json").read_text())["best"]
    assert main(["score", str(corpus), str(out), "-o", str(tmp_path / "score.json"), "--samples", "10"]) == 0
    assert json.loads((tmp_path / "score.json").read_text())["wer"] == pytest.approx(best["wer"])
    assert main(["transcribe", str(finetuned), str(corpus), "-o", str(out), "--tuned", str(tmp_path)]) == 2


@pytest.mark.parametrize("command", ["transcribe", "align", "lm tune"])
def test_narrowband_audio_is_heard_with_the_option_that_the_error_advises(
    command, finetuned, write_wav, tmp_path, capsys
):
    row = Utterance(id="a", path="a.wav", num_samples=8000, sample_rate=8000, channels=1, text="one")
    write_wav(tmp_path / "a.wav", 8000, rate=8000)
    write_manifest(tmp_path / "a.tsv", [row])
    words = [*command.split(), str(finetuned), str(tmp_path / "a.tsv"), "-o", str(tmp_path / "out.jsonl")]
    if command == "lm tune":
        write_arpa(tmp_path / "lm.arpa", estimate([["one", "two"]], NGramConfig(order=1)))
        words += ["--lm", str(tmp_path / "lm.arpa"), "--beam", "2", "--lm-weights", "0", "--word-scores", "0"]
        words[words.index("-o") + 1] = str(tmp_path / "out")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "audio is 8000 Hz, expected at least 16000; remove it, or set --min-sample-rate 8000 to accept" in said
    assert main([*words, "--min-sample-rate", "8000"]) == 0
