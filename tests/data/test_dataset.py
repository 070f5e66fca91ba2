"""Crops read from files, alone and in batches."""

import pytest
import soundfile
import torch

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data.batching import Crop, Example
from speechssl.data.dataset import SpeechDataset, load_in_order
from speechssl.data.manifest import read_manifest
from speechssl.errors import AudioError

HOP, WINDOW = 320, 325


def test_a_crop_becomes_its_samples_labels_and_tokens(dataset, corpus):
    example = dataset[Crop(3, 640, 4000)]
    row = corpus.utterances[3]
    whole = read_audio(corpus.audio_path(row), AudioConfig())
    assert example.id == row.id
    assert torch.equal(example.waveform, whole[640:4640])
    num_frames = (4000 - WINDOW) // HOP + 1
    assert example.labels.shape == (2, num_frames)
    assert example.labels[1].tolist() == dataset.labels[1].units[row.id][2 : 2 + num_frames].tolist()
    assert example.tokens.tolist() == [2, 3, 5]


def test_labels_of_a_crop_are_the_crop_of_the_labels(dataset, corpus):
    row = corpus.utterances[7]
    whole = dataset[Crop(7, 0, row.num_samples)]
    part = dataset[Crop(7, 5 * HOP, 6000)]
    assert torch.equal(part.labels, whole.labels[:, 5 : 5 + part.labels.shape[1]])


def test_audio_alone_needs_neither_labels_nor_tokens(corpus):
    example = SpeechDataset(corpus, AudioConfig(), hop=HOP, window=WINDOW)[Crop(0, 0, 8000)]
    assert example.labels is example.tokens is None


def test_bad_audio_stops_by_default(dataset, corpus):
    corpus.audio_path(corpus.utterances[2]).unlink()
    with pytest.raises(AudioError, match=r"u0002\.wav: no such file"):
        dataset[Crop(2, 0, 10_000)]


def test_bad_audio_becomes_its_reason_when_skipped(corpus):
    corpus.audio_path(corpus.utterances[2]).write_bytes(b"")
    dataset = SpeechDataset(corpus, AudioConfig(), hop=HOP, window=WINDOW, skip_bad=True)
    assert "u0002.wav: the file is empty" in dataset[Crop(2, 0, 10_000)]
    assert isinstance(dataset[Crop(1, 0, 9_000)], Example)


def test_a_file_that_changed_since_the_manifest_is_refused(dataset, corpus):
    path = corpus.audio_path(corpus.utterances[0])
    soundfile.write(str(path), soundfile.read(str(path))[0][:7000], 16_000)
    with pytest.raises(AudioError, match=r"u0000\.wav: holds 7000 samples, the manifest says 8000"):
        dataset[Crop(0, 0, 5000)]


@pytest.mark.parametrize(("num_samples", "is_read"), [(WINDOW - 1, False), (WINDOW, True)])
def test_audio_shorter_than_a_frame_is_refused(tmp_path, make_corpus, num_samples, is_read):
    corpus = read_manifest(make_corpus(tmp_path / "short", [num_samples]))
    dataset = SpeechDataset(corpus, AudioConfig(), hop=HOP, window=WINDOW)
    if is_read:
        assert len(dataset[Crop(0, 0, num_samples)].waveform) == num_samples
    else:
        with pytest.raises(AudioError, match=r"324 samples at 16 kHz, expected at least 325 \(one frame"):
            dataset[Crop(0, 0, num_samples)]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1])
def test_no_batch_holds_more_padding_than_allowed(dataset, corpus, share):
    batches = list(load_in_order(dataset, seconds=1000.0, max_padding=share))
    assert sorted(key for batch in batches for key in batch.ids) == sorted(row.id for row in corpus.utterances)
    assert all(1 - int(batch.num_samples.sum()) / batch.waveforms.numel() <= share for batch in batches)
    (whole,) = load_in_order(dataset, seconds=1000.0)
    assert 1 - int(whole.num_samples.sum()) / whole.waveforms.numel() > 0.1


@pytest.mark.parametrize("seconds", [0.1, 2.0, 1000.0])
def test_every_utterance_comes_once_and_whole_in_order_of_length(dataset, corpus, seconds):
    batches = list(load_in_order(dataset, seconds=seconds))
    lengths = {row.id: row.num_samples for row in corpus.utterances}
    found = {key: n for batch in batches for key, n in zip(batch.ids, batch.num_samples.tolist(), strict=True)}
    assert found == lengths
    assert [n for batch in batches for n in batch.num_samples.tolist()] == sorted(lengths.values(), reverse=True)
    for batch in batches:
        assert len(batch.ids) == 1 or batch.waveforms.numel() <= seconds * 16_000
