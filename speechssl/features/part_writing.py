"""Pools, converts and writes features in a thread, while the next ones are computed."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from speechssl.errors import LabelError
from speechssl.features.description import Entry, NumberType, Pool
from speechssl.features.feature_format import Array, Part

__all__ = ["PartWriter", "Utterance", "as_stored", "pooled", "writing"]

_WAITING = 4  # most utterances that are computed but not yet written


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """The features computed for one utterance."""

    id: str
    samples: int  # at 16 kHz
    first_sample: int  # at 16 kHz, in the audio file
    arrays: Sequence[Array]  # (frames, dim) float32, one per stream
    segments: tuple[tuple[int, int], ...] = ()  # unit and number of frames of each segment; they cover all frames


class PartWriter:
    """Writes a part of a folder, and collects its index entries."""

    def __init__(self, part: Part, streams: Sequence[str], *, dtype: NumberType, pool: Pool) -> None:
        self.entries: list[Entry] = []
        self._part, self._streams, self._dtype, self._pool = part, streams, dtype, pool

    def add(self, utterance: Utterance) -> None:
        """Pool, convert and write an utterance.

        Raises:
            LabelError: its features are not finite, or do not fit the number type.
        """
        arrays = [
            as_stored(pooled(array, self._pool, utterance.segments), self._dtype, where=f"{utterance.id}, {stream}")
            for array, stream in zip(utterance.arrays, self._streams, strict=True)
        ]
        file, place = self._part.add(utterance.id, arrays)
        self.entries.append(
            Entry(
                id=utterance.id,
                file=file,
                place=place,
                rows=len(arrays[0]),
                frames=len(utterance.arrays[0]),
                samples=utterance.samples,
                first_sample=utterance.first_sample,
                segments=utterance.segments,
            )
        )

    def close(self) -> None:
        """Complete the files of the part."""
        self._part.close()

    def drop(self) -> None:
        """Discard the part."""
        self._part.drop()


def pooled(array: Array, pool: Pool, segments: Sequence[tuple[int, int]] = ()) -> Array:
    """Average (frames, dim) over time, or over each segment, in double precision.

    Args:
        array: features of an utterance.
        pool: `none`, `mean` over all frames, or over `segments`.
        segments: unit and number of frames of each segment; they cover all frames.

    Returns:
        (frames, 1 or segments, dim) float32.
    """
    if pool == "none":
        return array
    counts = np.array([count for _, count in segments] if pool == "segments" else [len(array)])
    starts = np.cumsum(counts) - counts
    return (np.add.reduceat(array, starts, axis=0, dtype=np.float64) / counts[:, None]).astype(np.float32)


def as_stored(array: Array, dtype: NumberType, *, where: str) -> Array:
    """Convert (rows, dim) to the number type of the files, contiguous by rows.

    Raises:
        LabelError: a value is NaN or infinite, or does not fit in float16.
    """
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype)
    if np.isfinite(stored).all():
        return stored
    if not np.isfinite(array).all():
        raise LabelError(
            f"{where}: features hold NaN or infinite values; check the audio with `speechssl manifest check`, and the "
            "model that made them"
        )
    largest = float(np.abs(array).max())
    raise LabelError(f"{where}: a feature is as large as {largest:g}, float16 holds 65504; write float32 instead")


@contextmanager
def writing(writer: PartWriter) -> Iterator[Callable[[Utterance], None]]:
    """Yield a function that queues utterances for a writer thread; at the end of the block the part is complete.

    If the block raises, the part is discarded, to be written again. An error in the thread is raised by the next call
    or at the end of the block.
    """
    waiting: queue.Queue[Utterance | None] = queue.Queue(_WAITING)
    failed: list[BaseException] = []

    def write() -> None:
        while (utterance := waiting.get()) is not None:
            try:
                if not failed:
                    writer.add(utterance)
            except BaseException as error:  # raised again in the computing thread
                failed.append(error)

    def put(utterance: Utterance) -> None:
        if failed:
            raise failed[0]
        waiting.put(utterance)

    thread = threading.Thread(target=write, name="feature files", daemon=True)
    thread.start()
    is_whole = False
    try:
        yield put
        is_whole = True
    finally:
        waiting.put(None)
        thread.join()
        if failed or not is_whole:
            writer.drop()
    if failed:
        raise failed[0]
    writer.close()
