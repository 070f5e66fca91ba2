"""Streams of other units than letters: speechssl.stages.stream. Those of letters are in test_transcribe."""

import io

import numpy as np
import pytest
import soundfile
import torch

from speechssl.hub.saved import SavedModel
from speechssl.stages.stream import StreamConfig, stream, transcribe_stream
from speechssl.text.vocabulary import Vocabulary
from speechssl.text.writing import WritingConfig


def test_words_are_told_as_they_end_and_all_are_in_the_transcript(finetuned, corpus):
    content = b"".join(
        soundfile.read(str(path), dtype="int16")[0].astype("<i2").tobytes()
        for path in sorted(corpus.parent.glob("*.wav"))
    )
    source, told = io.BytesIO(content), []
    config = StreamConfig(chunk_s=0.1, ahead_s=0.1, context_s=2.0)
    found = transcribe_stream(finetuned, source, config, tell=lambda word: told.append((word, source.tell())))
    assert found.words == tuple(word for word, _ in told)
    assert (found.id, found.text) == ("stream", " ".join(word.text for word in found.words))
    assert found.duration_s == found.words[-1].end_s
    assert told[0][1] < len(content)  # before the end was heard
    empty = transcribe_stream(finetuned, io.BytesIO(), tell=told.append)
    assert (empty.text, empty.duration_s, empty.words) == ("", 0.0, ())


@pytest.mark.parametrize("chunk_s", [0.02, 0.05, 0.33])
def test_a_stream_of_pieces_yields_a_word_when_the_next_begins(finetuned, monkeypatch, chunk_s):
    """Samples say themselves which token their frame is; repeats must not be cut into two words."""
    model, _ = SavedModel.read(finetuned).recogniser()
    hop, window = model.encoder.config.hop, model.encoder.config.window
    scores = {"▁": -1.0, "▁ab": -1.0, "c": -2.0}
    pieces = Vocabulary(("<blank>", *scores), "pieces", scores=scores)
    path = [0, 2, 2, 2, 3, 0, 3, 2, 2, 0, 2, 1, 1, 3, 0, 0, 2, 3]
    samples = np.repeat(path, hop).astype("<i2") * 1000
    content = np.concatenate([samples, np.zeros(window - hop, "<i2")]).tobytes()

    def log_probs(_: object, heard: torch.Tensor, __: bool) -> torch.Tensor:
        ids = (heard[::hop][: (len(heard) - window) // hop + 1] * 2**15 / 1000).round().long()
        return torch.nn.functional.one_hot(ids, 4).float().clamp(min=1e-6).log()

    monkeypatch.setattr("speechssl.stages.stream._log_probs", log_probs)
    config = StreamConfig(chunk_s=chunk_s, ahead_s=0.0, context_s=5.0)
    words = list(stream(model, pieces, io.BytesIO(content), config))
    assert (
        [word.text for word in words]
        == ["abcc", "ab", "ab", "c", "abc"]
        == pieces.decode([2, 3, 3, 2, 2, 1, 3, 2, 3]).split()
    )
    assert [round((word.start_s * 16_000 - (window - hop) / 2) / hop) for word in words] == [1, 7, 10, 13, 16]


@pytest.mark.parametrize("chunk_s", [0.02, 0.33])
@pytest.mark.parametrize(
    ("written_in", "writing", "text"),
    [
        ("letters", WritingConfig(), "ab b a"),
        ("letters", WritingConfig(boundary="_"), "ab_b_a"),
        ("letters", WritingConfig(boundary=""), "abba"),
        ("phones", WritingConfig(), "a b | b | a"),
        ("phones", WritingConfig(boundary=""), "a b b a"),
    ],
)
def test_the_text_of_a_stream_is_written_as_the_model_writes_files(
    finetuned, monkeypatch, chunk_s, written_in, writing, text
):
    vocabulary = Vocabulary(("<blank>", "|", "a", "b"), written_in, writing=writing)
    path = [0, 2, 3, 3, 1, 1, 3, 0, 1, 1, 1, 2, 2]
    saved = SavedModel.read(finetuned)
    model, _ = saved.recogniser()
    hop, window = model.encoder.config.hop, model.encoder.config.window
    samples = np.concatenate([np.repeat(path, hop).astype("<i2") * 1000, np.zeros(window - hop, "<i2")])

    def log_probs(_: object, heard: torch.Tensor, __: bool) -> torch.Tensor:
        ids = (heard[::hop][: (len(heard) - window) // hop + 1] * 2**15 / 1000).round().long()
        return torch.nn.functional.one_hot(ids, 4).float().clamp(min=1e-6).log()

    monkeypatch.setattr("speechssl.stages.stream._log_probs", log_probs)
    monkeypatch.setattr(SavedModel, "recogniser", lambda *_, **__: (model, vocabulary))
    config = StreamConfig(chunk_s=chunk_s, ahead_s=0.0, context_s=5.0)
    found = transcribe_stream(finetuned, io.BytesIO(samples.tobytes()), config, tell=lambda _: None)
    assert found.text == text == vocabulary.decode([2, 3, 1, 3, 1, 2])
    assert len(found.words) == 3
