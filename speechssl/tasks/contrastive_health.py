"""Health bands of wav2vec 2.0's contrastive task."""

import dataclasses
import math
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

__all__ = ["contrastive_health"]


def contrastive_health(negatives: int | None) -> Health:
    """Describe a healthy run with the given number of negatives; None: the reports' `guessing_loss` counts them."""
    known_loss = None if negatives is None else math.log(1 + negatives)

    def signs(values: Mapping[str, float]) -> dict[str, float]:
        found = {}
        each = [value for name, value in values.items() if name.startswith("code_perplexity_")]
        if each:
            found["codebook_perplexity"] = min(each)
        guessing_loss = values.get("guessing_loss", known_loss)
        if "contrastive_loss" in values and guessing_loss:
            found["loss_over_guessing"] = values["contrastive_loss"] / guessing_loss
        return found

    return Health(bands=_BANDS, signs=signs, loss="contrastive_loss", guessing_loss=known_loss)


_CODEBOOK_COLLAPSE = Band(
    name="codebook_collapse",
    sign="codebook_perplexity",
    shown="perplexity of the least used codebook",
    low=2.0,
    seen="demo and pool 4.4 to 15 of 16 entries, 8.7 to 14 with log-mel targets; BASE 9 to 13 of 320 early on (fairseq "
    "issues 2981 and 3391). Collapsed: 1.0 of 320 (transformers' recipe on the small model, by step 150; transformers "
    "issue 14387), 1.0 of 16 (small model with a layer-norm extractor and a feature penalty of 1, by step 300)",
    likely="the quantizer maps every frame to the same entries: a learning rate too high, too little weight on "
    "diversity, codebooks too large for the audio, a feature penalty on an extractor that normalises every layer, or "
    "audio without speech",
    change="lower optim.lr or lengthen optim.warmup, raise objective.diversity_weight, lower "
    "objective.quantizer.entries, set objective.feature_penalty=0 if encoder.conv_norm is layer, and go on from a "
    "checkpoint before this step",
)
_EQUAL_NEGATIVES = Band(
    name="equal_negatives",
    sign="negative_spread",
    shown="standard deviation of the cosines of a frame with its negatives",
    low=1e-4,
    seen="demo 0.007 at its lowest, in the warm-up; 0.04 with eight loudness_neighbours. All negatives equal: 0; "
    "codebooks collapsed to one entry: 0",
    likely="all negatives of a frame are equal: objective.negatives or objective.loudness_neighbours is 1, utterances "
    "have two masked frames, or the codebooks have collapsed",
    change="raise objective.negatives, objective.loudness_neighbours, objective.mask.start_prob and batch.min_s, and "
    "see the other alarms",
)
_BANDS = (
    _CODEBOOK_COLLAPSE,
    dataclasses.replace(
        TOO_EASY,
        likely="the task is trivial: negatives equal each other or the target, masks are so short that neighbouring "
        "frames suffice, or there is very little training audio",
        change=f"look at codes_used, raise objective.negatives, {TOO_EASY.change}",
    ),
    _EQUAL_NEGATIVES,
    dataclasses.replace(
        NO_LEARNING,
        likely=f"{NO_LEARNING.likely}, codebooks too large for so small a model",
        change=f"{NO_LEARNING.change}, lower objective.quantizer.entries",
    ),
    LOST_GROUND,
    dataclasses.replace(SAME_FEATURES, change=f"raise objective.diversity_weight, {SAME_FEATURES.change}"),
    dataclasses.replace(
        FLAT_FEATURES, change=f"{FLAT_FEATURES.change}, look at codes_used, raise objective.diversity_weight"
    ),
    dataclasses.replace(
        NO_GRADIENT,
        likely="nothing is left to learn from: every negative equals the target, or the loss is 0 for another reason",
        change=f"{NO_GRADIENT.change} and a higher objective.diversity_weight",
    ),
)
