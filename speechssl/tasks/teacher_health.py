"""Health bands of predicting a teacher's targets."""

from collections.abc import Mapping

from speechssl.tasks.health import (
    FLAT_FEATURES,
    LOST_GROUND,
    NO_GRADIENT,
    NO_LEARNING,
    SAME_FEATURES,
    Band,
    Health,
)

__all__ = ["teacher_health"]


def teacher_health(entries: int | None) -> Health:
    """Describe a healthy run with codebooks of `entries`, or with regression if None.

    The targets change with the teacher, and their entropy with them, so the loss that has to fall is relative to that
    of guessing.
    """

    def signs(values: Mapping[str, float]) -> dict[str, float]:
        found = {}
        if "masked_loss_over_guessing" in values:
            found["loss_over_guessing"] = values["masked_loss_over_guessing"]
        if "masked_target_var" in values and "masked_prediction_var" in values:
            found["prediction_share"] = values["masked_prediction_var"] / max(values["masked_target_var"], 1e-12)
        if entries is not None and "codes_perplexity" in values:
            found["codes_share"] = values["codes_perplexity"] / entries
        return found

    return Health(bands=_BANDS, signs=signs, loss="masked_loss_over_guessing", guessing_loss=1.0)


_EQUAL_TARGETS = Band(
    name="equal_targets",
    sign="teacher_cosine",
    shown="mean cosine between two frames of the teacher's last layer",
    high=0.98,
    seen="festvox-ru, small model, 160 to 200 steps: 0.05 to 0.44. Collapsed: 1.0 (lr 2e-3 after a warm-up of 16 "
    "steps, no unmasked frames predicted, by step 120)",
    likely="the teacher encodes all frames alike, and predicting it is trivial: a teacher that follows too fast, a "
    "learning rate too high, or masks so short that neighbouring frames suffice",
    change="raise objective.ema.start and objective.ema.end, lower optim.lr or lengthen optim.warmup, set "
    "optim.max_grad_norm, raise objective.mask.span, and go on from a checkpoint before this step",
)
_FLAT_TARGETS = Band(
    name="flat_targets",
    sign="target_rank",
    shown="effective number of dimensions of the targets",
    low=2.5,
    seen="festvox-ru, small model, 160 steps: 14 to 52. With a warm-up of 16 steps to 2e-3, 2.7 to 5, and no phones "
    "were learnt. Collapsed: 2.0 with constant targets, whose rounding the norm over time magnifies",
    likely="the targets differ along one direction only, such as loudness: a teacher that follows too fast, or "
    "a learning rate too high",
    change="raise objective.ema.start and objective.ema.end, lower optim.lr, average more objective.layers, and go on "
    "from a checkpoint before this step",
)
_FLAT_PREDICTIONS = Band(
    name="flat_predictions",
    sign="prediction_share",
    shown="variance of the predictions, as a share of that of the targets",
    low=0.02,
    is_early=False,
    seen="festvox-ru, 80 steps of the small model: 0.2 to 0.3",
    likely="the model predicts the mean of the targets for every frame: a learning rate too low, or so high that it "
    "broke the model, or masks so long that nothing can be predicted",
    change="try another optim.lr, shorten objective.mask.span, lower objective.ema.end so that the targets get better "
    "sooner",
)
_FEW_CODES = Band(
    name="few_codes",
    sign="codes_share",
    shown="perplexity of the least used codebook, as a share of its entries",
    low=0.05,
    seen="festvox-ru 0.13 of 128 at step 20, then 0.15 to 0.8; DinoSR's codes 0.73 of 256 (units-quality.csv of "
    "spidr). Collapsed: one code, 0.004",
    likely="nearly all frames of the teacher have the same code: the teacher has collapsed, the audio is near-silent, "
    "or the codebooks are too large for the audio of an update",
    change="see the other alarms, lower objective.codebooks.entries, raise objective.codebooks.decay or "
    "batch.seconds, leave silent audio out",
)
_BANDS = (
    _EQUAL_TARGETS,
    _FLAT_TARGETS,
    _FEW_CODES,
    NO_LEARNING,
    _FLAT_PREDICTIONS,
    LOST_GROUND,
    SAME_FEATURES,
    FLAT_FEATURES,
    NO_GRADIENT,
)
