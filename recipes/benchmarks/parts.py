"""Where the time of our training step goes: seconds by part, forward and backward, by the profiler.

Each operation counts for the innermost module it ran in, and what the backward pass does for the operation that it is
the derivative of.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ours import our_learner
from sizes import Size
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from speechssl.data.batching import Batch

__all__ = ["part_of", "seconds_by_part"]

MARK = "part: "
BACKWARD = "autograd::engine::evaluate_function: "
REST = "masks, gradients, rest"


def part_of(module_name: str) -> str | None:
    """Return the part that a module of ours belongs to; None where that of the module around it holds."""
    names = module_name.split(".")
    match names:
        case ["encoder", "conv"]:
            return "extractor"
        case ["encoder", "norm" | "project" | "dropout"]:
            return "projection"
        case ["encoder", "transformer", "positions"]:
            return "positions"
        case ["encoder", "transformer", "norm" | "dropout"]:
            return "norms and dropout"
        case ["encoder", "transformer", "layers", _]:
            return "feed-forward"
        case ["encoder", "transformer", "layers", _, "attention"]:
            return "attention"
        case ["encoder", "transformer", "layers", _, "attention_norm" | "ffn_norm" | "dropout"]:
            return "norms and dropout"
        case ["objective"] | ["head"] | ["dropout"]:
            return "heads"
        case _:
            return None


@contextmanager
def marked(model: nn.Module) -> Iterator[None]:
    """Wrap the forward pass of every part in a range of the profiler."""
    handles = []
    for name, module in model.named_modules():
        if (part := part_of(name)) is None:
            continue
        opened: list[Any] = []

        def enter(_module: nn.Module, _inputs: object, part: str = part, opened: list[Any] = opened) -> None:
            opened.append(record_function(MARK + part))
            opened[-1].__enter__()

        def leave(_module: nn.Module, _inputs: object, _output: object, opened: list[Any] = opened) -> None:
            opened.pop().__exit__(None, None, None)

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def seconds_by_part(size: Size, task: str, batch: Batch, steps: int) -> tuple[dict[str, float], int]:
    """Take our step apart.

    Args:
        size: of the model.
        task: `wav2vec2`, `hubert` or `ctc`.
        batch: to train on.
        steps: that are profiled, after two that are not.

    Returns:
        Seconds a step of each part, and the number of predictions of the last step.
    """
    learner = our_learner(size, task)
    for _ in range(2):
        learner(batch)
    with marked(learner.model), profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(steps):
            outcome = learner(batch)
    totals = {name: seconds / steps for name, seconds in _add_up(profiled).items()}
    return dict(sorted(totals.items(), key=lambda item: -item[1])), outcome.predicted


def _add_up(profiled: profile) -> dict[str, float]:
    """Add up the own time of all events by part."""
    events = sorted(profiled.events() or [], key=lambda event: event.time_range.start)
    part_of_node: dict[int, str] = {}
    for event in events:  # of those with one number the last made the node
        if event.sequence_nr >= 0 and not event.name.startswith(BACKWARD) and _is_forward(event):
            part_of_node[event.sequence_nr] = _range(event)
    totals: dict[str, float] = {}
    for event in events:
        part = _owner(event, part_of_node)
        totals[part] = totals.get(part, 0.0) + event.self_cpu_time_total / 1e6
    return totals


def _ancestors(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _is_forward(event: Any) -> bool:
    return not any(each.name.startswith(BACKWARD) for each in _ancestors(event))


def _range(event: Any) -> str:
    """Return the part whose range an event lies in."""
    for each in _ancestors(event):
        if each.name.startswith(MARK):
            return each.name.removeprefix(MARK)
        if each.name.startswith("Optimizer.step"):
            return "optimiser"
    return REST


def _owner(event: Any, part_of_node: dict[int, str]) -> str:
    for each in _ancestors(event):
        if each.name.startswith(BACKWARD):
            return part_of_node.get(each.sequence_nr, REST)
    return _range(event)
