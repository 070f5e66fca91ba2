"""Whether a run is healthy: bands for its figures, and alarms in plain words when it leaves them.

`BANDS` is the table of what was seen in healthy runs and in collapses. `Guard` compares each report with it. Nothing
here looks at tensors, and nothing is drawn, so that a resumed run alarms alike.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.objective.contrastive import ContrastiveObjective
from speechssl.objective.ctc import CTCModel
from speechssl.objective.pretraining import PretrainModel
from speechssl.train.band import Band, Kind
from speechssl.train.ctc_bands import CTC_BANDS, ctc_signs

__all__ = ["BANDS", "Alarm", "Band", "Facts", "Guard", "HealthConfig"]


@configuration
class HealthConfig:
    """Watching over a run."""

    enabled: bool = True
    stop: bool = False  # end the run at an alarm of a report, after a checkpoint; those of dev scores warn only
    patience: int = 2  # reports in a row outside a band before it is an alarm
    grace_steps: int | None = None  # before a run has to have learnt anything; None: 8 % of its steps, at least 300
    probe_every: int = 0  # steps between probes; 0 for none
    probe_minutes: float = 5.0  # of audio, the same each time

    def __post_init__(self) -> None:
        if self.patience < 1 or self.probe_every < 0 or not 0 < self.probe_minutes <= 60:
            raise ConfigError(
                "health.patience must be 1 or more, health.probe_every not negative, and health.probe_minutes above 0 "
                f"and at most 60; found {self.patience}, {self.probe_every} and {self.probe_minutes}"
            )


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What is wrong with a run."""

    name: str  # of the band
    step: int
    message: str  # what was seen, what was expected, why it may be so, what to change


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a figure has to be compared with."""

    kind: Kind
    distractors: int = 0  # contrastive
    clusters: tuple[int, ...] = ()  # units of each stream of labels: masked prediction
    freeze_steps: int = 0  # in which only the head learns: CTC

    @classmethod
    def of(cls, model: nn.Module) -> "Facts | None":
        """Look them up in a model; None for one of another kind."""
        if isinstance(model, CTCModel):
            return cls(kind="ctc", freeze_steps=model.config.freeze_steps)
        if not isinstance(model, PretrainModel):
            return None
        if isinstance(model.objective, ContrastiveObjective):
            config = model.objective.config
            return cls(kind="contrastive", distractors=config.distractors + config.cross_distractors)
        return cls(kind="masked_prediction", clusters=model.objective.clusters)

    @property
    def chance(self) -> float | None:
        """The loss of guessing, in nats, a prediction; CTC has none."""
        match self.kind:
            case "contrastive":
                return math.log(1 + self.distractors)
            case "masked_prediction":
                return sum(math.log(clusters) for clusters in self.clusters)
            case "ctc":
                return None


_AS_LOGGED = ("feature_cosine", "feature_rank", "grad_norm", "distractor_spread")  # signs that are figures themselves
PRETRAINING: tuple[Kind, ...] = ("contrastive", "masked_prediction")

# Where a figure is said to be of our runs, they are of the small model (2.5 M parameters) on real speech: "demo",
# "pool" and "continued" are the recipes of recipes/README.md. fairseq's issues are of wav2vec 2.0 BASE and LARGE.
BANDS: tuple[Band, ...] = (
    Band(
        name="codebook_collapse",
        kinds=("contrastive",),
        sign="codebook_perplexity",
        shown="perplexity of the codebook that is used least",
        low=2.0,
        seen="demo and pool 4.4 to 15 of 16 entries; BASE 9 to 13 of 320 early on (fairseq issues 2981 and 3391). "
        "Collapsed: 1.0 of 320 (transformers' recipe on the small model, by step 150; transformers issue 14387), 1.0 "
        "of 16 (small model with a layer-norm extractor and a feature penalty of 1, by step 300)",
        likely="the quantizer answers every frame alike: a learning rate too high, too little weight on diversity, "
        "codebooks too large for the audio, a feature penalty on an extractor that norms every layer, or audio that "
        "says nothing",
        change="lower optim.lr or lengthen optim.warmup, raise objective.diversity_weight, lower "
        "objective.quantizer.entries, set objective.feature_penalty=0 if encoder.conv_norm is layer, and go on from a "
        "checkpoint before this step",
    ),
    Band(
        name="too_easy",
        kinds=PRETRAINING,
        sign="loss_of_chance",
        shown="loss, as a share of that of guessing",
        low=0.1,
        seen="demo and pool end at 0.5 (contrastive) and at 0.5 to 0.8 (masked prediction). Collapsed: 0.0 "
        "(transformers' recipe by step 200; fairseq issue 3687: accuracy 1 after some hundred updates)",
        likely="the answer is given away: distractors equal each other or the target, nearly all labels are the same, "
        "masks are so short that neighbours tell, or train on very little audio",
        change="look at codes_used and labels_used, raise objective.distractors and objective.mask.span, make the "
        "labels again with `speechssl cluster`, add audio",
    ),
    Band(
        name="equal_distractors",
        kinds=("contrastive",),
        sign="distractor_spread",
        shown="standard deviation of the cosines of a frame with its distractors",
        low=1e-4,
        seen="demo 0.007 at its lowest, in the warm-up. Drawn all equal: 0; codebooks collapsed to one entry: 0",
        likely="all distractors of a frame are one: objective.distractors is 1, utterances have two masked frames, or "
        "the codebooks have collapsed",
        change="raise objective.distractors, objective.mask.start_prob and batch.min_s, and see the other alarms",
    ),
    Band(
        name="one_label",
        kinds=("masked_prediction",),
        sign="labels_share",
        shown="perplexity of the labels, as a share of their clusters",
        low=0.2,
        seen="demo 0.9 of 100 clusters of MFCC; DinoSR's codes 0.73 of 256 (units-quality.csv of spidr). An empty "
        "dictionary made every label one (fairseq pull request 4521: the loss went to 0)",
        likely="a few labels make up nearly all frames: silence, a k-means fitted on other audio, or a broken file",
        change="look at the labels with `speechssl plot`, make them again with `speechssl cluster` on the audio of "
        "data.manifests, leave silent audio out",
    ),
    Band(
        name="no_learning",
        kinds=PRETRAINING,
        sign="loss_of_chance",
        shown="loss, as a share of that of guessing by frequency",
        high=0.985,
        is_early=False,
        seen="demo and pool reach 0.97 within 300 steps. Stuck: 1.00 for 900 steps (contrastive, codebooks of 64 "
        "entries and spans of 5 frames on the small model)",
        likely="the context teaches nothing: a learning rate too low, or so high that it broke the model, masks too "
        "long or codebooks too large for so small a model, batches under 150 s, near-silent or very noisy audio",
        change="listen to some of data.manifests, try another optim.lr, shorten objective.mask.span, lower "
        "objective.quantizer.entries, raise batch.seconds or train.accumulate",
    ),
    Band(
        name="one_answer",
        kinds=("masked_prediction",),
        sign="predicted_share",
        shown="perplexity of what is predicted, as a share of that of the labels",
        low=0.1,
        is_early=False,
        seen="demo 0.02 at first, 0.2 to 0.6 after the warm-up",
        likely="every masked frame gets one of a few answers: a learning rate so high that it broke the model, or "
        "masks so long that nothing can be told",
        change="lower optim.lr or lengthen optim.warmup, set optim.max_grad_norm, shorten objective.mask.span, and go "
        "on from a checkpoint before this step",
    ),
    Band(
        name="lost_ground",
        kinds=("contrastive", "masked_prediction", "ctc"),
        sign="lost_share",
        shown="share lost of what the loss had gained since the start",
        high=0.6,
        seen="under 0.2 in demo, pool, continued and all our CTC runs, 0.5 in averages of only 10 steps. Diverged: 0.6 "
        "to 1.0 (contrastive: lr 2e-3 with a warm-up of 48 steps, and lr 0.1)",
        likely="training has diverged: a learning rate too high for this batch, a batch of broken audio, 16-bit "
        "overflow",
        change="lower optim.lr, lengthen optim.warmup, set optim.max_grad_norm, set train.bfloat16=false, and go on "
        "from a checkpoint before this step",
    ),
    Band(
        name="same_features",
        kinds=PRETRAINING,
        sign="feature_cosine",
        shown="mean cosine between two frames of the last layer",
        high=0.98,
        seen="demo 0.04 to 0.47. Collapsed: 1.0 (no diversity loss, by step 220)",
        likely="all frames are encoded alike: a learning rate too high, or no task that tells frames apart",
        change="lower optim.lr or lengthen optim.warmup, set optim.max_grad_norm, raise objective.diversity_weight, "
        "and go on from a checkpoint before this step",
    ),
    Band(
        name="flat_features",
        kinds=PRETRAINING,
        sign="feature_rank",
        shown="effective number of dimensions of the last layer",
        low=1.3,
        seen="demo 2.5 (contrastive) and 4 (masked prediction) and more. Collapsed: 1.0 (lr 0.1, by step 40)",
        likely="frames differ along one direction only: a learning rate too high, or a task that needs no more (few "
        "codes, few labels)",
        change="lower optim.lr, look at codes_used and labels_used, raise objective.diversity_weight",
    ),
    Band(
        name="no_gradient",
        kinds=("contrastive", "masked_prediction", "ctc"),
        sign="grad_norm",
        shown="norm of the gradients",
        low=1e-6,
        seen="0.3 to 17 in pretraining, 39 and more in CTC. Collapsed: 2e-14 (transformers' recipe)",
        likely="nothing is left to learn from: every distractor equals the target, or the loss is 0 for another reason",
        change="go on from a checkpoint before the loss fell, with a lower optim.lr and a higher "
        "objective.diversity_weight",
    ),
    *CTC_BANDS,
)


class Guard:
    """Compares reports with the bands; raises an alarm once each time a sign has left its band for good.

    `state` is all it remembers: plain values for the checkpoint, to be given back to the guard of a resumed run.
    """

    def __init__(self, config: HealthConfig, facts: Facts | None, state: Mapping[str, Any] | None = None) -> None:
        """Watch a run, from its start or from the `state` of an interrupted one; without facts it says nothing."""
        self.config, self.facts = config, facts
        start: dict[str, Any] = {"outside": {}, "first": facts.chance if facts else None, "best": None}
        self.state = copy.deepcopy(start | dict(state or {}))
        self.bands = [band for band in BANDS if facts and facts.kind in band.kinds]

    def grace(self, steps: int) -> int:
        """Return the steps in which a run of so many need not have learnt anything yet."""
        if self.config.grace_steps is not None:
            return self.config.grace_steps
        if self.facts and self.facts.kind == "ctc":  # the plateau of blanks comes before everything else
            frozen = self.facts.freeze_steps if self.facts.freeze_steps < steps else 0  # for ever: no reason to wait
            return max(300, frozen, steps // 4)
        return max(300, steps * 8 // 100)

    def check(self, step: int, steps: int, values: Mapping[str, float]) -> list[Alarm]:
        """Look at a report.

        Args:
            step: done.
            steps: of the whole run.
            values: the averaged figures since the last report; what is missing or not finite is passed over.

        Returns:
            The alarms that are new. A sign that returns to its band and leaves it again alarms again.
        """
        alarms: list[Alarm] = []
        if not self.config.enabled or self.facts is None:
            return alarms
        signs = self._signs(values, self.facts)
        outside: dict[str, int] = self.state["outside"]
        for band in self.bands:
            value = signs.get(band.sign, math.nan)
            if not math.isfinite(value) or not (band.is_early or step > self._waits(band, steps)):
                continue
            if outside.get(band.said_by, 0) >= self.config.patience:
                outside[band.name] = 0
                continue
            outside[band.name] = 0 if band.holds(value) else outside.get(band.name, 0) + 1
            if outside[band.name] == self.config.patience:
                alarms.append(Alarm(name=band.name, step=step, message=_message(band, value)))
        return alarms

    def _waits(self, band: Band, steps: int) -> float:
        """Return the step up to which a band that is not early says nothing."""
        return self.grace(steps) if self.config.grace_steps is not None else max(self.grace(steps), band.after * steps)

    def _signs(self, values: Mapping[str, float], facts: Facts) -> dict[str, float]:
        """Turn figures into the signs that the bands are of: comparable between sizes."""
        signs = {name: values[name] for name in _AS_LOGGED if name in values}
        match facts.kind:
            case "contrastive":
                signs |= _contrastive_signs(values, facts)
            case "masked_prediction":
                signs |= _masked_prediction_signs(values, facts)
            case "ctc":
                signs |= ctc_signs(values)
        lost = self._lost(values, facts)
        return signs if lost is None else signs | {"lost_share": lost}

    def _lost(self, values: Mapping[str, float], facts: Facts) -> float | None:
        """Return the share lost of what the loss had gained; None before it has gained 5 %."""
        names = {"contrastive": "contrastive_loss", "masked_prediction": "masked_loss", "ctc": "ctc_loss"}
        main = names[facts.kind]
        losses = [value for name, value in values.items() if name == main or name.startswith(f"{main}_")]
        if not losses or not math.isfinite(sum(losses)):
            return None
        loss = sum(losses)
        first = self.state["first"] = self.state["first"] if self.state["first"] is not None else loss
        best = self.state["best"] = loss if self.state["best"] is None else min(loss, self.state["best"])
        gained = first - best
        return (loss - best) / gained if gained > 0.05 * abs(first) else None


def _contrastive_signs(values: Mapping[str, float], facts: Facts) -> dict[str, float]:
    signs = {}
    each = [value for name, value in values.items() if name.startswith("code_perplexity_")]
    if each:
        signs["codebook_perplexity"] = min(each)
    if "contrastive_loss" in values and facts.chance:
        signs["loss_of_chance"] = values["contrastive_loss"] / facts.chance
    return signs


def _masked_prediction_signs(values: Mapping[str, float], facts: Facts) -> dict[str, float]:
    """Of several streams, the one that is worst off."""
    losses, labels, predicted = [], [], []
    for stream, clusters in enumerate(facts.clusters):
        suffix = f"_{stream}" if len(facts.clusters) > 1 else ""
        spread = values.get(f"labels{suffix}_perplexity", float(clusters))
        labels.append(spread / clusters)
        if spread > 1.05 and f"masked_loss{suffix}" in values:  # to guess one label is no loss
            losses.append(values[f"masked_loss{suffix}"] / math.log(spread))
        if f"predicted{suffix}_perplexity" in values:
            predicted.append(values[f"predicted{suffix}_perplexity"] / spread)
    signs = {"labels_share": min(labels)}
    signs |= {"loss_of_chance": max(losses)} if losses else {}
    return signs | ({"predicted_share": min(predicted)} if predicted else {})


def _message(band: Band, value: float) -> str:
    return (
        f"{band.shown} is {value:.3g}, expected {band.expected()} (seen: {band.seen}). "
        f"Likely: {band.likely}. To change: {band.change}."
    )
