"""Table of model formats: how each is detected, read, written and run; `read_model` reads any of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from speechssl.errors import CheckpointError
from speechssl.hub.bundles import as_bundled, as_sherpa_hears, run_onnx_asr, run_sherpa, write_onnx_asr, write_sherpa
from speechssl.hub.ctranslate2 import run_ctranslate2, write_ctranslate2
from speechssl.hub.download import HUB, fetch
from speechssl.hub.fairseq import is_fairseq, read_fairseq, write_fairseq
from speechssl.hub.fairseq2 import is_fairseq2, read_fairseq2, run_fairseq2, write_fairseq2
from speechssl.hub.names import Conversion
from speechssl.hub.onnx import run_onnx, write_onnx
from speechssl.hub.saved import SavedModel
from speechssl.hub.tokenizers import decode_transformers
from speechssl.hub.torchaudio import is_torchaudio, read_torchaudio, run_torchaudio, write_torchaudio
from speechssl.hub.transformers import is_transformers, read_transformers, run_transformers, write_transformers
from speechssl.train.checkpoint import DESCRIPTION, run_folder

__all__ = ["FORMATS", "Format", "read_model", "read_saved"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """Functions that detect, read, write and run the models of one toolkit."""

    is_one: Callable[[Path], bool] | None  # None if the format can only be written
    read: Callable[[Path], Conversion] | None
    write: Callable[[SavedModel, Path], dict[str, str]]  # returns reasons by name of what was dropped
    run: Callable[[Path, Tensor], Tensor] | None  # by the toolkit's own code; None if it cannot be installed
    package: str = ""  # package that `run` and `decode` need
    decode: Callable[[Path, Sequence[int]], str] | None = None  # token ids to text, by the toolkit's own tokenizer
    keeps: tuple[str, ...] = ()  # what the format preserves: phones, pieces, boundary, tidy, silent (of `writing`)
    write_int8: Callable[[SavedModel, Path], dict[str, str]] | None = None  # None if it holds float32 only
    heard: Callable[[SavedModel, Tensor], Tensor] | None = None  # probe on which the result equals the model
    wanted: Callable[[SavedModel, Tensor], Tensor] | None = None  # what `run` returns for our logits, if not these


def read_model(source: Path | str) -> tuple[Conversion, str]:
    """Read a model of any format; return the conversion and the name of the format.

    Args:
        source: file or folder of a model or a run, or `hf://org/name[@revision]`, see `hub.download`.

    Raises:
        CheckpointError: the format is not known, the file is refused, or the hub does not have the model.
    """
    path = fetch(str(source)) if HUB.match(str(source)) else Path(source)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder; name a model")
    for name, format_ in FORMATS.items():
        if format_.is_one is not None and format_.read is not None and format_.is_one(path):
            return format_.read(path), name
    readable = ", ".join(name for name, format_ in FORMATS.items() if format_.read)
    raise CheckpointError(
        f"{source}: not a model that can be read; expected the folder of a run (with its {DESCRIPTION}), or a "
        f"model of one of {readable}"
    )


def read_saved(source: Path | str) -> SavedModel:
    """Read a model of any format, like `read_model`, and return the model alone.

    Raises:
        CheckpointError: as `read_model`.
    """
    return read_model(source)[0].model


def _is_ours(path: Path) -> bool:
    return (run_folder(path) / DESCRIPTION).exists()


def _write_ours(model: SavedModel, target: Path) -> dict[str, str]:
    model.write(target)
    return {}


FORMATS = {  # in the order of detection
    "speechssl": Format(
        is_one=_is_ours,
        read=lambda path: Conversion(model=SavedModel.read(path)),
        write=_write_ours,
        run=None,
    ),
    "transformers": Format(
        is_one=is_transformers,
        read=read_transformers,
        write=write_transformers,
        run=run_transformers,
        package="transformers",
        decode=decode_transformers,
        keeps=("phones", "boundary", "tidy"),
    ),
    "fairseq2": Format(
        is_one=is_fairseq2, read=read_fairseq2, write=write_fairseq2, run=run_fairseq2, package="fairseq2"
    ),
    "torchaudio": Format(
        is_one=is_torchaudio, read=read_torchaudio, write=write_torchaudio, run=run_torchaudio, package="torchaudio"
    ),
    "fairseq": Format(is_one=is_fairseq, read=read_fairseq, write=write_fairseq, run=None, keeps=("phones", "pieces")),
    "onnx": Format(
        is_one=None,
        read=None,
        write=write_onnx,
        write_int8=partial(write_onnx, precision="int8"),
        run=run_onnx,
        package="onnxruntime",
    ),
    "sherpa-onnx": Format(
        is_one=None,
        read=None,
        write=write_sherpa,
        write_int8=partial(write_sherpa, precision="int8"),
        run=run_sherpa,
        package="onnxruntime",
        keeps=("phones", "pieces", "boundary", "silent"),
        heard=as_sherpa_hears,
        wanted=as_bundled,
    ),
    "onnx-asr": Format(
        is_one=None,
        read=None,
        write=write_onnx_asr,
        write_int8=partial(write_onnx_asr, precision="int8"),
        run=run_onnx_asr,
        package="onnxruntime",
        keeps=("phones", "pieces", "boundary", "silent"),
        wanted=as_bundled,
    ),
    "ctranslate2": Format(
        is_one=None,
        read=None,
        write=write_ctranslate2,
        write_int8=partial(write_ctranslate2, precision="int8"),
        run=run_ctranslate2,
        package="ctranslate2",
        keeps=("phones", "boundary", "tidy"),
    ),
}
