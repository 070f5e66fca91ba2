"""What a training step tells a model beside the batch: a frozen record, made by who trains, read by who needs it."""

from dataclasses import dataclass

import torch

__all__ = ["INFERENCE", "StepContext"]


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """Which step it is, and where its randomness comes from.

    A model gets one with each batch. What a task decides about the trunk, it adds with `dataclasses.replace` before it
    calls the trunk.
    """

    step: int = 0  # updates done before this one
    generator: torch.Generator | None = None  # on the host; what is drawn on the device comes from another it seeds
    # which layers are dropped; all ranks and all batches of an update get the same: a layer that only some of them run
    # would leave the others waiting for its weights or gradients. None draws from torch's default generator of the host
    layer_seed: int | None = None
    num_frozen: int = 0  # layers, from the first, that learn nothing from this batch, nor does anything before them

    def masks(self) -> torch.Generator:
        """Return the generator, for who cannot do without.

        Raises:
            ValueError: there is none.
        """
        if self.generator is None:
            raise ValueError("this model draws masks: pass StepContext(generator=torch.Generator())")
        return self.generator


INFERENCE = StepContext()
