"""What planning has to know of many utterances, as arrays; from a list of them, one by one."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from speechssl.data.manifest import Utterance

__all__ = ["ids_where", "lengths_16k", "list_lengths"]

_BLOCK = 1 << 16  # rows at a time, where all are gone through


def lengths_16k(utterances: Sequence[Utterance]) -> NDArray[np.int64]:
    """Return (utterances,) samples at 16 kHz, as `Utterance.num_samples_16k` counts them."""
    return np.fromiter((row.num_samples_16k for row in utterances), np.int64, len(utterances))


def ids_where(utterances: Sequence[Utterance], is_wanted: NDArray[np.bool_]) -> list[str]:
    """Return the ids of the utterances where `is_wanted`, (utterances,) bool, holds."""
    return [utterances[i].id for i in np.flatnonzero(is_wanted).tolist()]


def list_lengths(
    utterances: Sequence[Utterance], lengths: NDArray[np.int64], is_wanted: NDArray[np.bool_]
) -> Iterator[bytes]:
    """Yield a line `id<TAB>length` for each utterance where `is_wanted` holds, many lines at a time.

    Args:
        utterances: their ids are listed.
        lengths: (utterances,) int64.
        is_wanted: (utterances,) bool.
    """
    wanted = np.flatnonzero(is_wanted)
    for begin in range(0, len(wanted), _BLOCK):
        block = wanted[begin : begin + _BLOCK]
        yield "".join(
            f"{utterances[i].id}\t{n}\n" for i, n in zip(block.tolist(), lengths[block].tolist(), strict=True)
        ).encode()
