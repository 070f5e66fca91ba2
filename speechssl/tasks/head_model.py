"""An encoder that learns together with a downstream head: whole, or by adapters (LoRA).

The head is that of frozen features, `tasks.heads`: with a learning rate of 0 for the encoder it learns the same. What
differs is where the layers come from: waveforms, in training mode with dropout.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechssl.data.batching import Batch
from speechssl.errors import ConfigError
from speechssl.model.context import INFERENCE, StepContext
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.first_input import first_inputs
from speechssl.model.host import send
from speechssl.model.lora import LoraConfig, add_adapters
from speechssl.tasks.heads import UNLABELLED, Head, HeadNetwork
from speechssl.tasks.layer_sum import normalised
from speechssl.tasks.model import LossSum, TaskModel

__all__ = ["HeadModel"]


class HeadModel(TaskModel):
    """Encoder, weighted sum of its layers, and head."""

    class_weights: Tensor | None

    def __init__(
        self,
        encoder: SpeechEncoder,
        network: HeadNetwork,
        head: Head,
        *,
        layers: Sequence[int],
        layer_norm: bool = False,
        weights: Tensor | None = None,
        lora: LoraConfig | None = None,
        freeze_conv: bool = True,
        freeze_steps: int = 0,
    ) -> None:
        """Put a head on an encoder; the encoder is changed in place: parts are frozen, adapters are added.

        Args:
            encoder: the encoder.
            network: from layers to outputs.
            head: the task.
            layers: layers to sum, counted from 1; 0 is the input of the first. Layers above the last of them do not
                run, and are frozen.
            layer_norm: normalise each layer before the sum.
            weights: (classes,) weights of classes in the loss; None: all 1.
            lora: adapters, which learn instead of the encoder; None: the encoder learns.
            freeze_conv: the extractor is never updated.
            freeze_steps: number of first steps in which only the head and the weights of layers learn.

        Raises:
            ConfigError: adapters have no layer to be in.
        """
        super().__init__()
        last = max(layers)
        if lora is not None and last == 0:
            raise ConfigError("layers=[0] sums no layer, and adapters are in layers; name more, or set encoder=all")
        self.encoder = encoder.with_frozen_conv() if freeze_conv else encoder
        if lora is not None:
            add_adapters(encoder, lora)
        self.encoder.mask_vector.requires_grad_(False)  # nothing is masked
        if last < len(encoder.transformer.layers):
            encoder.transformer.layers[last:].requires_grad_(False)
            if encoder.config.transformer.norm == "pre":  # the norm after the last layer
                encoder.transformer.norm.requires_grad_(False)
        self.network, self.head = network, head
        self.layers, self.layer_norm, self.freeze_steps = tuple(layers), layer_norm, freeze_steps
        # the loss divides by the sum of weights, so a factor changes nothing; with 1 for the smallest, the sum over a
        # batch is at least 1, which the loop takes for the number of predictions
        self.register_buffer("class_weights", None if weights is None else weights / weights.min(), persistent=False)

    @property
    def thaws(self) -> bool:
        """Whether frozen parameters start to learn during the run."""
        return self.freeze_steps > 0

    def forward(self, batch: Batch, context: StepContext) -> LossSum:
        """Compute the loss of one batch.

        Args:
            batch: batch with the answers of utterances as `targets`, (batch, 1), or those of frames as its only stream
                of `labels`, with `UNLABELLED` where there is none; lengths on the host.
            context: step and source of randomness.
        """
        outputs, is_valid = self.outputs(batch, context)
        if self.head.answers == "frame_classes":
            if batch.labels is None:
                raise ValueError("a batch without labels cannot be scored; pass labels to the dataset")
            answers = batch.labels[0].masked_fill(~is_valid, UNLABELLED)
        else:
            if batch.targets is None:
                raise ValueError("a batch without targets cannot be scored; pass tokens to the dataset")
            answers = batch.targets[:, 0]
        return self.head.loss(outputs.float(), answers, self.class_weights)

    def outputs(self, batch: Batch, context: StepContext = INFERENCE) -> tuple[Tensor, Tensor]:
        """Return the network's outputs, and (batch, frames) bool, True for valid frames, on their device."""
        is_frozen = self.training and context.step < self.freeze_steps
        learns = torch.is_grad_enabled() and not is_frozen
        with torch.set_grad_enabled(learns), first_inputs(self.encoder.transformer) as inputs:
            encoded = self.encoder(
                batch.waveforms, batch.num_samples, num_layers=max(self.layers), context=context
            )  # num_layers x (batch, frames, dim)
            chosen = [encoded.layers[layer - 1] if layer else inputs[0] for layer in self.layers]
            layers = torch.stack(chosen, 1)  # (batch, layers, frames, dim)
            layers = normalised(layers) if self.layer_norm else layers
        is_valid = send(encoded.is_valid, layers.device)
        return self.network(layers, is_valid), is_valid
