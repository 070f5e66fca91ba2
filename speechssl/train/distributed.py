"""Distributed training with DDP or FSDP2, activation checkpointing and compilation; none changes what is learned.

DDP keeps the whole model on each rank and averages the gradients. FSDP2 keeps a shard of every parameter, gradient and
moment on each rank, and gathers the weights of a layer while it runs. Either way a step sums over the batches of all
ranks.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.export import register_dataclass
from torch.nn.parallel import DistributedDataParallel

from speechssl.config import configuration
from speechssl.parallel import Ranks, whole_tensors
from speechssl.tasks.model import LossSum, TaskModel

__all__ = ["ParallelConfig", "distribute", "exchanging", "is_sharded", "outline", "whole_model"]


@configuration
class ParallelConfig:
    """Distribution over ranks, and trade-offs of time and memory; none of them changes what is learned."""

    mode: Literal["ddp", "fsdp"] = "ddp"
    activation_checkpointing: bool = False  # keep only the inputs of Transformer layers and recompute the layers
    # run the Transformer layers on valid frames only: padding costs nothing and CUDA can use flash attention, which
    # takes no masks, at the cost of a few copies. Not measured on a GPU yet: recipes/gpu compares both
    packed: bool = False
    compile: bool = False  # compile the Transformer layers by torch.compile; needs a C++ compiler, on GPUs Triton
    sharded_checkpoints: bool = False  # with fsdp: each rank writes its shard, instead of the first writing everything


def distribute(model: nn.Module, config: ParallelConfig, ranks: Ranks, *, bfloat16: bool, accumulate: int) -> nn.Module:
    """Prepare a model for training with the other ranks; build the optimiser afterwards.

    Args:
        model: the model on the device of its rank, with equal weights on all ranks; changed in place, parameter names
            stay.
        config: mode and trade-offs.
        ranks: this process among the others.
        bfloat16: whether the model runs under autocast. FSDP2 then gathers the matrices of the layers in 16 bits, as
            autocast would round them; norms, gradients and stored shards stay float32.
        accumulate: number of batches per rank and step, whose gradients are exchanged together.

    Returns:
        The module to call in training; `model` itself unless it is wrapped by DDP.
    """
    if isinstance(model, TaskModel):
        model.encoder.prepare(recompute=config.activation_checkpointing, packed=config.packed, compiled=config.compile)
    if ranks.world_size == 1 and not distributed.is_initialized():  # a process group of one rank is wrapped as well
        return model
    _show_losses()
    if config.mode == "fsdp":
        return _shard(model, ranks, bfloat16=bfloat16)
    # with a static graph, DDP exchanges gradients after every batch of the first step; with accumulation, that step
    # would round differently in a resumed run
    all_learn = _all_learn(model)
    return DistributedDataParallel(
        model,
        gradient_as_bucket_view=True,
        static_graph=all_learn and accumulate == 1,
        find_unused_parameters=not all_learn,
    )


@contextmanager
def exchanging(model: nn.Module, *, is_last: bool) -> Iterator[None]:
    """Run forward and backward pass of one batch; gradients are exchanged only after the last batch of a step.

    Args:
        model: the module that `distribute` returned.
        is_last: whether this batch is the last of the step on each rank.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)
        model.set_is_last_backward(is_last)
        yield
    elif isinstance(model, DistributedDataParallel) and not is_last:
        with model.no_sync():
            yield
    else:
        yield


def is_sharded(model: nn.Module) -> bool:
    """Return whether this rank holds only a shard of the model."""
    return isinstance(model, FSDPModule)


def outline(model: nn.Module) -> nn.Module:
    """Copy a model without the values that its checkpoints hold, for `whole_model`; call it before `distribute`."""
    tensors = model.state_dict(keep_vars=True).values()  # buffers that are not saved keep their values
    return copy.deepcopy(model, {id(tensor): _without_values(tensor) for tensor in tensors})


def whole_model(model: nn.Module, outline: nn.Module, ranks: Ranks) -> nn.Module | None:
    """Return the whole model on the first rank, for evaluation; all ranks have to call this function.

    Args:
        model: the module that `distribute` returned.
        outline: result of `outline` for the model.
        ranks: this process among the others.

    Returns:
        The model itself, or a copy with the current weights if it is sharded; None on all ranks but the first.
    """
    if not is_sharded(model):
        plain = model.module if isinstance(model, DistributedDataParallel) else model
        return plain if ranks.is_first else None
    gathered = whole_tensors(model.state_dict(), ranks, ranks.device)
    if not ranks.is_first:
        return None
    copied = copy.deepcopy(outline)
    copied.load_state_dict(gathered, assign=True)
    return copied


def _all_learn(model: nn.Module) -> bool:
    """Return whether every parameter gets a gradient in every step: no layer drop, no freezing schedule."""
    return isinstance(model, TaskModel) and model.encoder.always_learns and not model.thaws


def _shard(model: nn.Module, ranks: Ranks, *, bfloat16: bool) -> nn.Module:
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    layers = MixedPrecisionPolicy()
    if bfloat16:
        layers = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in model.encoder.blocks if isinstance(model, TaskModel) else ():
        if bfloat16:  # autocast computes norms in float32
            fully_shard(layer.attention_norm, mesh=mesh, reshard_after_forward=False)
            fully_shard(layer.ffn_norm, mesh=mesh, reshard_after_forward=False)
        fully_shard(layer, mesh=mesh, mp_policy=layers)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # with accumulation, a layer dropped before its first run would fail
            module.unshard()
            module.reshard()
    fully_shard(model, mesh=mesh)
    return model


@cache
def _show_losses() -> None:
    """Register `LossSum` with torch, which has to find the output tensors of a wrapped model for its backward hooks."""
    register_dataclass(LossSum)


def _without_values(tensor: Tensor) -> Tensor:
    there = tensor.detach().to("meta")
    return nn.Parameter(there, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else there
