"""A fake device for tests: computes on the CPU, and records operations that would synchronise with a real device.

`.device` of its tensors is `DEVICE`. It records reads of values (`.item()`, `bool()`, `.cpu()`), results whose size
depends on values (`nonzero`, boolean indices), copies from the host that are not `non_blocking`, and host tensors in an
operation on the device, which a real device refuses. `.tolist()` and `torch.tensor(..., device=)` fail.
"""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

import speechssl

__all__ = ["DEVICE", "move_parameters", "on_device", "stubbed_device"]

DEVICE = torch.device("lazy", 0)  # a type without backend for which autograd runs in the caller's thread
READS = {"_local_scalar_dense", "is_nonzero", "equal", "allclose"}
SIZED_BY_VALUES = {"nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive"}
TAKE_FROM_HOST = {"_ctc_loss", "_ctc_loss_backward"}  # torch expects CTC's lengths on the host


class OnDevice(Tensor):
    """A tensor on the device; wraps a CPU tensor."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        wrapper = Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, strides=inner.stride(), dispatch_device=True
        )
        wrapper.inner = inner
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _Watch().__torch_dispatch__(func, types, args, kwargs)  # outside `stubbed_device`: nothing is noted


class DeviceGenerator(torch.Generator):
    """A generator that claims to be on the device."""

    device = property(lambda _: DEVICE)


class _Watch(TorchDispatchMode):
    """Computes, and records synchronisations as `operation at file:line`."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return DEVICE
        tensors = [leaf for leaf in pytree.arg_tree_leaves(*args, **kwargs) if isinstance(leaf, Tensor)]
        takes = any(isinstance(tensor, OnDevice) for tensor in tensors)
        device = kwargs.get("device")
        gives = takes if device is None else device == DEVICE
        if reason := self._reason(func, args, kwargs, tensors, takes=takes, gives=gives):
            self.waits.append(f"{reason} at {_place()}")
        plain_args, plain_kwargs = pytree.tree_map_only(OnDevice, lambda tensor: tensor.inner, (args, kwargs))
        if device is not None:
            plain_kwargs["device"] = torch.device("cpu")
        out = func(*plain_args, **plain_kwargs)
        if not gives:
            return out
        out = pytree.tree_map_only(Tensor, OnDevice, out)
        return return_and_correct_aliasing(func, args, kwargs, out) if takes and device is None else out

    def _reason(
        self, func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], *, takes: bool, gives: bool
    ) -> str:
        name = func.overloadpacket.__name__
        from_host = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
        if name == "_to_copy" and takes != gives:
            return "" if gives and kwargs.get("non_blocking") else "a copy that waits"
        if not takes:
            return ""
        if name in READS | SIZED_BY_VALUES or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            return name
        if name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in pytree.tree_leaves(args[1])
        ):
            return f"{name} by a boolean"
        if name not in TAKE_FROM_HOST and any(tensor.ndim > 0 for tensor in from_host):
            return f"{name} of device and host"
        return ""


@contextlib.contextmanager
def stubbed_device() -> Iterator[list[str]]:
    """Compute with tensors on the device; yields the list of recorded synchronisations."""
    make_generator = torch.Generator
    with pytest.MonkeyPatch.context() as patch, _Watch() as watch:  # the device has neither autocast nor generators
        patch.setattr(torch, "is_autocast_enabled", lambda *_: False)
        patch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
        patch.setattr(
            torch, "Generator", lambda device="cpu": DeviceGenerator() if device == DEVICE else make_generator(device)
        )
        yield watch.waits


def on_device(tensor: Tensor) -> Tensor:
    """Return a CPU tensor as a tensor on the device."""
    return OnDevice(tensor)


def move_parameters(model: nn.Module) -> None:
    """Move a model to the device."""
    for module in model.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            moved = nn.Parameter(OnDevice(parameter.detach()), requires_grad=parameter.requires_grad)
            module.register_parameter(name, moved)
        for name, buffer in [*module.named_buffers(recurse=False)]:
            setattr(module, name, OnDevice(buffer))


def _place() -> str:
    source = Path(speechssl.__file__).parent
    frames = [frame for frame in traceback.extract_stack() if source in Path(frame.filename).parents]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "the test"
