"""What features and units still tell about the speaker: a linear classifier's accuracy, and mutual information."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.asr.scoring.intervals import Interval
from speechssl.downstream.bootstrap import interval
from speechssl.errors import LabelError
from speechssl.units.quality import mutual_information

__all__ = ["FOLDS", "SpeakerAccuracy", "speaker_accuracy", "unit_speaker_information"]

FOLDS = 5  # parts of which each is classified by a classifier of the others
_MOST = 100  # utterances of a speaker
_RIDGE = 0.01  # penalty, as a share of the number of utterances, on standardised features


@dataclass(frozen=True, kw_only=True)
class SpeakerAccuracy:
    """Share of held-out utterances whose speaker is recognised."""

    accuracy: float
    interval: Interval  # over utterances: for others of the same speakers
    chance: float  # 1 / number of speakers
    speakers: int
    utterances: int  # of each speaker
    left_out: tuple[str, ...]  # speakers with fewer than `FOLDS` utterances


def speaker_accuracy(embeddings: NDArray[np.float32], speakers: Sequence[str], *, seed: int = 0) -> SpeakerAccuracy:
    """Recognise speakers from utterances' mean features by ridge regression to one column a speaker.

    Balanced: the same number of utterances of each speaker, that of the rarest, are drawn and shared among the folds.
    The classifier is a closed form, so that layers compare without training's luck; a trained head scores higher.

    Args:
        embeddings: (utterances, dim).
        speakers: speaker of each.
        seed: seed of the draw.

    Raises:
        LabelError: fewer than two speakers have utterances for all folds.
    """
    counts = Counter(speakers)
    names = sorted(name for name, count in counts.items() if count >= FOLDS)
    if len(names) < 2:
        raise LabelError(
            f"speaker accuracy: expected two speakers with {FOLDS} utterances each, found {len(names)} among "
            f"{len(counts)} speakers; add utterances, or leave the measure out"
        )
    each = min(_MOST, *(counts[name] for name in names))
    generator = np.random.default_rng(seed)
    members = [generator.permutation([i for i, of in enumerate(speakers) if of == name])[:each] for name in names]
    chosen, labels = np.concatenate(members), np.repeat(np.arange(len(names)), each)
    folds = np.tile(np.arange(each) % FOLDS, len(names))
    features = embeddings[chosen].astype(np.float64)
    is_right = np.zeros(len(chosen), bool)
    for fold in range(FOLDS):
        is_train = folds != fold
        guesses = _recognised(features[is_train], labels[is_train], features[~is_train], len(names))
        is_right[~is_train] = guesses == labels[~is_train]
    blocks = [str(index) for index in range(len(chosen))]
    return SpeakerAccuracy(
        accuracy=float(is_right.mean()),
        interval=interval(lambda indices: float(is_right[indices].mean()), blocks, seed=seed),
        chance=1 / len(names),
        speakers=len(names),
        utterances=each,
        left_out=tuple(sorted(set(counts) - set(names))),
    )


def _recognised(
    features: NDArray[np.float64], labels: NDArray[np.int64], others: NDArray[np.float64], classes: int
) -> NDArray[np.int64]:
    mean, deviation = features.mean(0), features.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    features, others = (features - mean) / deviation, (others - mean) / deviation
    targets = np.eye(classes)[labels]
    targets -= targets.mean(0)
    penalty = _RIDGE * len(features) * np.eye(features.shape[1])
    weights = np.linalg.solve(features.T @ features + penalty, features.T @ targets)
    return (others @ weights).argmax(1)


def unit_speaker_information(
    counts: NDArray[np.int64], speakers: Sequence[str], *, seed: int = 0
) -> tuple[float, float]:
    """Return the mutual information of unit and speaker, divided by the speaker's entropy, and its chance level.

    Chance: the same with the speakers of utterances permuted; it is above 0, as an utterance repeats its own sounds.

    Args:
        counts: (utterances, units) frames of each unit.
        speakers: speaker of each utterance.
        seed: seed of the permutation.
    """
    names = sorted(set(speakers))
    number = np.array([names.index(name) for name in speakers])
    return tuple(  # type: ignore[return-value]
        _normalised_information(counts, order, len(names))
        for order in (number, np.random.default_rng(seed).permutation(number))
    )


def _normalised_information(counts: NDArray[np.int64], numbers: NDArray[np.int64], size: int) -> float:
    joint = np.zeros((size, counts.shape[1]))
    np.add.at(joint, numbers, counts)
    share = joint / joint.sum()
    speaker = share.sum(1)
    entropy = -float((speaker[speaker > 0] * np.log(speaker[speaker > 0])).sum())
    return mutual_information(share) / entropy if entropy > 0 else 0.0
