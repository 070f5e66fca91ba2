"""Average checkpoints of one run into a model: the last ones, or those with the best dev scores.

The mean of the parameters along one training run often scores like an ensemble of its checkpoints at the cost of one
(Vaswani et al., arXiv:1706.03762, section 6.1; Izmailov et al., arXiv:1803.05407).
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from speechssl.atomic import write_atomically
from speechssl.errors import CheckpointError
from speechssl.hub.saved import SavedModel
from speechssl.train.checkpoint import last_checkpoint, read_state

__all__ = ["average", "average_best", "average_tensors", "best_steps", "last_steps"]


def average(run: Path, out: Path, steps: Sequence[Path]) -> SavedModel:
    """Write the mean of checkpoints of a run as a model folder.

    Adapters are merged first, because a product of means is not the mean of products.

    Args:
        run: folder of the run, for messages.
        out: folder to write; must not hold a model.
        steps: the checkpoints, as listed by `best_steps` or `last_steps`.

    Raises:
        CheckpointError: a checkpoint belongs to another run, is broken, or has other shapes; or `out` holds a model.
    """
    foreign = [step for step in steps if step.parent.resolve() != run.resolve()]
    if foreign or not steps:
        raise CheckpointError(f"{run}: expected checkpoints of this run, found {[*map(str, foreign)]}")
    models = [SavedModel.read(step) for step in steps]
    origin = f"speechssl, mean of {run.name}: {', '.join(step.name for step in steps)}"
    averaged = SavedModel(
        description=dataclasses.replace(models[0].description, origin=origin),
        tensors=average_tensors([model.tensors for model in models], where=str(run)),
        name=out.name,
    )
    averaged.write(out)
    return averaged


def average_best(
    run: Path, number: int, evaluate: Callable[[nn.Module], dict[str, float]], *, device: torch.device
) -> None:
    """Write the mean of the best checkpoints to `average` in the run folder, with its scores; once.

    Args:
        run: folder of a finished fine-tuning run.
        number: number of checkpoints.
        evaluate: scores a recogniser on the development set.
        device: device of the scoring.

    Raises:
        CheckpointError: the run kept fewer checkpoints.
    """
    folder = run / "average"
    if (folder / "scores.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # left behind by a process that was killed
    model, _ = average(run, folder, best_steps(run, number)).recogniser()
    with torch.no_grad():
        scores = evaluate(model.to(device))
    write_atomically(folder / "scores.json", json.dumps(scores, indent=1) + "\n")
    name, score = next(iter(scores.items()))
    best = read_state(_last(run)).best_score
    print(f"{folder}: mean of the {number} best checkpoints, {name} {score:.4f}; the best alone {best:.4f}")


def average_tensors(models: Sequence[dict[str, Tensor]], *, where: str) -> dict[str, Tensor]:
    """Return the mean of each tensor, summed in float64 and returned in its own type.

    Raises:
        CheckpointError: names or shapes differ.
    """
    first = models[0]
    for other in models[1:]:
        odd = [name for name in {*first} | {*other} if name not in first or name not in other]
        odd += [name for name in {*first} & {*other} if first[name].shape != other[name].shape]
        if odd:
            raise CheckpointError(
                f"{where}: checkpoints differ in {len(odd)} parameters ({', '.join(sorted(odd)[:3])}); average "
                "those of one run and one configuration"
            )
    return {
        name: torch.stack([model[name].double() for model in models]).mean(0).to(tensor.dtype)
        for name, tensor in first.items()
    }


def best_steps(run: Path, number: int) -> list[Path]:
    """List the checkpoints with the best dev scores, best first.

    Raises:
        CheckpointError: the run kept fewer, or has no scores.
    """
    last = _last(run)
    best = [run / f"step_{step:08d}" for _, step in read_state(last).best]
    there = [step for step in best if step.exists()]
    if len(there) < max(number, 1):
        raise CheckpointError(
            f"{run}: expected {number} checkpoints kept for their dev score, found {len(there)}; train with "
            f"train.keep_best={max(number, 1)} and dev data, or average the last ones with --last"
        )
    return there[:number]


def last_steps(run: Path, number: int) -> list[Path]:
    """List the last checkpoints, in the order of training.

    Raises:
        CheckpointError: the run kept fewer.
    """
    last = _last(run)
    there = [step for step in sorted(run.glob("step_*[0-9]")) if step <= last]
    if len(there) < max(number, 1):
        raise CheckpointError(
            f"{run}: expected {number} checkpoints, found {len(there)}; train with train.keep={max(number, 1)}"
        )
    return there[-number:]


def _last(run: Path) -> Path:
    if (last := last_checkpoint(run)) is None:
        raise CheckpointError(f"{run}: holds no checkpoint; name the folder of a run")
    return last
