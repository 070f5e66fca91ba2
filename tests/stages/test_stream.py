"""Streams of other units than letters: speechssl.stages.stream. Those of letters are in test_transcribe."""

import dataclasses
import io
import pickle

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode

from speechssl.audio.reading import AudioConfig
from speechssl.corpus.named import files_as_manifest
from speechssl.hub.saved import SavedModel
from speechssl.model import fast
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.frames import frame_count
from speechssl.stages.posteriors import PosteriorConfig, log_posteriors
from speechssl.stages.stream import StreamConfig, _Kept, stream, transcribe_stream
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.text.vocabulary import Vocabulary
from speechssl.text.writing import WritingConfig


class Spelled:
    """Take the place of `IncrementalEncoder`: every sample says itself which token its frame is."""

    def __init__(self, encoder: SpeechEncoder, *, normalize: bool, context: int) -> None:
        self.config, self.frames, self.settled = encoder.config, self, 0
        self.samples = torch.zeros(0)

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @property
    def available(self) -> int:
        return frame_count(len(self.samples), self.config.conv)

    def add(self, samples: torch.Tensor) -> None:
        self.samples = torch.cat([self.samples, samples])

    def settle(self, until: int) -> torch.Tensor:
        ids = (self.samples[:: self.config.hop][self.settled : until] * 2**15 / 1000).round().long()
        self.settled = until
        return torch.nn.functional.one_hot(ids, 4).float().clamp(min=1e-6).log()


@pytest.fixture
def spelled(finetuned, monkeypatch) -> CTCModel:
    """Return a model that takes its four tokens from the samples."""
    model, _ = SavedModel.read(finetuned).recogniser()
    model.head = torch.nn.Identity()
    monkeypatch.setattr("speechssl.stages.stream.IncrementalEncoder", Spelled)
    return model


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
def test_a_stream_of_pieces_yields_a_word_when_the_next_begins(spelled, chunk_s):
    """Repeats must not be cut into two words."""
    hop, window = spelled.encoder.config.hop, spelled.encoder.config.window
    scores = {"▁": -1.0, "▁ab": -1.0, "c": -2.0}
    pieces = Vocabulary(("<blank>", *scores), "pieces", scores=scores)
    path = [0, 2, 2, 2, 3, 0, 3, 2, 2, 0, 2, 1, 1, 3, 0, 0, 2, 3]
    samples = np.repeat(path, hop).astype("<i2") * 1000
    content = np.concatenate([samples, np.zeros(window - hop, "<i2")]).tobytes()
    config = StreamConfig(chunk_s=chunk_s, ahead_s=0.0, context_s=5.0)
    words = list(stream(spelled, pieces, io.BytesIO(content), config))
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
    finetuned, spelled, monkeypatch, chunk_s, written_in, writing, text
):
    vocabulary = Vocabulary(("<blank>", "|", "a", "b"), written_in, writing=writing)
    path = [0, 2, 3, 3, 1, 1, 3, 0, 1, 1, 1, 2, 2]
    hop, window = spelled.encoder.config.hop, spelled.encoder.config.window
    samples = np.concatenate([np.repeat(path, hop).astype("<i2") * 1000, np.zeros(window - hop, "<i2")])
    monkeypatch.setattr(SavedModel, "recogniser", lambda *_, **__: (spelled, vocabulary))
    config = StreamConfig(chunk_s=chunk_s, ahead_s=0.0, context_s=5.0)
    found = transcribe_stream(finetuned, io.BytesIO(samples.tobytes()), config, tell=lambda _: None)
    assert found.text == text == vocabulary.decode([2, 3, 1, 3, 1, 2])
    assert len(found.words) == 3


@pytest.mark.parametrize("size", ["small", "base"])
def test_a_stream_takes_at_most_three_times_the_work_of_the_file(tmp_path, size):
    config = EncoderConfig.small() if size == "small" else narrow_base()
    torch.manual_seed(0)
    model = CTCModel(SpeechEncoder(config), CTCConfig(), 4).eval()
    samples = (np.random.default_rng(0).standard_normal(50 * 16_000) * 3000).astype("<i2")
    soundfile.write(tmp_path / "long.wav", samples, 16_000)
    with fast.plain_only(), FlopCounterMode(display=False) as whole:  # which counts torch's own convolutions
        list(log_posteriors(model, files_as_manifest([tmp_path / "long.wav"]), AudioConfig(), PosteriorConfig()))
    with fast.plain_only(), FlopCounterMode(display=False) as streamed:
        source = io.BytesIO(samples.tobytes())
        list(stream(model, Vocabulary(("<blank>", "|", "a", "b")), source, StreamConfig()))
    assert 1 < streamed.get_total_flops() / whole.get_total_flops() < 2.5


def narrow_base() -> EncoderConfig:
    """Return BASE with an eighth of its channels and a sixth of its layers."""
    base = EncoderConfig.base()
    narrow = dataclasses.replace(base.transformer, dim=96, num_layers=2, num_heads=2, ffn_dim=384)
    return dataclasses.replace(base, conv=tuple((64, *rest) for _, *rest in base.conv), transformer=narrow)


def test_silence_between_words_is_not_kept():
    kept = _Kept(Vocabulary(("<blank>", "|", "a", "b")), 320, 400)
    ids = torch.tensor([0, 2, 0, 1, *[0] * 10_000, 2, 0])
    words, sizes = [], []
    for part in torch.nn.functional.one_hot(ids, 4).float().clamp(min=1e-6).log().split(50):
        words += kept.add(part)
        sizes.append(len(pickle.dumps(kept)))
    words += kept.finish()
    assert [(word.text, round(word.start_s * 50)) for word in words] == [("a", 1), ("a", 10_004)]
    assert max(sizes) < 8_000


def test_noise_without_a_boundary_is_not_kept():
    kept = _Kept(Vocabulary(("<blank>", "|", "a", "b")), 320, 400)
    ids = torch.tensor([2, 2, 3, 0, 0] * 4000)
    words, sizes = [], []
    for part in torch.nn.functional.one_hot(ids, 4).float().clamp(min=1e-6).log().split(777):
        words += kept.add(part)
        sizes.append(len(pickle.dumps((kept._open, kept._last))))
    words += kept.finish()
    assert "".join(word.text for word in words) == "ab" * 4000
    assert kept.tokens == [2, 3] * 4000
    assert max(sizes) < 80_000  # of 320,000
