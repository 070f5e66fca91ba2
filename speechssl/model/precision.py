"""Inference in fewer bits: which precision a processor computes fastest, and an encoder whose weights are prepared.

On the CPU weights are rounded and laid out once (`fast.packed`); on other devices bfloat16 is autocast's, which the
caller turns on (`autocast`), and int8 is refused. Norms, softmax, sums of products and the residual stream stay in
float32, as do the first convolution and the normalisation that is folded into it.
"""

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from speechssl.errors import ConfigError
from speechssl.model import fast
from speechssl.model.attention import SelfAttention
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.fast.convolution import is_narrow
from speechssl.model.fast.packed import Bfloat16Linear, Int8Linear, PackedConv, PackedPositions
from speechssl.model.fast.products import has_onednn
from speechssl.model.fast.timing import least_seconds
from speechssl.model.linear import Linear
from speechssl.model.lora import AdaptedLinear
from speechssl.model.transformer import Layer

__all__ = ["AnyPrecision", "Precision", "autocast", "choose_precision", "pack", "reason_for"]

Model = TypeVar("Model", bound=nn.Module)
Precision = Literal["float32", "bfloat16", "int8"]
AnyPrecision = Literal["float32", "bfloat16", "int8", "auto"]

_ROWS, _DIM = 256, 768  # of the products that are timed
_MARGIN = 1.25  # times as fast, for fewer bits to be worth their errors


def choose_precision(asked: AnyPrecision, device: torch.device) -> Precision:
    """Return the precision to compute in.

    Args:
        asked: `auto` for the fastest on this processor; of two that are about as fast the more exact one.
        device: device of the computation.

    Raises:
        ConfigError: the device does not have the precision.
    """
    if device.type != "cpu":
        if asked == "int8":
            raise ConfigError(f"precision=int8: is for CPUs, and the device is {device}; choose bfloat16 or auto")
        if asked == "auto":
            return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
        return asked
    if asked != "auto":
        lacking = _lacking(asked)
        if lacking:
            raise ConfigError(f"precision={asked}: {lacking}; choose float32 or auto")
        return asked
    speed = _speeds()
    best: Precision = "float32"
    for precision in ("bfloat16", "int8"):
        if speed[precision] > _MARGIN * speed[best]:
            best = precision
    return best


def reason_for(chosen: Precision, asked: AnyPrecision, device: torch.device) -> str:
    """Describe a choice in a line, with what was measured."""
    if asked != "auto" or device.type != "cpu":
        return f"precision: {chosen}"
    speed = _speeds()
    ratios = ", ".join(f"{name} {speed[name] / speed['float32']:.1f}" for name in ("bfloat16", "int8"))
    return f"precision: {chosen} (products on this processor, times as fast as float32: {ratios}; 0.0: not available)"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which an encoder computes on a device; it does nothing on the CPU or in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16" and device.type != "cpu")


def pack(model: Model, precision: Precision, *, in_place: bool = False) -> Model:
    """Prepare an encoder, or a model that contains one, for inference on its device.

    Args:
        model: the model, in evaluation mode; it is not changed unless `in_place`.
        precision: result of `choose_precision`.
        in_place: replace the model's own modules, so that each gives its memory back before the next is prepared.

    Returns:
        The model itself where nothing is to be prepared, or where it is; else one of the same outputs, but for
        rounding, that cannot be trained, saved or moved. It shares no memory, so that a mapped file can be released.

    Raises:
        ConfigError: the model has adapters that are not merged.
    """
    kinds = {type(module) for module in model.modules()}
    if precision == "float32" or next(model.parameters()).device.type != "cpu" or PackedPositions in kinds:
        return model
    if AdaptedLinear in kinds:
        raise ConfigError(f"precision={precision}: the model has adapters; merge them first, or choose float32")
    shared = {id(parameter): parameter for parameter in model.parameters()}
    packed = model if in_place else copy.deepcopy(model, shared)  # the modules alone are copied
    del shared
    for encoder in [module for module in packed.modules() if isinstance(module, SpeechEncoder)]:
        _pack(encoder, precision)
    for module in packed.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
    return packed


def _pack(encoder: SpeechEncoder, precision: Precision) -> None:
    """Replace the modules of an encoder; with int8 layers the extractor is in bfloat16 where that is fast."""
    rounds_convs = precision == "bfloat16" or _speeds()["bfloat16"] > _MARGIN
    if rounds_convs:
        for index, conv in list(enumerate(cast(Iterable[nn.Conv1d], encoder.conv.convs)))[1:]:
            if not is_narrow(conv):
                encoder.conv.convs[index] = PackedConv(conv)
    positions = encoder.transformer.positions.conv
    dtype = torch.float32 if is_narrow(positions) or not rounds_convs else torch.bfloat16
    encoder.transformer.positions = PackedPositions(positions, dtype)  # type: ignore[assignment]
    of_layers: type[Bfloat16Linear | Int8Linear] = Bfloat16Linear if precision == "bfloat16" else Int8Linear
    for module in [each for each in encoder.modules() if isinstance(each, SelfAttention | Layer)]:
        for name in [name for name, each in module.named_children() if isinstance(each, Linear)]:
            setattr(module, name, of_layers(getattr(module, name)))


def _lacking(precision: Precision) -> str:
    """Return what torch or the processor lacks for a precision; nothing if it has all."""
    if precision == "float32":
        return ""
    if not has_onednn():
        return "this build of torch has no oneDNN"
    if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this processor has no instructions for it (they begin with AVX-512)"
    return ""


@functools.cache
def _speeds() -> dict[Precision, float]:
    """Return the speed of a product in each precision relative to float32, 0 where there is none.

    Cached, as it is a fact of the machine.
    """
    plain = Linear(_DIM, _DIM)
    x = torch.randn(_ROWS, _DIM, generator=torch.Generator().manual_seed(0))
    layers: dict[Precision, Callable[[Tensor], Tensor]] = {"float32": plain}
    if not _lacking("bfloat16"):
        layers["bfloat16"] = Bfloat16Linear(plain)
    if not _lacking("int8"):
        layers["int8"] = Int8Linear(plain)
    with fast.plain_only():
        seconds = least_seconds({name: functools.partial(layer, x) for name, layer in layers.items()})
    return {
        name: seconds["float32"] / seconds[name] if name in seconds else 0.0 for name in ("float32", "bfloat16", "int8")
    }
