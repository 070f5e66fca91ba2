"""Runs the check of manifests: decodes every file once, in parallel, judges each utterance and compares all."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from speechssl.audio.reading import AudioHeader, Segment
from speechssl.audio.storage import Place
from speechssl.corpus.check.across_files import Checked, findings_across
from speechssl.corpus.check.findings import FINDINGS, Finding, findings_of_file
from speechssl.corpus.check.measure import Measured, Recording, measure_recording
from speechssl.corpus.check.sound_print import Fingerprint
from speechssl.corpus.check.text_checks import count_letters, foreign_letters, script_codes, unusual_rates
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.corpus.check.worker_pool import Death, work
from speechssl.data.utterances import Manifest
from speechssl.errors import ManifestError

__all__ = ["RESULTS", "Report", "check_manifests", "in_worker_pool"]

RESULTS = {kind.__name__: kind for kind in (Measured, Fingerprint, AudioHeader, Death)}  # classes that workers return

Work = Callable[[Sequence[Any], Callable[[Any], Any]], Iterable[tuple[int, Any]]]
Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The findings in one or several manifests."""

    names: tuple[str, ...]  # names of the manifests
    manifests: tuple[Manifest, ...]
    rows: tuple[Checked, ...]  # rows of all manifests, in order
    findings: tuple[Finding, ...]  # ordered by row, then as FINDINGS

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)


def check_manifests(
    manifests: Sequence[Manifest],
    names: Sequence[str],
    config: CheckConfig,
    *,
    jobs: int | None = None,
    by: Work | None = None,
    progress: Progress = lambda items, _: items,
) -> Report:
    """Decode what the manifests list and report faults; change nothing.

    Args:
        manifests: the manifests, in the order train, dev, test.
        names: names for messages, all different.
        config: the thresholds.
        jobs: decoding processes; None for one per core.
        by: runs the work in place of processes of this machine; results may come in any order.
        progress: wraps the iterable of results, given their number.

    Raises:
        ConfigError: `config.scripts` names no script.
        ManifestError: two manifests have the same name.
    """
    if len(set(names)) != len(names):
        raise ManifestError(f"expected manifests of different names, found {', '.join(names)}; rename or copy one")
    codes = script_codes(config.scripts)
    recordings, where = _recordings(manifests)
    done = (by or in_worker_pool(config, jobs))(recordings, partial(measure_recording, config=config))
    results: dict[int, Sequence[Measured] | Death] = {}
    for index, result in progress(done, len(recordings)):
        results[index] = result
    rows, found = [], []
    for number, (manifest, indices) in enumerate(zip(manifests, where, strict=True)):
        for row, (index, part) in zip(manifest.utterances, indices, strict=True):
            result = results[index]
            if isinstance(result, Death):
                rows.append(Checked(manifest=number, row=row, measured=None))
                message = f"{result.reason} while decoding it; convert or remove it"
                found.append(Finding(manifest=number, id=row.id, name="crashed", value=None, message=message))
            else:
                rows.append(Checked(manifest=number, row=row, measured=result[part]))
                found += findings_of_file(number, row, result[part], config)
    found += [*_of_texts(rows, codes, config), *findings_across(rows, names, config)]
    place = {checked.key: index for index, checked in enumerate(rows)}
    kinds = list(FINDINGS)
    found.sort(key=lambda finding: (place[finding.manifest, finding.id], kinds.index(finding.name)))
    return Report(names=tuple(names), manifests=tuple(manifests), rows=tuple(rows), findings=tuple(found))


def _recordings(manifests: Sequence[Manifest]) -> tuple[list[Recording], list[list[tuple[int, int]]]]:
    """List the files to decode, each once, even if several utterances or manifests share it.

    Returns:
        The files with their parts and, for each row of each manifest, the indices of its file and part.
    """
    parts: dict[Place, dict[Segment | None, int]] = defaultdict(dict)
    wanted = [[(manifest.place(row), row.segment) for row in manifest.utterances] for manifest in manifests]
    for place, segment in chain.from_iterable(wanted):
        parts[place][segment] = 0
    recordings = []
    for place, known in parts.items():
        order = sorted(known, key=lambda part: (0, 0) if part is None else (part.start, part.num_samples))
        known.update({part: number for number, part in enumerate(order)})
        recordings.append(Recording(place, tuple(order)))
    numbers = {recording.place: index for index, recording in enumerate(recordings)}
    return recordings, [[(numbers[place], parts[place][segment]) for place, segment in rows] for rows in wanted]


def in_worker_pool(config: CheckConfig, jobs: int | None = None) -> Work:
    """Return the work of a pool of `jobs` processes, which survives crashes; None for one per core."""
    return partial(work, jobs=jobs or _cores(), limit_s=config.file_limit_s)


def _of_texts(rows: Sequence[Checked], codes: frozenset[str], config: CheckConfig) -> Iterator[Finding]:
    for checked in rows:
        letters = foreign_letters(checked.row.text or "", codes) if codes else ""
        if letters:
            message = f"its text has {' '.join(letters)}, which is not {' or '.join(config.scripts)}"
            yield _finding(checked, "script", len(letters), message)
    spoken = [checked for checked in rows if checked.measured]
    for index, spreads, rate, middle in unusual_rates(
        [count_letters(checked.row.text or "") for checked in spoken],
        [checked.measured.active_s if checked.measured else 0.0 for checked in spoken],
        [checked.row.language for checked in spoken],
        config,
    ):
        message = f"{rate:.1f} characters a second, {middle:.1f} is usual: check that the text matches the audio"
        yield _finding(spoken[index], "text_rate", spreads, message)


def _finding(checked: Checked, name: str, value: float, message: str) -> Finding:
    return Finding(manifest=checked.manifest, id=checked.row.id, name=name, value=value, message=message)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
