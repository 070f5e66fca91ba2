"""Train ours and a reference side by side, from the same weights, on the same batch and draws."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model.context import INFERENCE, StepContext
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.masking import MaskConfig
from speechssl.tasks.contrastive import ContrastiveObjective
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.tasks.masked_prediction import MaskedPredictionObjective
from speechssl.tasks.model import LossSum
from speechssl.tasks.pretraining import PretrainModel
from speechssl.train.optim import OptimConfig, build_optimizer
from tests.parity.cases import CLUSTERS, VOCABULARY, Case, Draws, Speech, randomise_at_width
from tests.parity.differences import assert_close
from tests.parity.weights import Names, assert_gradients_close, assert_weights_close, copy_weights
from tests.tasks.labelled import labelled

__all__ = [
    "SEED",
    "Duo",
    "draws",
    "gumbel_softmax_of",
    "our_contrastive",
    "our_ctc",
    "our_masked_prediction",
    "our_score",
]

SEED = 7
OPTIM = OptimConfig()  # without its schedule
CURVE = {torch.float32: 1e-4}
# Without warm-up, BASE at the recipe's peak rate makes of rounded last bits a difference of 1e-2 within 20 steps, as
# an entry of a codebook is chosen the other way; in float64 the two losses are 4e-11 apart there.
RATES = {"tiny": OPTIM.lr, "BASE": OPTIM.lr / 5}


@dataclass(frozen=True)
class Duo:
    """A model of ours and the reference's with the same weights."""

    reference: str
    case: Case
    ours: nn.Module
    theirs: nn.Module
    names: Names

    @classmethod
    def of(cls, reference: str, case: Case, ours: nn.Module, theirs: nn.Module, names: Names) -> Self:
        """Draw our weights and copy them."""
        randomise_at_width(ours)
        if reference == "fairseq2" and case.config.conv[-1][0] == case.config.transformer.dim:  # it has no projection
            nn.init.eye_(ours.encoder.project.weight)
            nn.init.zeros_(ours.encoder.project.bias)
        copy_weights(ours, theirs, names)
        return cls(reference, case, ours, theirs, names)

    @property
    def models(self) -> tuple[nn.Module, nn.Module]:
        return self.ours, self.theirs

    def train(self, is_training: bool = True) -> None:
        """Put both into a mode and forget their gradients."""
        for model in self.models:
            model.train(is_training)
            model.zero_grad(set_to_none=True)

    def assert_close(self, found: Tensor | float, expected: Tensor | float, what: str) -> None:
        """Compare two tensors or numbers."""
        tensors = (torch.as_tensor(value) for value in (found, expected))
        assert_close(*tensors, what=what, reference=self.reference, case=self.case)

    def assert_gradients_close(self, found: Tensor, expected: Tensor) -> None:
        """Differentiate both losses and compare the gradients of all parameters."""
        found.backward()
        expected.backward()
        assert_gradients_close(self.ours, self.theirs, self.names, reference=self.reference, case=self.case)

    def assert_step_equal(self, found: Tensor, expected: Tensor) -> None:
        """Compare the gradients, and the weights that a step of AdamW makes of them; the weights are put back."""
        self.assert_gradients_close(found, expected)
        before = [{name: weight.clone() for name, weight in model.state_dict().items()} for model in self.models]
        for model in self.models:
            build_optimizer(model, OPTIM).step()
        assert_weights_close(self.ours, self.theirs, self.names, reference=self.reference, case=self.case)
        for model, weights in zip(self.models, before, strict=True):
            model.load_state_dict(weights)

    @contextmanager
    def in_double_precision(self) -> Iterator[None]:
        """Compute in float64; `.float()`, by which all leave half precision, must not leave it then."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "float", Tensor.double)
            for model in self.models:
                model.to(torch.float64)
            try:
                yield
            finally:
                for model in self.models:
                    model.to(torch.float32)

    def assert_training_equal(
        self,
        ours: Callable[[int], Tensor],
        theirs: Callable[[int], Tensor],
        *,
        steps: int = 20,
        is_training: bool = True,
    ) -> None:
        """Train both and compare the loss of every step.

        Args:
            ours: step to our loss.
            theirs: step to the reference's.
            steps: of AdamW.
            is_training: whether the models are in training mode, in which transformers draws masks of its own for CTC.
        """
        self.train(is_training)
        optim = dataclasses.replace(OPTIM, lr=RATES[self.case.size])
        optimizers = [build_optimizer(model, optim) for model in self.models]
        curves: list[list[float]] = [[], []]
        for step in range(steps):
            for loss_of, optimizer, curve in zip((ours, theirs), optimizers, curves, strict=True):
                loss = loss_of(step)
                curve.append(loss.item())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        found, expected = (torch.tensor(curve) for curve in curves)
        assert found[-1] < 0.9 * found[0]  # it learns, so that the curve says something
        what = f"training: {steps} losses"
        assert_close(found, expected, what=what, reference=self.reference, case=self.case, tolerance=CURVE)


def our_contrastive(case: Case, **changes: float) -> PretrainModel:
    """Build trunk and contrastive objective."""
    config = case.contrastive.__class__(**{**vars(case.contrastive), **changes})
    dim, conv_dim = case.config.transformer.dim, case.config.conv[-1][0]
    return PretrainModel(SpeechEncoder(case.config), ContrastiveObjective(config, dim, conv_dim))


def our_masked_prediction(case: Case) -> PretrainModel:
    """Build trunk and masked prediction."""
    objective = MaskedPredictionObjective(case.masked_prediction, case.config.transformer.dim, (CLUSTERS,))
    return PretrainModel(SpeechEncoder(case.config), objective)


def our_ctc(case: Case) -> CTCModel:
    """Build trunk and head, all of it learning, without masks."""
    no_mask = MaskConfig(start_prob=0, min_spans=0)
    config = CTCConfig(freeze_conv=False, freeze_steps=0, mask=no_mask, channel_mask=no_mask)
    return CTCModel(SpeechEncoder(case.config), config, VOCABULARY)


def our_score(model: PretrainModel, speech: Speech, step: int = 0) -> LossSum:
    """Score a batch with its given masks; the draws are those of `Draws.of(..., SEED + step)`."""
    encoded = model.encoder(speech.waveforms, speech.num_samples, speech.is_masked)
    if isinstance(model.objective, MaskedPredictionObjective):
        return model.objective(encoded, speech.is_masked, labelled(speech.labels[None]), INFERENCE)
    generator = torch.Generator().manual_seed(SEED + step)
    return model.objective(encoded, speech.is_masked, labelled(), StepContext(step=step, generator=generator))


def gumbel_softmax_of(noise: Tensor) -> Callable[..., Tensor]:
    """Return torch's `gumbel_softmax` with given noise (rows, entries) instead of its own."""

    def gumbel_softmax(logits: Tensor, tau: float, hard: bool) -> Tensor:
        assert hard
        soft = ((logits + noise) / tau).softmax(-1)
        one_hot = functional.one_hot(soft.argmax(-1), logits.shape[-1])
        return one_hot - soft.detach() + soft

    return gumbel_softmax


def draws(case: Case, speech: Speech, step: int = 0) -> Draws:
    """Return what `our_score` draws at a step."""
    return Draws.of(case, speech, SEED + step)
