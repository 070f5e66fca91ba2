"""Segments long recordings at pauses into utterances of a wanted length, as parts of their files; writes no audio.

Audio that is left out is counted, and unreadable recordings are reported.
"""

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.corpus.activity import Vad, chosen_vad, detect_activity, waveform_blocks
from speechssl.corpus.entries import Progress
from speechssl.corpus.spans import SegmentConfig, spans
from speechssl.corpus.workers import Work, one_by_one
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioError, ManifestError

__all__ = ["RESULTS", "Cut", "Segmented", "cut_recording", "in_processes", "segment_manifest"]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The utterances of one recording, and what was left out."""

    utterances: tuple[Utterance, ...]
    silence_s: float  # silence left out
    short_s: float  # speech left out because it is shorter than `min_s`
    num_short: int  # number of such stretches
    num_in_speech: int  # number of cuts within speech


RESULTS = {kind.__name__: kind for kind in (Cut, Utterance)}  # classes that workers return


@dataclass(kw_only=True)
class Segmented:
    """The segmented manifest, and what was left out."""

    manifest: Manifest
    vad: Vad
    kept: int = 0  # rows no longer than `max_s`, which are unchanged
    cuts: dict[str, Cut] = field(default_factory=dict)  # longer recordings, by id
    errors: list[str] = field(default_factory=list)  # reasons why recordings were left out
    dropped_texts: int = 0

    def summary(self) -> list[str]:
        """Describe in lines what was cut and what was left out."""
        parts = [part for cut in self.cuts.values() for part in cut.utterances]
        cut_s, silence_s = (
            math.fsum(part.duration_s for part in parts),
            math.fsum(c.silence_s for c in self.cuts.values()),
        )
        short_s = math.fsum(cut.short_s for cut in self.cuts.values())
        lines = [
            f"cut by {self.vad}: {len(self.cuts)} recordings into {len(parts)} utterances, {cut_s / 3600:.2f} h",
            f"cut away: {silence_s / 3600:.2f} h of silence, and {short_s:.1f} s of speech too short for an utterance, "
            f"{sum(cut.num_short for cut in self.cuts.values())} times",
            f"cut within speech: {sum(cut.num_in_speech for cut in self.cuts.values())} times",
        ]
        mute = [key for key, cut in self.cuts.items() if not cut.utterances]
        if mute:
            lines.append(f"left out: {len(mute)} recordings without enough speech: {', '.join(mute[:3])}")
        if self.kept:
            lines.append(f"unchanged: {self.kept} that are not longer than an utterance may be")
        if self.dropped_texts:
            lines.append(f"dropped: {self.dropped_texts} texts, which belong to whole recordings")
        return lines


def in_processes(jobs: int | None) -> Work:
    """Return work that runs in `jobs` processes, one row at a time, as a recording may last for hours.

    Args:
        jobs: number of processes; None for one per core.

    Raises:
        AudioError: when the work runs, if a process died.
    """

    def work(rows: Sequence[Any], do: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _start_worker)
        try:
            numbers = {pool.submit(do, row): number for number, row in enumerate(rows)}
            yield from ((numbers[done], done.result()) for done in as_completed(numbers))
        except BrokenProcessPool as error:
            raise AudioError(
                "a process that cut recordings was killed: run with fewer jobs, or see what 1 does"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    return work


def segment_manifest(
    manifest: Manifest,
    config: SegmentConfig,
    *,
    skip_bad: bool = False,
    work: Work = one_by_one,
    progress: Progress = lambda items, _: items,
) -> Segmented:
    """Cut all utterances that are longer than `config.max_s`.

    Args:
        manifest: the recordings; texts of those that are cut are dropped, as they belong to the whole recording.
        config: lengths and pauses.
        skip_bad: leave out recordings that cannot be read.
        work: runs the rows, here or in other processes, in any order; a result that is a string is an error.
        progress: wraps the iterable of results, given their number.

    Returns:
        The utterances in the order of the manifest, and what was left out.

    Raises:
        AudioError: a recording cannot be read and `skip_bad` is False.
        ConfigError: the way of finding speech is not installed.
        ManifestError: nothing is left, or two utterances have the same id.
    """
    done = Segmented(manifest=manifest, vad=chosen_vad(config.vad))
    long = [row for row in manifest.utterances if row.duration_s > config.max_s]
    do = partial(_cut_or_error, manifest=replace(manifest, utterances=()), config=replace(config, vad=done.vad))
    results: dict[str, Cut | str] = {}
    for number, result in progress(work(long, do), len(long)):
        if isinstance(result, str) and not skip_bad:
            raise AudioError(result)
        results[long[number].id] = result
    utterances: list[Utterance] = []
    for row in manifest.utterances:
        found = results.get(row.id)
        if found is None:
            done.kept += 1
            utterances.append(row)
        elif isinstance(found, str):
            done.errors.append(found)
        else:
            done.cuts[row.id] = found
            done.dropped_texts += row.text is not None
            utterances += found.utterances
    _refuse_shared_ids(utterances)
    done.manifest = replace(manifest, utterances=tuple(utterances))
    return done


def cut_recording(manifest: Manifest, row: Utterance, config: SegmentConfig) -> Cut:
    """Segment one recording.

    Returns:
        Its parts; an id is that of the recording and the start in milliseconds, so that it does not depend on other
        cuts.

    Raises:
        AudioError: the recording cannot be read.
        ConfigError: the way of finding speech is not installed.
    """
    activity = detect_activity(waveform_blocks(manifest, row), chosen_vad(config.vad))
    parts, in_speech = spans(activity, row.num_samples_16k, config)
    utterances, short_s, num_short, kept_s = [], 0.0, 0, 0.0
    for part in parts:
        if not part.is_wanted:
            num_short += 1
            short_s += part.speech / SAMPLE_RATE
            continue
        start, end = (min(row.num_samples, at * row.sample_rate // SAMPLE_RATE) for at in (part.start, part.end))
        utterance = replace(
            row,
            id=f"{row.id}-{part.start * 1000 // SAMPLE_RATE:08d}",
            start=row.start + start,
            num_samples=end - start,
            file_samples=row.file_samples or row.num_samples,
            text=None,
        )
        utterances.append(utterance)
        kept_s += utterance.duration_s
    return Cut(
        utterances=tuple(utterances),
        silence_s=max(0.0, row.duration_s - kept_s - short_s),
        short_s=short_s,
        num_short=num_short,
        num_in_speech=in_speech,
    )


def _start_worker() -> None:
    import torch  # imported only in workers, as it takes a second

    torch.set_num_threads(1)


def _cut_or_error(row: Utterance, manifest: Manifest, config: SegmentConfig) -> Cut | str:
    try:
        return cut_recording(manifest, row, config)
    except AudioError as error:
        return str(error)


def _refuse_shared_ids(utterances: Sequence[Utterance]) -> None:
    if not utterances:
        raise ManifestError("nothing is left: no speech is as long as min_s; lower it, or try the other vad")
    seen: set[str] = set()
    for row in utterances:
        if row.id in seen:
            raise ManifestError(f"{row.id}: is the id of a part and of another row; rename the row")
        seen.add(row.id)
