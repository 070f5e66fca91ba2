"""Load a model of any format, from disk or from the hub."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from speechssl.errors import ConfigError
from speechssl.hub.model_formats import read_saved
from speechssl.inference.pretrained import Encoder, Pretrained
from speechssl.inference.recogniser import Recogniser
from speechssl.model.precision import AnyPrecision, choose_precision, pack
from speechssl.parallel import pick_device

__all__ = ["load"]


def load(
    where: str | Path,
    *,
    device: str | torch.device | None = None,
    precision: Literal["float32", "bfloat16", "int8", "auto"] | torch.dtype | None = None,
    dtype: Literal["float32", "bfloat16"] | torch.dtype | None = None,
    min_sample_rate: int | None = None,
) -> Recogniser | Any:  # Any stands for `Encoder`: type checkers know all methods and require no isinstance
    """Load a model for inference.

    Args:
        where: folder of a run (its best step, or its last), one of its steps, a converted model, a folder or file of
            transformers (4 and 5), fairseq, torchaudio or fairseq2, or `hf://org/name[@revision]`.
        device: device such as "cpu" or "cuda:1"; None for the accelerator if there is one.
        precision: numbers of matrix products, float32 by default. On the CPU weights are then rounded and laid out
            once, and `module` cannot be trained or saved; int8 is for CPUs; auto is the fastest on this processor.
        dtype: earlier name of `precision`.
        min_sample_rate: audio of lower rates is refused, in Hz; None: as in the model's training.

    Returns:
        A `Recogniser` if the model is fine-tuned, a `Pretrained` if it has its objective, else an `Encoder`.

    Raises:
        CheckpointError: there is no model, or its files are broken or of an unknown format.
        ConfigError: the device or the type does not exist.
        PackageError: the model is on the hub, and huggingface_hub is not installed.

    Examples:
        >>> model = speechssl.load("runs/demo/pretrain")  # doctest: +SKIP
        >>> model.features("speech.wav", layers=3).values.shape  # doctest: +SKIP
        torch.Size([74, 192])
    """
    place = _device(device)
    chosen = choose_precision(_asked(precision, dtype), place)
    if not (isinstance(where, str | Path) and str(where)):
        raise ConfigError(f"where={where!r}: expected the name of a folder or file, or hf://org/name")
    if min_sample_rate is not None and not (isinstance(min_sample_rate, int) and min_sample_rate > 0):
        raise ConfigError(f"min_sample_rate={min_sample_rate!r}: expected a whole number above 0, in Hz")
    saved = read_saved(where)
    audio = saved.description.audio
    if min_sample_rate is not None:
        audio = dataclasses.replace(audio, min_sample_rate=min_sample_rate)
    if saved.description.ctc is not None:
        ctc, vocabulary = saved.recogniser(shares=place.type == "cpu")
        return Recogniser(saved, pack(ctc.to(place), chosen), vocabulary, audio=audio, precision=chosen)
    if saved.description.objective is not None:
        return Pretrained(saved, pack(saved.pretraining().to(place), chosen), audio=audio, precision=chosen)
    return Encoder(saved, pack(saved.encoder().to(place), chosen), audio=audio, precision=chosen)


def _device(asked: str | torch.device | None) -> torch.device:
    if asked is None:
        return pick_device()
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # without CUDA torch raises AssertionError
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise ConfigError(
            f"device={asked}: cannot be used ({reason[:120]}); leave it out for the default device"
        ) from error
    return device


def _asked(precision: str | torch.dtype | None, dtype: str | torch.dtype | None) -> AnyPrecision:
    if precision is not None and dtype is not None:
        raise ConfigError(f"precision={precision} and dtype={dtype} are the same setting; give precision alone")
    key, value = ("dtype", dtype) if dtype is not None else ("precision", precision or "float32")
    name = str(value).removeprefix("torch.")
    if name not in get_args(AnyPrecision):
        raise ConfigError(f"{key}={name}: expected float32, bfloat16, int8 or auto; float16 overflows in these models")
    return cast(AnyPrecision, name)
