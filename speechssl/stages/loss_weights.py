"""Table of utterance weights -> factors of their losses, with a mean of 1 over an epoch."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechssl.data.batching import BatchSampler
from speechssl.data.manifest import read_table
from speechssl.data.utterances import Utterance
from speechssl.errors import ManifestError

__all__ = ["loss_weights"]


def loss_weights(path: Path, utterances: Sequence[Utterance], sampler: BatchSampler) -> dict[str, float]:
    """Read the weights of utterances and scale them to the mean 1, so that learning rates keep their meaning.

    The mean is over the utterances of an epoch: where corpora are mixed, an utterance counts as often as it comes.
    Rows of the table that belong to no utterance are counted on standard error.

    Args:
        path: a table with the columns `id` and `weight`.
        utterances: the training utterances.
        sampler: their batches.

    Returns:
        The factor of each utterance's loss, by id; 1 for those that no batch holds.

    Raises:
        ManifestError: the table cannot be read, lacks an utterance, or holds a weight that is negative or no number; or
            all weights are 0.
    """
    table = read_table(path, ("id",), ("weight",))
    lacking = [row.id for row in utterances if row.id not in table]
    if lacking:
        raise ManifestError(
            f"{path}: {len(lacking)} training utterances have no weight: {', '.join(lacking[:3])}; add a row for each"
        )
    found = {}
    for key, row in table.items():
        try:
            found[key] = float(row["weight"])
        except ValueError:
            found[key] = math.nan
        if not 0 <= found[key] < math.inf:
            raise ManifestError(f"{path}: the weight of {key} is {row['weight']!r}, expected a number of 0 or more")
    used = [utterances[index].id for index in sampler.indices.tolist()]
    mean = float(np.average([found[key] for key in used], weights=sampler.passes))
    if mean == 0:
        raise ManifestError(f"{path}: all weights are 0, expected at least one above it")
    if spare := len(found) - len({row.id for row in utterances} & found.keys()):
        print(f"{path}: {spare} rows belong to no training utterance", file=sys.stderr)
    batched = {*used}
    return {row.id: found[row.id] / mean if row.id in batched else 1.0 for row in utterances}
