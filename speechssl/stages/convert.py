"""Stage `convert`: a model of any format -> another toolkit's format, checked by running the result."""

import importlib.util
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from speechssl.asr.decoding.hypothesis import first_words, merged
from speechssl.audio.reading import read_audio
from speechssl.errors import CheckpointError, ConfigError
from speechssl.hub.model_formats import FORMATS, read_model
from speechssl.hub.names import Conversion, as_known
from speechssl.hub.onnx import Precision
from speechssl.hub.saved import Description, SavedModel
from speechssl.text.policy import TextConfig
from speechssl.text.vocabulary import BLANK, Vocabulary
from speechssl.text.writing import WritingConfig

__all__ = ["Converted", "convert"]

TOLERANCES = {"float32": 1e-4, "int8": 0.1}  # allowed difference of outputs, as `_difference` measures it


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Result of a conversion."""

    model: SavedModel
    source_format: str
    dropped: dict[str, str]  # reason by name, for what the source or the target cannot hold
    added: dict[str, str]  # reason by our name, for what the source lacks
    differences: dict[str, float]  # relative difference on the probe, by the toolkit that ran the result


def convert(
    source: Path, target: Path, to: str, *, probe: Path | None = None, precision: Precision = "float32"
) -> Converted:
    """Convert a model, compare the outputs of source and result on a probe, and only then move it to its place.

    For a CTC model the texts decoded by the tokenizers of source and result are compared, too.

    Args:
        source: a model of any format that can be read.
        target: file or folder to write; must not exist.
        to: format, a key of `FORMATS`.
        probe: recording to compare on; None for two seconds of synthetic sound.
        precision: of the products; int8 only for formats that have it.

    Raises:
        CheckpointError: source or target cannot be used, or the outputs differ.
        ConfigError: the format is not known, or not in this precision.
    """
    if to not in FORMATS:
        raise ConfigError(f"{to}: not a format that can be written; expected one of {', '.join(FORMATS)}")
    write = FORMATS[to].write if precision == "float32" else FORMATS[to].write_int8
    if write is None:
        in_int8 = ", ".join(name for name, format_ in FORMATS.items() if format_.write_int8)
        raise ConfigError(f"{to}: cannot be written in {precision}; choose one of {in_int8}, or float32")
    if target.exists():
        raise CheckpointError(f"{target}: exists already; name another target, or remove it")
    read, source_format = read_model(source)
    waveform = _probe(read.model, probe)
    unread = _compare_source(read, source, source_format, waveform)
    unchecked = target.with_name(f".unchecked-{target.name}")
    shutil.rmtree(unchecked, ignore_errors=True)
    try:
        unchecked.mkdir(parents=True)
        model, foreign = (read.model, {}) if to == "speechssl" else as_known(read.model)
        dropped = write(model, unchecked / target.name)
        differences = _compare(model, unchecked / target.name, to, waveform, dropped, precision)
        _move(unchecked, target)
    finally:
        shutil.rmtree(unchecked, ignore_errors=True)
    return Converted(
        model=read.model,
        source_format=source_format,
        dropped=read.dropped | foreign | dropped | _lost_texts(read.model.description, to),
        added=read.added | unread,
        differences=differences,
    )


def _lost_texts(described: Description, to: str) -> dict[str, str]:
    """Return what another format cannot hold of the mapping between texts and tokens, with the reason."""
    lost: dict[str, str] = {}
    if to == "speechssl":
        return lost
    keeps = FORMATS[to].keeps
    if described.text != TextConfig():
        lost["text"] = (
            f"the policy of texts ({described.text.describe()}): prepare texts in the same way where the model is used"
        )
    kept = {name: getattr(WritingConfig(), name) for name in ("boundary", "tidy", "silent") if name in keeps}
    writing = replace(described.writing, **kept)
    if writing != WritingConfig():
        lost["writing"] = f"texts are decoded differently there; here with {writing.describe()}"
    if described.written_in == "pieces" and "pieces" not in keeps:
        lost["written_in"] = (
            "tokens are pieces, read there as letters: write a space for each U+2581 of what is decoded"
        )
    if described.written_in == "phones" and "phones" not in keeps:
        lost["written_in"] = "tokens are phones, read there as letters: put blanks between; the lexicon stays behind"
    elif described.lexicon:
        lost["lexicon"] = "the format has no place for it"
    return lost


@torch.no_grad()
def outputs(model: SavedModel, waveform: Tensor) -> Tensor:
    """Run a model on one utterance: logits of a CTC model, else the last layer.

    Args:
        model: a model of any method.
        waveform: (time,) at 16 kHz.

    Returns:
        (frames, vocab) or (frames, dim).
    """
    batch, num_samples = waveform[None], torch.tensor([len(waveform)])
    if model.description.ctc is None:
        return model.encoder()(batch, num_samples).last[0]
    recogniser, _ = model.recogniser()
    return recogniser.head(recogniser.encoder(batch, num_samples).last)[0]


def _probe(model: SavedModel, path: Path | None) -> Tensor:
    """Return a (time,) waveform, read or synthesised, normalised if the model needs it."""
    if path is not None:
        return read_audio(path, replace(model.description.audio, min_sample_rate=1, resample=True))  # any will do
    time = torch.arange(32_000) / 16_000
    hum = sum(torch.sin(2 * torch.pi * 110 * k * time) / k for k in range(1, 12))
    hiss = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    waveform = 0.05 * torch.sin(torch.pi * 3 * time).square() * hum + 0.01 * hiss
    if model.description.audio.normalize:
        waveform = (waveform - waveform.mean()) / waveform.std()
    return waveform


def _compare(
    model: SavedModel, written: Path, to: str, waveform: Tensor, dropped: Mapping[str, str], precision: Precision
) -> dict[str, float]:
    """Read back the result, run it with the toolkit itself where that is installed, and compare with the model.

    Raises:
        CheckpointError: a parameter that was not dropped has changed, or an output or a text differs.
    """
    format_, found = FORMATS[to], {}
    waveform = waveform if format_.heard is None else format_.heard(model, waveform)
    expected = outputs(model, waveform)
    lost = model.description.ctc is None or {"writing", "written_in"} & _lost_texts(model.description, to).keys()
    if format_.read is not None:
        again = format_.read(written).model
        changed = [
            name
            for name, tensor in model.tensors.items()
            if name not in dropped and not (name in again.tensors and torch.equal(again.tensors[name], tensor))
        ]
        if changed:
            raise CheckpointError(
                f"{len(changed)} parameters came back from {to} changed: {', '.join(changed[:3])}; "
                "nothing was written: please report this"
            )
        found["speechssl"] = outputs(again, waveform)
        if not lost:
            _expect_texts(model.vocabulary(), expected, again.vocabulary().decode, who="speechssl")
    if format_.run is not None and importlib.util.find_spec(format_.package) is not None:
        found[to] = format_.run(written, waveform)
        if format_.decode is not None and not lost:
            _expect_texts(model.vocabulary(), expected, partial(format_.decode, written), who=to)
    if format_.wanted is not None:
        expected = format_.wanted(model, expected)
    return {who: _difference(output, expected, who, precision) for who, output in found.items()}


def _compare_source(read: Conversion, source: Path, format_: str, waveform: Tensor) -> dict[str, str]:
    """Compare texts with the source's own tokenizer, where it is installed; return the reason if that is impossible.

    Raises:
        CheckpointError: the texts differ.
    """
    theirs, model = FORMATS[format_], read.model
    if model.description.ctc is None or theirs.decode is None or importlib.util.find_spec(theirs.package) is None:
        return {}
    try:
        theirs.decode(source, read.order[1:2])
    except CheckpointError as error:
        return {"texts": f"not compared: {error}"}
    decode = theirs.decode
    logits = outputs(model, waveform)
    _expect_texts(model.vocabulary(), logits, lambda ids: decode(source, [read.order[i] for i in ids]), who=format_)
    return {}


def _expect_texts(vocabulary: Vocabulary, logits: Tensor, decode: Callable[[list[int]], str], *, who: str) -> None:
    """Compare the texts that two tokenizers decode from the best tokens of the logits, and from each token once.

    Raises:
        CheckpointError: a text differs in more than spaces.
    """
    each = range(BLANK + 1, len(vocabulary))
    boundary = next((token for token in each if vocabulary.is_boundary(token)), None)
    for ids in (merged(logits.argmax(-1)), [*each, *reversed(each)]):
        line = ids if boundary is None else first_words(ids, boundary, len(ids))  # one boundary between words
        line = [token for token, _ in groupby(line)]  # a tokenizer would merge the repeats
        expected, found = vocabulary.decode(line), " ".join(decode(line).split())
        if found != expected:
            place = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), 0)
            raise CheckpointError(
                f"the text, decoded by {who}, differs from ours: {found[max(0, place - 10) :][:40]!r}, expected "
                f"{expected[max(0, place - 10) :][:40]!r}; nothing was written: please report this"
            )


def _difference(found: Tensor, expected: Tensor, who: str, precision: Precision) -> float:
    """Return the relative difference of two outputs (frames, vocab or dim); raise if it exceeds the tolerance.

    In float32 it is the largest difference, relative to the largest expected output. In int8, where single values
    scatter, it is the norm of the differences, relative to that of the expected output: 0.02 to 0.07 where all products
    are right, 0.14 and more in most where one of the first two thirds of them is lost or has its sign wrong.
    """
    difference = float("inf")
    if found.shape == expected.shape:
        error = (found - expected).where(found != expected, 0)  # both are -inf for tokens that are not written
        finite = expected[expected.isfinite()]
        relative = error.abs().max() / finite.abs().max() if precision == "float32" else error.norm() / finite.norm()
        difference = relative.item()
    if not difference <= TOLERANCES[precision]:
        raise CheckpointError(
            f"the result, run by {who} differs by {difference:.1e} of the output, expected at most "
            f"{TOLERANCES[precision]:.0e} (shapes {tuple(found.shape)} and {tuple(expected.shape)}); nothing was "
            "written: please report this"
        )
    return difference


def _move(folder: Path, target: Path) -> None:
    """Move the checked files to their place: those beside the target first, the target last."""
    beside = [path for path in folder.iterdir() if path.name != target.name]
    for path in beside:
        if target.with_name(path.name).exists():
            raise CheckpointError(f"{target.with_name(path.name)}: exists already; convert into an empty folder")
    for path in [*beside, folder / target.name]:
        path.rename(target.with_name(path.name))
