"""Folders for sherpa-onnx and onnx-asr: the packages load them as they are, and write the texts that we write."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from speechssl.asr.decoding.hypothesis import merged
from speechssl.audio.reading import AudioConfig, normalize_waveform
from speechssl.errors import CheckpointError
from speechssl.hub.bundles import as_sherpa_hears, run_onnx_asr, run_sherpa, write_onnx_asr, write_sherpa
from speechssl.hub.saved import SavedModel
from speechssl.text.writing import WritingConfig
from tests.hub.models import VOCABULARY, model_of, our_output
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise

NORMALIZED = AudioConfig(normalize=True)
HOP_320 = ((8, 10, 5), (12, 4, 4), (16, 20, 16))
LARGE_320 = dataclasses.replace(LARGE_LIKE, conv=HOP_320)
BASE_640 = dataclasses.replace(BASE_LIKE, conv=(*HOP_320, (16, 2, 2)))
WAVEFORM = noise(1, 9_000)[0]


def text_of(model: SavedModel, logits: torch.Tensor) -> str:
    return model.vocabulary().decode(merged(logits.argmax(-1)))


@pytest.mark.parametrize(
    "config, audio", [(LARGE_320, NORMALIZED), (BASE_640, AudioConfig())], ids=["normalised", "group-norm-640"]
)
def test_sherpa_onnx_writes_our_texts_and_times(tmp_path: Path, config, audio) -> None:
    model = model_of("ctc", config, audio=audio)
    write_sherpa(model, tmp_path / "bundle")
    waveform = as_sherpa_hears(model, WAVEFORM)
    if audio.normalize:
        normalize_waveform(waveform := waveform.clone())
    logits = our_output(model, waveform)
    torch.testing.assert_close(run_sherpa(tmp_path / "bundle", waveform), logits.log_softmax(-1), rtol=1e-3, atol=1e-3)
    sherpa = pytest.importorskip("sherpa_onnx")
    recogniser = sherpa.OfflineRecognizer.from_omnilingual_asr_ctc(
        model=str(tmp_path / "bundle/model.onnx"), tokens=str(tmp_path / "bundle/tokens.txt")
    )
    stream = recogniser.create_stream()
    stream.accept_waveform(16_000, waveform.numpy())
    recogniser.decode_stream(stream)
    assert " ".join(stream.result.text.split()) == text_of(model, logits)
    best = logits.argmax(-1).tolist()
    starts = [i for i, token in enumerate(best) if token and token != (best[i - 1] if i else 0)]
    np.testing.assert_allclose(stream.result.timestamps, [i * config.hop / 16_000 for i in starts], atol=1e-4)


def test_sherpa_onnx_is_refused_what_it_would_get_wrong(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not normalised, and sherpa-onnx normalises all; train with"):
        write_sherpa(model_of("ctc", LARGE_320), tmp_path / "bundle")
    with pytest.raises(CheckpointError, match=r"are \d+ samples apart, sherpa-onnx takes frames of 320 or a multiple"):
        write_sherpa(model_of("ctc", BASE_LIKE), tmp_path / "bundle")
    with pytest.raises(CheckpointError, match="has no CTC head"):
        write_sherpa(model_of("hubert", BASE_640), tmp_path / "bundle")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("audio", [NORMALIZED, AudioConfig()], ids=["normalised", "plain"])
def test_the_folder_for_onnx_asr_normalises_and_is_blank_past_each_row(tmp_path: Path, audio) -> None:
    model = model_of("ctc", LARGE_320, audio=audio)
    write_onnx_asr(model, tmp_path / "bundle")
    session = onnxruntime.InferenceSession(tmp_path / "bundle/model.onnx")
    lengths = [9_000, 5_000, 100]
    rows = [1e-2 * noise(1, size)[0] + 0.01 for size in lengths]  # quiet, with an offset
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    inputs = {"input_values": padded.numpy(), "input_lengths": np.array(lengths)}
    (log_probs,) = session.run(["logprobs"], inputs)
    for row, found in zip(rows, torch.from_numpy(log_probs), strict=True):
        if len(row) >= LARGE_320.window:
            heard = row.clone()
            if audio.normalize:
                normalize_waveform(heard)
            expected = our_output(model, heard).log_softmax(-1)
            torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(run_onnx_asr(tmp_path / "bundle", row), expected, rtol=1e-3, atol=1e-3)
            found = found[len(expected) :]
        assert len(found) > 0
        assert not found.argmax(-1).any()
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    assert config == {"model_type": "wav2vec2-ctc", "subsampling_factor": 320}
    assert (tmp_path / "bundle/vocab.txt").read_text(encoding="utf-8") == "<blk> 0\n▁ 1\na 2\nб 3\nन 4\n"


def test_onnx_asr_decodes_the_folder(tmp_path: Path) -> None:
    onnx_asr = pytest.importorskip("onnx_asr")
    from onnx_asr.asr import _AsrWithCtcDecoding

    class Recogniser(_AsrWithCtcDecoding):  # as its repository calls the kind wav2vec2-ctc, which 0.12.0 lacks
        _get_model_files = staticmethod(lambda quantization=None: {})
        _preprocessor_name = "identity"
        _subsampling_factor = property(lambda self: self.config["subsampling_factor"])

        def _encode(self, features, features_lens):
            inputs = {"input_values": features, "input_lengths": features_lens}
            (log_probs,) = onnxruntime.InferenceSession(tmp_path / "bundle/model.onnx").run(["logprobs"], inputs)
            return log_probs, np.minimum(features_lens // self._subsampling_factor + 1, log_probs.shape[1])

    model = model_of("ctc", LARGE_320)
    write_onnx_asr(model, tmp_path / "bundle")
    files = {"vocab": tmp_path / "bundle/vocab.txt", "config": tmp_path / "bundle/config.json"}
    rows = [WAVEFORM, WAVEFORM[:5_000]]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).numpy()
    try:
        recogniser = onnx_asr.load_model("wav2vec2-ctc", tmp_path / "bundle")
        found = recogniser.recognize(padded, sample_rate=16_000)
        found = [found] if isinstance(found, str) else found
    except onnx_asr.utils.ModelNotSupportedError:
        recogniser = Recogniser(files, lambda name: lambda *batch: batch, {})
        found = [done.text for done in recogniser.recognize_batch(padded, np.array([len(row) for row in rows]))]
    assert [" ".join(text.split()) for text in found] == [text_of(model, our_output(model, row)) for row in rows]


def test_silent_tokens_become_blanks_and_leave_the_best_path_alone(tmp_path: Path) -> None:
    model = model_of("ctc", LARGE_320)
    silent = dataclasses.replace(model.description, writing=WritingConfig(silent=("a",)))
    model = dataclasses.replace(model, description=silent)
    write_onnx_asr(model, tmp_path / "bundle")
    best = our_output(model, WAVEFORM).argmax(-1)
    found = run_onnx_asr(tmp_path / "bundle", WAVEFORM).argmax(-1)
    assert torch.equal(found, best.where(best != VOCABULARY.index("a"), 0))


def test_tokens_that_a_list_cannot_hold_are_refused(tmp_path: Path) -> None:
    for tokens, message in [(("<b>", "|", "a b"), "'a b' is empty, holds a space"), (("<b>", "<blk>", "a"), "'<blk>'")]:
        with pytest.raises(CheckpointError, match=message):
            write_onnx_asr(model_of("ctc", LARGE_320, vocabulary=tokens), tmp_path / "bundle")
