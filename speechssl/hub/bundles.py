"""Folders of a CTC model that sherpa-onnx and onnx-asr load as they are.

    sherpa-onnx   model.onnx or model.int8.onnx, tokens.txt; `OfflineRecognizer.from_omnilingual_asr_ctc`
    onnx-asr      model.onnx or model.int8.onnx, vocab.txt, config.json; `load_model("wav2vec2-ctc", folder)`

sherpa-onnx (tried: 1.13.8, 2.0.1) normalises every waveform and takes one at a time, with frames of 20 ms. onnx-asr has
the kind wav2vec2-ctc in its repository (pull request 135), not yet in 0.12.0; it counts one frame for each
`subsampling_factor` samples and one more, so that the graph gives blanks past the last frame. Both get
log-probabilities.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.atomic import write_atomically
from speechssl.errors import CheckpointError
from speechssl.hub.onnx import Inference, Precision, open_onnx, write_graph
from speechssl.hub.saved import Description, SavedModel
from speechssl.model.frames import within
from speechssl.model.norm import TimeNorm
from speechssl.text.pieces import WORD_START
from speechssl.text.vocabulary import BLANK, WORD_BOUNDARY

__all__ = ["LEVEL", "as_bundled", "as_sherpa_hears", "run_onnx_asr", "run_sherpa", "write_onnx_asr", "write_sherpa"]

FRAME = 320  # samples of a frame of sherpa-onnx's times
LEVEL = 0.1  # standard deviation at which a model without normalisation is exact in sherpa-onnx; speech is near it
EPSILON = 1e-5  # added to the variance of a waveform, as in `audio.reading.normalize_waveform`
_FILES = {"float32": "model.onnx", "int8": "model.int8.onnx"}


class Bundled(nn.Module):
    """A CTC model that normalises its waveforms and gives blanks where a row has no frame."""

    def __init__(self, inference: Inference, silent: list[int], *, normalize: bool, repeats: int = 1) -> None:
        """Wrap a model.

        Args:
            inference: trunk and head.
            silent: ids of tokens that are not written; their log-probability goes to the blank if it is higher.
            normalize: whether waveforms are normalised here.
            repeats: frames written for each frame of the model.
        """
        super().__init__()
        self.inference, self.normalize, self.repeats = inference, normalize, repeats
        config = inference.encoder.config
        self.padding = config.window + config.hop  # at least two frames, as the trunk needs
        inference.encoder.conv.padding_in_norm = False  # each row as if alone
        self.silent = silent

    def forward(self, waveforms: Tensor, num_samples: Tensor | None = None) -> Tensor:
        """Map waveforms (batch, time) at 16 kHz and their (batch,) lengths to log-probabilities.

        Returns:
            (batch, frames, vocab), the frames of the batch's longest row and a few more.
        """
        if num_samples is None:
            num_samples = torch.full_like(waveforms[:, 0], waveforms.shape[1], dtype=torch.int64)
        if self.normalize:
            is_real = within(num_samples, waveforms.shape[1])  # (batch, time)
            counts = num_samples.clamp(min=1)[:, None]
            centred = waveforms - waveforms.masked_fill(~is_real, 0).sum(1, keepdim=True) / counts
            variance = centred.masked_fill(~is_real, 0).square().sum(1, keepdim=True) / counts
            waveforms = centred * torch.rsqrt(variance + EPSILON)
        logits, num_frames = self.inference(functional.pad(waveforms, (0, self.padding)), num_samples)
        log_probs = _log_probs(logits, self.silent)
        nothing = torch.full_like(log_probs[:1, :1], -torch.inf)
        nothing = torch.cat([torch.zeros_like(nothing[..., :1]), nothing[..., 1:]], -1)  # certainly blank
        log_probs = torch.where(within(num_frames, log_probs.shape[1])[..., None], log_probs, nothing)
        repeated = torch.arange(log_probs.shape[1] * self.repeats) // self.repeats  # can be exported, unlike a reshape
        return log_probs[:, repeated]


def write_sherpa(model: SavedModel, target: Path, precision: Precision = "float32") -> dict[str, str]:
    """Write a folder for sherpa-onnx.

    A model trained without normalisation is accepted if its first convolution has a group norm and no bias: that norm
    takes out loudness and mean by itself, but for the constant added to the variance, which is adapted to `LEVEL`.

    Returns:
        Reasons by name, for what is lost.

    Raises:
        CheckpointError: the model has no CTC head, its frames are no multiple of 20 ms, or it is sensitive to the
            normalisation of waveforms; or as `write_onnx`.
    """
    described, lost = model.description, {}
    symbols = _symbols(described)
    config, inference = described.encoder, Inference.of(model)
    if config.hop % FRAME:
        raise CheckpointError(
            f"{model.name}: its frames are {config.hop} samples apart, sherpa-onnx takes frames of {FRAME} "
            "or a multiple; convert to onnx instead"
        )
    if not described.audio.normalize:
        if config.conv_norm != "group" or config.conv_bias:
            raise CheckpointError(
                f"{model.name}: was trained on waveforms that are not normalised, and sherpa-onnx normalises all; "
                "train with audio.normalize=true, or convert to onnx or onnx-asr"
            )
        norm = inference.encoder.conv.norms[0]
        assert isinstance(norm, TimeNorm)
        norm.eps /= LEVEL**2 + EPSILON
        lost["loudness"] = (
            f"waveforms are normalised there, unlike in training; exact for a standard deviation of {LEVEL} of full "
            "scale, nearly so for other speech"
        )
    network = Bundled(inference, _silent(described), normalize=False, repeats=config.hop // FRAME)
    target.mkdir(parents=True)
    write_graph(model, network, inference.encoder, target / _FILES[precision], ["waveforms"], ["log_probs"], precision)
    _write_symbols(target / "tokens.txt", symbols)
    return lost


def as_bundled(model: SavedModel, logits: Tensor) -> Tensor:
    """Return the (frames, vocab) log-probabilities that a bundle gives instead of a model's logits."""
    return _log_probs(logits, _silent(model.description))


