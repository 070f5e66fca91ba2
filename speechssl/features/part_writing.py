"""From the frames of an utterance to what is stored of it, in a thread beside the one that computes the next."""

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

_WAITING = 4  # utterances that are computed and not yet written


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """What was computed for one utterance."""

    id: str
    samples: int  # at 16 kHz
    first_sample: int  # at 16 kHz, in the audio file
    arrays: Sequence[Array]  # (frames, dim) float32 of each stream
    segments: tuple[tuple[int, int], ...] = ()  # unit and number of frames, to be averaged; together all frames


class PartWriter:
    """A part of a folder, with what the index will say of it."""

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
        """Make the files of the part whole."""
        self._part.close()

    def drop(self) -> None:
        """Give the part up."""
        self._part.drop()


def pooled(array: Array, pool: Pool, segments: Sequence[tuple[int, int]] = ()) -> Array:
    """Average (frames, dim) over time, or over each segment, in double precision.

    Args:
        array: of an utterance.
        pool: `none`, `mean` of all frames, or of `segments`.
        segments: unit and number of frames of each, which together are all frames.

    Returns:
        (frames, 1 or segments, dim) float32.
    """
    if pool == "none":
        return array
    counts = np.array([count for _, count in segments] if pool == "segments" else [len(array)])
    starts = np.cumsum(counts) - counts
    return (np.add.reduceat(array, starts, axis=0, dtype=np.float64) / counts[:, None]).astype(np.float32)


def as_stored(array: Array, dtype: NumberType, *, where: str) -> Array:
    """Return (rows, dim) in the number type of the files, in order of rows.

    Raises:
        LabelError: something is NaN or infinite, or would be in float16.
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
    """Give a function that takes utterances to be written in a thread; when the block ends, the part is whole.

    A block that raises leaves the part as it is, to be written again. What the thread raises, the next call raises, or
    the end of the block.
    """
    waiting: queue.Queue[Utterance | None] = queue.Queue(_WAITING)
    failed: list[BaseException] = []

    def write() -> None:
        while (utterance := waiting.get()) is not None:
            try:
                if not failed:
                    writer.add(utterance)
            except BaseException as error:  # raised again by the thread that computes
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
