"""Training of one head on stored features, on one device.

`train.loop` reads waveforms by their seconds, on many ranks, into a run folder of encoder checkpoints; a head has a few
thousand parameters, reads rows of a table, and is trained in seconds. So it has a loop of its own, with the same
promises: the order of the data is a function of seed and epoch, and a run that was killed resumes to the same bits.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechssl.atomic import atomic
from speechssl.data.batching import seeded_generator
from speechssl.downstream.head_scores import ClassScorer, FrameScorer, Scorer, ValueScorer
from speechssl.errors import TrainingError
from speechssl.parallel import pick_device
from speechssl.stages.head_features import SplitFeatures, SplitFrames
from speechssl.stages.probe_config import HeadTrainConfig
from speechssl.tasks.heads import UNLABELLED, Answers, Head, HeadNetwork

__all__ = ["Answered", "Examples", "TrainedHead", "predict_examples", "scorer_of", "train_head"]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The frames of a split with their answers."""

    features: SplitFrames
    answers: Sequence[Tensor]  # () int64 class or float32 value, or (frames,) int64 with `UNLABELLED`, per utterance


@dataclass(frozen=True, kw_only=True)
class Examples(Answered):
    """Features of a split with their answers."""

    features: SplitFeatures

    def batch_answers(self, indices: Sequence[int]) -> Tensor:
        """Return (batch,) or (batch, frames) answers."""
        chosen = [self.answers[index] for index in indices]
        return torch.stack(chosen) if not chosen[0].ndim else pad_sequence(chosen, True, UNLABELLED)


@dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """A head at its best step."""

    network: HeadNetwork
    step: int
    dev: dict[str, float]  # scores on the dev set; empty without one


def train_head(
    network: HeadNetwork,
    head: Head,
    train: Examples,
    dev: Examples | None,
    config: HeadTrainConfig,
    *,
    weights: Tensor | None,
    seed: int,
    state: Path,
) -> TrainedHead:
    """Train a head with Adam, and return it at the step with the best dev score, or the last step without a dev set.

    Args:
        network: network with initial weights; changed in place.
        head: the task.
        train: training set.
        dev: dev set, if there is one.
        config: steps, batch, learning rate.
        weights: weights of classes in the loss.
        seed: seed of the order of the data.
        state: file with the state of the last evaluation, from which an interrupted run is resumed.

    Raises:
        TrainingError: the loss is not finite.
    """
    device = pick_device()
    network = network.to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    weights = None if weights is None else weights.to(device)
    progress = _Progress(step=0, best_step=0, best=math.nan, dev={})
    best = _copied(network)
    if state.exists():
        progress, best = _resume(state, network, optimizer)
    while progress.step < config.steps:
        indices = _drawn(len(train.answers), config.batch, progress.step, seed)
        batch = train.features.batch(indices, device)
        answers = train.batch_answers(indices).to(device)
        loss = head.loss(network(batch.layers, batch.is_valid), answers, weights)
        mean = loss.value / loss.count.clamp(min=1e-9)
        optimizer.zero_grad()
        mean.backward()
        if not bool(torch.isfinite(mean)):
            raise TrainingError(
                f"step {progress.step}: the loss is {float(mean)}; lower train.lr, or set task.layer_norm=true"
            )
        optimizer.step()
        progress.step += 1
        if progress.step % config.eval_every == 0 or progress.step == config.steps:
            scores = {} if dev is None else scorer_of(head.answers, dev, predict_examples(network, head, dev)).scores()
            network.train()
            if _is_better(scores, progress.best, head):
                progress.best_step, progress.dev = progress.step, scores
                progress.best = scores.get(head.scores[0], math.nan)
                best = _copied(network)
            _save(state, network, optimizer, progress, best)
    network.load_state_dict(best)
    return TrainedHead(network=network.eval(), step=progress.best_step, dev=progress.dev)


@torch.no_grad()
def predict_examples(network: HeadNetwork, head: Head, examples: Examples, *, batch: int = 32) -> list[Tensor]:
    """Return the predictions for each utterance: (classes,) or (frames, classes) probabilities, or a () value."""
    network.eval()
    device, found = pick_device(), list[Tensor]()
    for begin in range(0, len(examples.answers), batch):
        indices = range(begin, min(begin + batch, len(examples.answers)))
        given = examples.features.batch(indices, device)
        predictions = head.predictions(network(given.layers, given.is_valid)).cpu()
        if head.answers == "frame_classes":
            counts = (examples.features.counts[index] for index in indices)
            found += [each[:count] for each, count in zip(predictions, counts, strict=True)]
        else:
            found += predictions
    return found


def scorer_of(kind: Answers, examples: Answered, predictions: Sequence[Tensor]) -> Scorer:
    """Return the scorer of predictions from `predict_examples`."""
    match kind:
        case "classes":
            answers = torch.stack([*examples.answers]).numpy()
            return ClassScorer(answers, torch.stack([*predictions]).argmax(-1).numpy(), len(predictions[0]))
        case "frame_classes":
            classes = predictions[0].shape[-1]
            wanted = [each.numpy() for each in examples.answers]
            return FrameScorer(wanted, [each.argmax(-1).numpy() for each in predictions], classes)
        case "values":
            answers = torch.stack([*examples.answers]).double().numpy()
            return ValueScorer(answers, torch.stack([*predictions]).double().numpy())


@dataclass(kw_only=True)
class _Progress:
    """Where a training run is."""

    step: int
    best_step: int
    best: float  # first score at the best step; NaN before the first evaluation, and without a dev set
    dev: dict[str, float]  # all scores at the best step


def _drawn(examples: int, batch: int, step: int, seed: int) -> list[int]:
    """Return the indices of the batch of a step: each epoch is a permutation, its last batch may be smaller."""
    per_epoch = -(-examples // batch)
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(examples, generator=seeded_generator(seed, f"head epoch {epoch}"))
    return order[place * batch : (place + 1) * batch].tolist()


def _is_better(scores: dict[str, float], best: float, head: Head) -> bool:
    if not scores or math.isnan(best):
        return True
    score = scores[head.scores[0]]
    return score > best if head.is_best == "highest" else score < best


def _copied(network: HeadNetwork) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def _save(
    path: Path, network: HeadNetwork, optimizer: torch.optim.Adam, progress: _Progress, best: dict[str, Tensor]
) -> None:
    """Write weights, moments of Adam and the best weights into one file, atomically."""
    tensors = {f"network.{name}": tensor for name, tensor in _copied(network).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": tensor.cpu().contiguous() for name, tensor in moments.items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, {"progress": json.dumps(vars(progress))})


def _resume(path: Path, network: HeadNetwork, optimizer: torch.optim.Adam) -> tuple[_Progress, dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        progress = _Progress(**json.loads(file.metadata()["progress"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}

    network.load_state_dict(under("network."))
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in under("adam.").items():
        number, _, kind = name.partition(".")
        moments.setdefault(int(number), {})[kind] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return progress, under("best.")
