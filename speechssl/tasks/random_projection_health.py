"""Health bands of BEST-RQ's random projections."""

import dataclasses

from speechssl.tasks.health import (
    FLAT_FEATURES,
    LOST_GROUND,
    NO_GRADIENT,
    NO_LEARNING,
    SAME_FEATURES,
    TOO_EASY,
    Band,
    Health,
)
from speechssl.tasks.masked_prediction_health import ONE_ANSWER, guessing_loss, prediction_signs

__all__ = ["random_projection_health"]


def random_projection_health(codebooks: int, entries: int) -> Health:
    """Describe a healthy run with some codebooks of `entries` each; the worst codebook counts."""
    sizes = (entries,) * codebooks
    return Health(
        bands=_BANDS,
        signs=prediction_signs(sizes, targets="codes"),
        loss="masked_loss",
        guessing_loss=guessing_loss(sizes),
    )


_ONE_CODE = Band(
    name="one_code",
    sign="codes_share",
    shown="perplexity of the codes, as a share of the number of entries",
    low=0.02,
    seen="pool recipe 0.7 to 0.8; a random projection 0.1 of 256 entries, 0.01 to 0.03 without normalize",
    likely="a few codes make up nearly all frames: near-silent audio, or log-mel frames in which loudness or the "
    "channel outweighs everything else",
    change="set objective.codebook.normalize=mean and objective.codebook.projection=pca, or "
    "objective.codebook.update=ema; leave silent audio out",
)
_TOO_EASY = dataclasses.replace(
    TOO_EASY,
    likely="the task is trivial: nearly all codes are the same, masks are so short that neighbouring frames suffice, "
    "or there is very little training audio",
    change="look at codes_perplexity, raise objective.mask.span, set objective.codebook.projection=pca, add audio",
)
_NO_LEARNING = dataclasses.replace(
    NO_LEARNING,
    likely="the model does not use the context: a learning rate too low, or so high that it broke the model, masks too "
    "long or codebooks too large for so small a model, near-silent or very noisy audio",
    change="listen to some of data.manifests, try another optim.lr, shorten objective.mask.span, lower "
    "objective.codebook.entries, raise batch.seconds or train.accumulate",
)
_BANDS = (_TOO_EASY, _ONE_CODE, _NO_LEARNING, ONE_ANSWER, LOST_GROUND, SAME_FEATURES, FLAT_FEATURES, NO_GRADIENT)
