"""Tables of a head's predictions: a row per utterance, or a row per run of frames of one class; TSV or CTM."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.data.utterances import Utterance
from speechssl.text.fields import escape_id

__all__ = ["Answered", "ctm", "frame_runs", "frame_table", "utterance_table"]

Answered = tuple[Utterance, Tensor | None, Tensor]  # utterance, answer if it is known, predictions
Run = tuple[float, float, int, int, float]  # start and end in s, answer or -1, prediction, its mean probability


def utterance_table(rows: Iterable[Answered], classes: Sequence[str], *, has_answers: bool) -> Iterator[str]:
    """Yield the lines of a table of classes with their probabilities, or of values.

    Args:
        rows: utterances with () answers and (classes,) probabilities or () values.
        classes: names of the classes; empty for values.
        has_answers: whether there is a column with the answer.
    """
    yield _line(
        "id",
        "speaker",
        *(["answer"] if has_answers else []),
        "predicted",
        *(f"p({name})" for name in classes),
    )
    for row, answer, found in rows:
        known = [] if answer is None else [_named(float(answer), classes)]
        if classes:
            cells = [classes[int(found.argmax())], *(f"{each:.6g}" for each in found.tolist())]
        else:
            cells = [f"{float(found):.6g}"]
        yield _line(row.id, row.speaker or "", *known, *cells)


def frame_table(
    rows: Iterable[Answered], classes: Sequence[str], *, hop: int, window: int, has_answers: bool
) -> Iterator[str]:
    """Yield the lines of a table of runs of frames; arguments as in `frame_runs`."""
    answer = ["answer"] if has_answers else []
    yield _line("id", "speaker", "start", "end", *answer, "predicted", "probability")
    for row, wanted, found in rows:
        for start_s, end_s, known, predicted, probability in frame_runs(wanted, found, hop=hop, window=window):
            said = [classes[known] if known >= 0 else ""] if has_answers else []
            cells = (f"{start_s:.4f}", f"{end_s:.4f}", *said, classes[predicted], f"{probability:.4f}")
            yield _line(row.id, row.speaker or "", *cells)


def ctm(rows: Iterable[Answered], classes: Sequence[str], *, hop: int, window: int) -> Iterator[str]:
    """Yield the lines of a CTM file, with the mean probability of each run as its confidence."""
    for row, _, found in rows:
        for start_s, end_s, _, predicted, probability in frame_runs(None, found, hop=hop, window=window):
            yield f"{escape_id(row.id)} 1 {start_s:.4f} {end_s - start_s:.4f} {classes[predicted]} {probability:.4f}\n"


def frame_runs(answers: Tensor | None, found: Tensor, *, hop: int, window: int) -> Iterator[Run]:
    """Yield the runs of frames with equal prediction, and equal answer if that is known.

    Each frame stands for the time around its centre, half a hop to each side.

    Args:
        answers: (frames,) int64, below 0 where there is none; None: not known.
        found: (frames, classes) probabilities.
        hop: samples from one frame to the next.
        window: samples in the window of one frame.
    """
    predicted: NDArray[np.int64] = found.argmax(-1).numpy()
    wanted = np.full(len(predicted), -1) if answers is None else answers.numpy()
    is_new = (predicted[1:] != predicted[:-1]) | (wanted[1:] != wanted[:-1])
    edges = [0, *(np.flatnonzero(is_new) + 1).tolist(), len(predicted)]
    begin_s = (window - hop) / 2 / SAMPLE_RATE
    for start, end in itertools.pairwise(edges):
        mean = float(found[start:end, int(predicted[start])].mean())
        times = (max(0.0, begin_s + edge * hop / SAMPLE_RATE) for edge in (start, end))
        yield *times, int(wanted[start]), int(predicted[start]), mean  # type: ignore[misc]


def _named(answer: float, classes: Sequence[str]) -> str:
    return classes[int(answer)] if classes else f"{answer:.6g}"


def _line(*cells: str) -> str:
    return "\t".join(cells) + "\n"
