"""Bands for the metrics of a healthy run, and the texts of the alarms for metrics outside of their bands.

Numbers from our runs are those of the small model (2.5 M parameters) on real speech: "demo", "pool" and "continued" are
recipes in recipes/README.md. fairseq's issues are about wav2vec 2.0 BASE and LARGE.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = [
    "FLAT_FEATURES",
    "LOST_GROUND",
    "NO_GRADIENT",
    "NO_LEARNING",
    "SAME_FEATURES",
    "TOO_EASY",
    "Band",
    "Health",
    "Signs",
]

Signs = Callable[[Mapping[str, float]], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Band:
    """The range of a sign (a logged or derived metric) in a healthy run, and the alarm for values outside of it."""

    name: str  # name of the alarm
    sign: str  # name of a logged metric, or of one that `Health.signs` derives
    shown: str  # description of the sign
    low: float = -math.inf
    high: float = math.inf
    is_early: bool = True  # True: checked from the first report on; False: from the end of the grace on
    after: float = (
        0.0  # share of the run before which a band that is not early is not checked, if no grace is configured
    )
    said_by: str = ""  # name of another alarm that covers this one
    seen: str  # values in healthy and collapsed runs, with their source
    likely: str  # likely causes
    change: str  # what to change

    def holds(self, value: float) -> bool:
        """Whether a value lies inside the band."""
        return self.low <= value <= self.high

    def expected(self) -> str:
        """Describe the band in words."""
        return f"at least {self.low:g}" if self.high == math.inf else f"at most {self.high:g}"


def _no_signs(values: Mapping[str, float]) -> dict[str, float]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Health:
    """Description of a healthy run, for the monitor."""

    bands: tuple[Band, ...]
    loss: str  # name of the metric that has to fall; with several streams, the sum of `loss_0`, `loss_1`, ...
    guessing_loss: float | None = None  # loss of guessing, in nats; None if undefined
    signs: Signs = _no_signs  # derives further signs from the metrics of a report, comparable between model sizes
    grace_percent: int = 8  # share of the steps in which a run need not have learnt anything yet, in percent
    frozen_steps: int = 0  # number of steps in which only the head learns

    def grace(self, steps: int) -> int:
        """Return the number of steps, at least 300, in which a run of `steps` need not have learnt anything yet."""
        frozen = self.frozen_steps if self.frozen_steps < steps else 0  # frozen for the whole run: do not wait
        return max(300, frozen, steps * self.grace_percent // 100)


TOO_EASY = Band(
    name="too_easy",
    sign="loss_over_guessing",
    shown="loss, as a share of the loss of guessing",
    low=0.1,
    seen="demo and pool end at 0.5 (contrastive) and at 0.5 to 0.8 (masked prediction). Collapsed: 0.0 "
    "(transformers' recipe by step 200; fairseq issue 3687: accuracy 1 after some hundred updates)",
    likely="the task is trivial: nearly all targets are the same, masks are so short that neighbouring frames suffice, "
    "or there is very little training audio",
    change="raise objective.mask.span, add audio",
)
NO_LEARNING = Band(
    name="no_learning",
    sign="loss_over_guessing",
    shown="loss, as a share of the loss of guessing by frequency",
    high=0.985,
    is_early=False,
    seen="demo and pool reach 0.97 within 300 steps. Stuck: 1.00 for 900 steps (contrastive, codebooks of 64 "
    "entries and spans of 5 frames on the small model)",
    likely="the model does not use the context: a learning rate too low, or so high that it broke the model, masks too "
    "long for so small a model, batches under 150 s, near-silent or very noisy audio",
    change="listen to some of data.manifests, try another optim.lr, shorten objective.mask.span, raise batch.seconds "
    "or train.accumulate",
)
LOST_GROUND = Band(
    name="lost_ground",
    sign="lost_share",
    shown="share of the loss's improvement since the start that is lost again",
    high=0.6,
    seen="under 0.2 in demo, pool, continued and all our CTC runs, 0.5 in averages of only 10 steps. Diverged: 0.6 "
    "to 1.0 (contrastive: lr 2e-3 with a warm-up of 48 steps, and lr 0.1)",
    likely="training has diverged: a learning rate too high for this batch, a batch of broken audio, 16-bit overflow",
    change="lower optim.lr, lengthen optim.warmup, set optim.max_grad_norm, set train.bfloat16=false, and go on "
    "from a checkpoint before this step",
)
SAME_FEATURES = Band(
    name="same_features",
    sign="feature_cosine",
    shown="mean cosine between two frames of the last layer",
    high=0.98,
    seen="demo 0.04 to 0.47. Collapsed: 1.0 (no diversity loss, by step 220)",
    likely="all frames are encoded alike: a learning rate too high, or a task that does not distinguish frames",
    change="lower optim.lr or lengthen optim.warmup, set optim.max_grad_norm, and go on from a checkpoint before this "
    "step",
)
FLAT_FEATURES = Band(
    name="flat_features",
    sign="feature_rank",
    shown="effective number of dimensions of the last layer",
    low=1.3,
    seen="demo 2.5 (contrastive) and 4 (masked prediction) and more. Collapsed: 1.0 (lr 0.1, by step 40)",
    likely="frames differ along one direction only: a learning rate too high, or a task that needs no more, since its "
    "targets hardly differ",
    change="lower optim.lr or lengthen optim.warmup",
)
NO_GRADIENT = Band(
    name="no_gradient",
    sign="grad_norm",
    shown="norm of the gradients",
    low=1e-6,
    seen="0.3 to 17 in pretraining, 39 and more in CTC. Collapsed: 2e-14 (transformers' recipe)",
    likely="nothing is left to learn from: the loss is 0, or the same whatever the model does",
    change="go on from a checkpoint before the loss fell, with a lower optim.lr",
)
