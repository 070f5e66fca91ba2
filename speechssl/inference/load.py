"""Load a model, whatever wrote it and wherever it lies."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch

from speechssl.errors import ConfigError
from speechssl.hub.model_formats import read_saved
from speechssl.inference.pretrained import Encoder, Pretrained
from speechssl.inference.recogniser import Recogniser
from speechssl.parallel import pick_device

__all__ = ["load"]


def load(
    where: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: Literal["float32", "bfloat16"] | torch.dtype = "float32",
    min_sample_rate: int | None = None,
) -> Recogniser | Any:  # Any: an `Encoder`, which has less; so type checkers know the methods, and demand no check
    """Load a model to hear audio with.

    Args:
        where: folder of a run (its best step, or its last), one of its steps, a converted model, a folder or file of
            transformers (4 and 5), fairseq, torchaudio or fairseq2, or `hf://org/name[@revision]`.
        device: where it works, as "cpu" or "cuda:1"; None for the accelerator where there is one.
        dtype: bfloat16 computes products in 16 bits, where the device has them; parameters stay float32.
        min_sample_rate: audio of lower rates is refused, in Hz; None for what the model was trained with.

    Returns:
        A `Recogniser` if it was fine-tuned, a `Pretrained` if it has its objective, else an `Encoder`.

    Raises:
        CheckpointError: no model is there, or its files are broken, or of no known format.
        ConfigError: there is no such device or type.
        PackageError: the hub is asked, and huggingface_hub is not installed.

    Examples:
        >>> model = speechssl.load("runs/demo/pretrain")  # doctest: +SKIP
        >>> model.features("speech.wav", layers=3).values.shape  # doctest: +SKIP
        torch.Size([74, 192])
    """
    place, bfloat16 = _device(device), _is_bfloat16(dtype)
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
        return Recogniser(saved, ctc.to(place), vocabulary, audio=audio, bfloat16=bfloat16)
    if saved.description.objective is not None:
        return Pretrained(saved, saved.pretraining().to(place), audio=audio, bfloat16=bfloat16)
    return Encoder(saved, saved.encoder().to(place), audio=audio, bfloat16=bfloat16)


def _device(asked: str | torch.device | None) -> torch.device:
    if asked is None:
        return pick_device()
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch asserts that it has CUDA
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise ConfigError(f"device={asked}: cannot be used ({reason[:120]}); leave it out for what is there") from error
    return device


def _is_bfloat16(asked: str | torch.dtype) -> bool:
    name = str(asked).removeprefix("torch.")
    if name not in ("float32", "bfloat16"):
        raise ConfigError(f"dtype={name}: expected float32 or bfloat16; float16 overflows in these models")
    return name == "bfloat16"
