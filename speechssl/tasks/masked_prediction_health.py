"""Health bands of HuBERT's masked prediction."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from speechssl.tasks.health import (
    FLAT_FEATURES,
    LOST_GROUND,
    NO_GRADIENT,
    NO_LEARNING,
    SAME_FEATURES,
    TOO_EASY,
    Band,
    Health,
    Signs,
)

__all__ = ["ONE_ANSWER", "guessing_loss", "masked_prediction_health", "prediction_signs"]


def masked_prediction_health(clusters: Sequence[int]) -> Health:
    """Describe a healthy run with `clusters` units in each label stream; the worst stream counts."""
    signs = prediction_signs(clusters, targets="labels")
    return Health(bands=_BANDS, signs=signs, loss="masked_loss", guessing_loss=guessing_loss(clusters))


def guessing_loss(sizes: Sequence[int]) -> float:
    """Return the sum of the losses of guessing among as many targets in each stream, in nats."""
    return sum(math.log(size) for size in sizes)


def prediction_signs(sizes: Sequence[int], *, targets: str) -> Signs:
    """Return the function that derives the signs of a run whose heads predict targets of a frame.

    Args:
        sizes: number of targets of each stream, which has its own head.
        targets: name of the tallies of the targets, such as labels.
    """

    def signs(values: Mapping[str, float]) -> dict[str, float]:
        losses, shares, predicted = [], [], []
        for stream, size in enumerate(sizes):
            suffix = f"_{stream}" if len(sizes) > 1 else ""
            spread = values.get(f"{targets}{suffix}_perplexity", float(size))
            shares.append(spread / size)
            if spread > 1.05 and f"masked_loss{suffix}" in values:  # with one target, the loss of guessing is 0
                losses.append(values[f"masked_loss{suffix}"] / math.log(spread))
            if f"predicted{suffix}_perplexity" in values:
                predicted.append(values[f"predicted{suffix}_perplexity"] / spread)
        found = {f"{targets}_share": min(shares)}
        found |= {"loss_over_guessing": max(losses)} if losses else {}
        return found | ({"predicted_share": min(predicted)} if predicted else {})

    return signs


_ONE_LABEL = Band(
    name="one_label",
    sign="labels_share",
    shown="perplexity of the labels, as a share of the number of clusters",
    low=0.2,
    seen="demo 0.9 of 100 clusters of MFCC; DinoSR's codes 0.73 of 256 (units-quality.csv of spidr). An empty "
    "dictionary made every label one (fairseq pull request 4521: the loss went to 0)",
    likely="a few labels make up nearly all frames: silence, a k-means fitted on other audio, or a broken file",
    change="look at the labels with `speechssl plot`, make them again with `speechssl cluster` on the audio of "
    "data.manifests, leave silent audio out",
)
ONE_ANSWER = Band(
    name="one_answer",
    sign="predicted_share",
    shown="perplexity of the predictions, as a share of that of the targets",
    low=0.1,
    is_early=False,
    seen="demo 0.02 at first, 0.2 to 0.6 after the warm-up",
    likely="the model predicts a few units only: a learning rate so high that it broke the model, or masks so long "
    "that nothing can be predicted",
    change="lower optim.lr or lengthen optim.warmup, set optim.max_grad_norm, shorten objective.mask.span, and go "
    "on from a checkpoint before this step",
)
_BANDS = (
    dataclasses.replace(
        TOO_EASY, change=f"look at labels_used, make the labels again with `speechssl cluster`, {TOO_EASY.change}"
    ),
    _ONE_LABEL,
    NO_LEARNING,
    ONE_ANSWER,
    LOST_GROUND,
    SAME_FEATURES,
    dataclasses.replace(FLAT_FEATURES, change=f"{FLAT_FEATURES.change}, look at labels_used"),
    NO_GRADIENT,
)
