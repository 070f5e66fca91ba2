"""Health bands of BEST-RQ's random projections."""

import dataclasses
from collections.abc import Mapping

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
    of_predictions = prediction_signs(sizes, targets="codes")

    def signs(values: Mapping[str, float]) -> dict[str, float]:
        names = [f"codes_{codebook}_perplexity" for codebook in range(codebooks)] if codebooks > 1 else []
        spreads = [values[name] for name in names or ["codes_perplexity"] if name in values]
        return of_predictions(values) | ({"fewest_codes": min(spreads)} if spreads else {})

    return Health(bands=_BANDS, signs=signs, loss="masked_loss", guessing_loss=guessing_loss(sizes))


_ONE_CODE = Band(
    name="one_code",
    sign="fewest_codes",
    shown="perplexity of the codes of a codebook",
    low=3.0,
    seen="festvox-ru, 256 entries: 160 to 200 with projection=pca, 27 with a random projection, 7 without normalize. "
    "With random projections many entries are never used (8,192 entries: a perplexity of 100), which is no fault",
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
