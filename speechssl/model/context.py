"""Per-step information that the training loop passes to a model beside the batch: step, random generator, freezing."""

from dataclasses import dataclass

import torch

__all__ = ["INFERENCE", "StepContext"]


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """Step number and sources of randomness of one forward pass.

    A model receives one with each batch. A task adds its own decisions about the encoder with `dataclasses.replace`
    before it calls the encoder.
    """

    step: int = 0  # number of updates before this one
    generator: torch.Generator | None = None  # on the host; it seeds the generators used on the device
    # seed of layer drop, equal for all ranks and batches of an update: if only some ranks ran a layer, the others would
    # wait for its weights or gradients. None: torch's default generator on the host
    layer_seed: int | None = None
    num_frozen: int = 0  # number of layers, from the first, that get no gradient from this batch, with all before them

    def masks(self) -> torch.Generator:
        """Return the generator for models that need one.

        Raises:
            ValueError: the context has no generator.
        """
        if self.generator is None:
            raise ValueError("this model draws masks: pass StepContext(generator=torch.Generator())")
        return self.generator


INFERENCE = StepContext()
