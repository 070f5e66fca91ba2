"""How a model is spread over ranks: DDP or FSDP2, layers computed again or compiled. What it learns stays the same.

DDP gives each rank the whole model and averages the gradients. FSDP2 gives each rank a share of every parameter,
gradient and moment; a layer's weights are gathered while it runs. Either way a step sums over all ranks' batches.
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
    """What several ranks share, and what time is traded for memory. One rank alone trains the same with any of it."""

    mode: Literal["ddp", "fsdp"] = "ddp"
    activation_checkpointing: bool = False  # keep the inputs of the Transformer's layers alone, and run them twice
    # the Transformer's layers run on valid frames alone: nothing is computed for padding, and CUDA's flash attention,
    # which takes no masks, can be used; a few copies more. Not measured on a GPU yet: recipes/gpu compares both
    packed: bool = False
    compile: bool = False  # the Transformer's layers, by torch.compile; needs a C++ compiler, on GPUs Triton
    sharded_checkpoints: bool = False  # with fsdp: each rank writes its share, instead of the first writing all


def distribute(model: nn.Module, config: ParallelConfig, ranks: Ranks, *, bfloat16: bool, accumulate: int) -> nn.Module:
    """Make a model one that trains with the other ranks. Build the optimiser of its parameters afterwards.

    Args:
        model: on the device of its rank, with the same weights on all; changed in place, its names stay.
        config: how.
        ranks: this process among the others.
        bfloat16: the model runs under autocast. Shares of the layers' matrices are then gathered in 16 bits, as
            autocast would round them; norms, gradients and what is kept stay float32.
        accumulate: batches of a rank in a step, whose gradients are exchanged together.

    Returns:
        The module to call in training; `model` itself but for DDP.
    """
    if isinstance(model, TaskModel):
        model.encoder.prepare(recompute=config.activation_checkpointing, packed=config.packed, compiled=config.compile)
    if ranks.world_size == 1 and not distributed.is_initialized():  # a group of one wraps as any other does
        return model
    _show_losses()
    if config.mode == "fsdp":
        return _shard(model, ranks, bfloat16=bfloat16)
    # DDP learns a static graph in its first exchange, which would then come after each batch of the first step, and
    # round otherwise than the steps of a run that was not interrupted there
    all_learn = _all_learn(model)
    return DistributedDataParallel(
        model,
        gradient_as_bucket_view=True,
        static_graph=all_learn and accumulate == 1,
        find_unused_parameters=not all_learn,
    )


@contextmanager
def exchanging(model: nn.Module, *, is_last: bool) -> Iterator[None]:
    """Run forward and backward of one batch of a step; gradients are exchanged after its last batch alone.

    Args:
        model: as `distribute` returned it.
        is_last: whether this batch is the step's last on each rank.
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
    """Whether this rank holds a share of the model only."""
    return isinstance(model, FSDPModule)


def outline(model: nn.Module) -> nn.Module:
    """Copy a model without the values of its parameters, for `whole_model`. To be made before `distribute`."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): _without_values(tensor) for tensor in tensors})


def whole_model(model: nn.Module, outline: nn.Module, ranks: Ranks) -> nn.Module | None:
    """Give the first rank the model as a single process has it, to evaluate; all ranks have to ask.

    Args:
        model: as `distribute` returned it.
        outline: of the model before.
        ranks: this process among the others.

    Returns:
        The model itself, or of a sharded one a copy with the weights of now; None on other ranks than the first.
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
    """Whether every parameter gets a gradient in every step: no layer is dropped, nothing thaws on the way."""
    return isinstance(model, TaskModel) and model.encoder.always_learns and not model.thaws


def _shard(model: nn.Module, ranks: Ranks, *, bfloat16: bool) -> nn.Module:
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    layers = MixedPrecisionPolicy()
    if bfloat16:
        layers = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in model.encoder.blocks if isinstance(model, TaskModel) else ():
        if bfloat16:  # autocast takes the norms in float32
            fully_shard(layer.attention_norm, mesh=mesh, reshard_after_forward=False)
            fully_shard(layer.ffn_norm, mesh=mesh, reshard_after_forward=False)
        fully_shard(layer, mesh=mesh, mp_policy=layers)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # a layer dropped before it ever ran would fail in an accumulating step
            module.unshard()
            module.reshard()
    fully_shard(model, mesh=mesh)
    return model


@cache
def _show_losses() -> None:
    """Let torch look into the losses that a wrapped model returns: it hooks into the backward pass there."""
    register_dataclass(LossSum)


def _without_values(tensor: Tensor) -> Tensor:
    there = tensor.detach().to("meta")
    return nn.Parameter(there, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else there
