"""Augmentation of a training set, of which a part may have pseudo-labels and be augmented more than the rest.

A student that is to learn more than its teacher knows needs more noise than the teacher had (Xie et al.,
arXiv:1911.04252); labels, which are right, are better heard as they are.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.audio.reading import AudioConfig
from speechssl.config import configuration
from speechssl.corpus.named import read_named
from speechssl.data.augment import Augment, AugmentConfig, AugmenterOfTwo, Speeds, SpeedsOfTwo, UtteranceSpeeds
from speechssl.data.utterances import Rows, Utterance
from speechssl.errors import ConfigError

__all__ = ["PseudoConfig", "augmenter_of", "span_of_speeds", "speeds_of"]


@configuration
class PseudoConfig:
    """The part of the training data whose texts a recogniser wrote."""

    manifests: tuple[Path, ...]  # those of data.manifests that list it
    augment: AugmentConfig = AugmentConfig()  # augmentation of that part, in place of `augment`

    def __post_init__(self) -> None:
        if not self.manifests:
            raise ConfigError(
                "pseudo.manifests is empty; name the manifests of data.manifests whose texts a recogniser wrote"
            )

    def is_meant(self, utterances: Sequence[Utterance]) -> NDArray[np.bool_]:
        """Mark the utterances of that part, (utterances,).

        Raises:
            ConfigError: a manifest lists none of them.
        """
        names = [str(path) for path in self.manifests]
        corpora = np.concatenate([np.asarray(block, object) for block in Rows.of(utterances).column("corpus")])
        if not any(corpora):  # rows of a single manifest do not name it
            raise ConfigError(
                "pseudo.manifests: data.manifests names a single manifest, so nothing is told apart; name the manifest "
                "of the labels there, too"
            )
        if spare := [name for name in names if name not in set(corpora.tolist())]:
            raise ConfigError(
                f"pseudo.manifests: {spare[0]} lists no training utterance; name manifests of data.manifests, as they "
                "are written there"
            )
        return np.isin(corpora, names)


def speeds_of(
    augment: AugmentConfig, pseudo: PseudoConfig | None, utterances: Sequence[Utterance], *, seed: int
) -> UtteranceSpeeds | None:
    """Return the speeds of the training utterances, None if speed does not change."""
    if pseudo is None or not (augment.changes_speed or pseudo.augment.changes_speed):
        return augment.speeds_of(len(utterances), seed=seed)
    first, second = (Speeds(each.speeds or (1.0,), len(utterances), seed=seed) for each in (augment, pseudo.augment))
    return SpeedsOfTwo((first, second), pseudo.is_meant(utterances))


def augmenter_of(
    augment: AugmentConfig,
    pseudo: PseudoConfig | None,
    utterances: Sequence[Utterance],
    audio: AudioConfig,
    *,
    seed: int,
) -> Augment | None:
    """Return the augmentation of the training utterances other than speed, None if there is none.

    Raises:
        ManifestError: a manifest of rooms or noise cannot be read.
    """
    own = augment.augmenter(audio, seed=seed, read=read_named)
    if pseudo is None:
        return own
    other = pseudo.augment.augmenter(audio, seed=seed, read=read_named)
    return None if own is other is None else AugmenterOfTwo((own, other), pseudo.is_meant(utterances))


def span_of_speeds(augment: AugmentConfig, pseudo: PseudoConfig | None) -> tuple[float, float]:
    """Return the lowest and the highest speed factor of a training utterance."""
    both = (augment,) if pseudo is None else (augment, pseudo.augment)
    speeds = [speed for each in both for speed in each.speeds or (1.0,)]
    return min(speeds), max(speeds)
