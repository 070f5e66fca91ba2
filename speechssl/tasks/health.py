"""What a healthy run of a task looks like: bands for its figures, and the words of an alarm when one leaves its band.

Where a figure is said to be of our runs, they are of the small model (2.5 M parameters) on real speech: "demo", "pool"
and "continued" are the recipes of recipes/README.md. fairseq's issues are of wav2vec 2.0 BASE and LARGE.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["FLAT_FEATURES", "LOST_GROUND", "NO_GRADIENT", "NO_LEARNING", "SAME_FEATURES", "TOO_EASY", "Band", "Health"]

Signs = Callable[[Mapping[str, float]], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Band:
    """Where a sign of health lies in a healthy run."""

    name: str  # of the alarm
    sign: str  # a figure of the report, or one that `Health.signs` makes of them
    shown: str  # the sign in words
    low: float = -math.inf
    high: float = math.inf
    is_early: bool = True  # whether it holds from the first report on, or from the end of the grace
    after: float = 0.0  # share of the run before which it does not hold either, unless the grace is set
    said_by: str = ""  # another alarm, that says the same and more
    seen: str  # what healthy runs and collapses showed, and where that is from
    likely: str
    change: str

    def holds(self, value: float) -> bool:
        """Whether a value lies inside."""
        return self.low <= value <= self.high

    def expected(self) -> str:
        """Describe the band."""
        return f"at least {self.low:g}" if self.high == math.inf else f"at most {self.high:g}"


def _no_signs(values: Mapping[str, float]) -> dict[str, float]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Health:
    """What the monitor of a run compares its reports with."""

    bands: tuple[Band, ...]
    loss: str  # the figure that has to fall; of several streams also `loss_0`, `loss_1`, ..., which are added up
    guessing_loss: float | None = None  # the loss of guessing, in nats; None where there is no such thing
    signs: Signs = _no_signs  # what it makes of a report's figures, to compare sizes of model; they are signs too
    grace_percent: int = 8  # of the steps, in which a run need not have learnt anything yet
    frozen_steps: int = 0  # in which only the head learns

    def grace(self, steps: int) -> int:
        """Return the steps in which a run of so many need not have learnt anything yet: 300 at least."""
        frozen = self.frozen_steps if self.frozen_steps < steps else 0  # for ever: no reason to wait
        return max(300, frozen, steps * self.grace_percent // 100)


TOO_EASY = Band(
    name="too_easy",
    sign="loss_over_guessing",
    shown="loss, as a share of that of guessing",
    low=0.1,
    seen="demo and pool end at 0.5 (contrastive) and at 0.5 to 0.8 (masked prediction). Collapsed: 0.0 "
    "(transformers' recipe by step 200; fairseq issue 3687: accuracy 1 after some hundred updates)",
    likely="the answer is given away: negatives equal each other or the target, nearly all labels are the same, "
    "masks are so short that neighbours tell, or train on very little audio",
    change="look at codes_used and labels_used, raise objective.negatives and objective.mask.span, make the "
    "labels again with `speechssl cluster`, add audio",
)
NO_LEARNING = Band(
    name="no_learning",
    sign="loss_over_guessing",
    shown="loss, as a share of that of guessing by frequency",
    high=0.985,
    is_early=False,
    seen="demo and pool reach 0.97 within 300 steps. Stuck: 1.00 for 900 steps (contrastive, codebooks of 64 "
    "entries and spans of 5 frames on the small model)",
    likely="the context teaches nothing: a learning rate too low, or so high that it broke the model, masks too "
    "long or codebooks too large for so small a model, batches under 150 s, near-silent or very noisy audio",
    change="listen to some of data.manifests, try another optim.lr, shorten objective.mask.span, lower "
    "objective.quantizer.entries, raise batch.seconds or train.accumulate",
)
LOST_GROUND = Band(
    name="lost_ground",
    sign="lost_share",
    shown="share lost of what the loss had gained since the start",
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
    likely="all frames are encoded alike: a learning rate too high, or no task that tells frames apart",
    change="lower optim.lr or lengthen optim.warmup, set optim.max_grad_norm, raise objective.diversity_weight, "
    "and go on from a checkpoint before this step",
)
FLAT_FEATURES = Band(
    name="flat_features",
    sign="feature_rank",
    shown="effective number of dimensions of the last layer",
    low=1.3,
    seen="demo 2.5 (contrastive) and 4 (masked prediction) and more. Collapsed: 1.0 (lr 0.1, by step 40)",
    likely="frames differ along one direction only: a learning rate too high, or a task that needs no more (few "
    "codes, few labels)",
    change="lower optim.lr, look at codes_used and labels_used, raise objective.diversity_weight",
)
NO_GRADIENT = Band(
    name="no_gradient",
    sign="grad_norm",
    shown="norm of the gradients",
    low=1e-6,
    seen="0.3 to 17 in pretraining, 39 and more in CTC. Collapsed: 2e-14 (transformers' recipe)",
    likely="nothing is left to learn from: every negative equals the target, or the loss is 0 for another reason",
    change="go on from a checkpoint before the loss fell, with a lower optim.lr and a higher "
    "objective.diversity_weight",
)