def as_sherpa_hears(model: SavedModel, waveform: Tensor) -> Tensor:
    """Return a (time,) waveform at the loudness at which the model and its bundle for sherpa-onnx are equal."""
    if model.description.audio.normalize:
        return waveform
    return (waveform - waveform.mean()) / waveform.std(correction=0) * LEVEL


def run_sherpa(folder: Path, waveform: Tensor) -> Tensor:
    """Run a folder of `write_sherpa` on a (time,) waveform in onnxruntime, prepared as sherpa-onnx does.

    Returns:
        (frames, vocab) log-probabilities, each frame of the model once.

    Raises:
        CheckpointError: onnxruntime is not installed, or cannot read the file.
    """
    session = open_onnx(next(folder.glob("model*.onnx")))
    facts = session.get_modelmeta().custom_metadata_map
    waveform = (waveform - waveform.mean()) * torch.rsqrt(waveform.var(correction=0) + EPSILON)
    (log_probs,) = session.run(None, {"waveforms": waveform[None].numpy()})
    return _real(torch.from_numpy(log_probs)[0, :: json.loads(facts["hop"]) // FRAME], facts, len(waveform))


def write_onnx_asr(model: SavedModel, target: Path, precision: Precision = "float32") -> dict[str, str]:
    """Write a folder for onnx-asr.

    Returns:
        Reasons by name, for what is lost: nothing.

    Raises:
        CheckpointError: the model has no CTC head; or as `write_onnx`.
    """
    described = model.description
    symbols = _symbols(described)
    inference = Inference.of(model)
    network = Bundled(inference, _silent(described), normalize=bool(described.audio.normalize))
    target.mkdir(parents=True)
    path = target / _FILES[precision]
    write_graph(model, network, inference.encoder, path, ["input_values", "input_lengths"], ["logprobs"], precision)
    _write_symbols(target / "vocab.txt", symbols)
    config = {"model_type": "wav2vec2-ctc", "subsampling_factor": described.encoder.hop}
    write_atomically(target / "config.json", json.dumps(config, indent=1) + "\n")
    return {}


def run_onnx_asr(folder: Path, waveform: Tensor) -> Tensor:
    """Run a folder of `write_onnx_asr` on a (time,) waveform in onnxruntime.

    Returns:
        (frames, vocab) log-probabilities.

    Raises:
        CheckpointError: onnxruntime is not installed, or cannot read the file.
    """
    session = open_onnx(next(folder.glob("model*.onnx")))
    inputs = {"input_values": waveform[None].float(), "input_lengths": torch.tensor([len(waveform)])}
    (log_probs,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return _real(torch.from_numpy(log_probs)[0], session.get_modelmeta().custom_metadata_map, len(waveform))


def _real(log_probs: Tensor, facts: dict[str, str], num_samples: int) -> Tensor:
    """Return the frames of `num_samples` samples, without those that are blank by construction."""
    hop, window = json.loads(facts["hop"]), json.loads(facts["window"])
    return log_probs[: max((num_samples - window) // hop + 1, 0)]


def _log_probs(logits: Tensor, silent: list[int]) -> Tensor:
    """Map (..., vocab) logits to log-probabilities, those of silent tokens given to the blank if they are higher."""
    log_probs = logits.log_softmax(-1)
    if not silent:
        return log_probs
    blank = log_probs[..., [BLANK, *silent]].amax(-1, keepdim=True)
    is_silent = torch.isin(torch.arange(log_probs.shape[-1]), torch.tensor(silent))
    return torch.cat([blank, log_probs[..., 1:].masked_fill(is_silent[1:], -torch.inf)], -1)


def _symbols(described: Description) -> list[str]:
    """Return what each token is written as, by id; U+2581 stands for a space.

    Raises:
        CheckpointError: there is no CTC head, a token holds a space, or two are written alike.
    """
    if described.ctc is None:
        raise CheckpointError("the model has no CTC head, which the toolkit needs; fine-tune it first")
    boundary = described.writing.boundary
    symbols = ["<blk>"]
    for token in described.vocabulary[1:]:
        if described.written_in == "phones":
            symbols.append(WORD_START + (boundary or token if token == WORD_BOUNDARY else token))
        elif described.written_in == "letters" and token == WORD_BOUNDARY:
            symbols.append((WORD_START if boundary is None else boundary or token).replace(" ", WORD_START))
        else:
            symbols.append(token)
    unusual = [symbol for symbol in symbols if not symbol or len(symbol.split()) != 1 or symbol != symbol.strip()]
    names = [symbol for symbol in symbols if symbol != WORD_START]
    unusual += [symbol for symbol in set(names) if names.count(symbol) > 1]
    if unusual:
        raise CheckpointError(
            f"the token {unusual[0]!r} is empty, holds a space, or occurs twice, which a list of tokens there cannot "
            "hold; convert to onnx instead"
        )
    return symbols


def _silent(described: Description) -> list[int]:
    """Return the ids of tokens after the blank that are not written."""
    silent = {*described.writing.silent} | ({WORD_BOUNDARY} if described.writing.boundary == "" else set())
    return [index for index, token in enumerate(described.vocabulary) if index != BLANK and token in silent]


def _write_symbols(path: Path, symbols: list[str]) -> None:
    write_atomically(path, "".join(f"{symbol} {index}\n" for index, symbol in enumerate(symbols)))
