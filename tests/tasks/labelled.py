"""Batches with labels only, for objectives whose encoded input is passed separately."""

import torch
from torch import Tensor

from speechssl.data.batching import Batch


def labelled(labels: Tensor | None = None) -> Batch:
    """Make a batch with (streams, batch, frames) labels, or none."""
    return Batch(ids=(), waveforms=torch.zeros(0, 0), num_samples=torch.zeros(0, dtype=torch.long), labels=labels)
