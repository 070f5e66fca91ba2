"""Data of self-training: sets that share nothing that they must not, and how far pool and labels are apart.

The checks of `speechssl manifest check` compare samples, sound and texts. Nothing that dev or test hold may be trained
on; an utterance of the pool that is labelled gets no pseudo-label beside its label.
"""

import dataclasses
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from speechssl.atomic import write_atomically
from speechssl.config import configuration
from speechssl.corpus.check.across_files import Checked, findings_across
from speechssl.corpus.check.checking import Report, check_manifests
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.corpus.sample import sample
from speechssl.data.manifest import root_from, write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ManifestError
from speechssl.stages.mismatch import Mismatch, mismatch, told
from speechssl.stages.reading_data import DataConfig, read_data, read_waveforms
from speechssl.stages.selftrain_recipe import SyntheticConfig
from speechssl.units.mfcc import MFCC_WINDOW, mfcc

__all__ = ["PrepareConfig", "prepare"]

_LEAKS = {"leaked_audio": "audio", "leaked_similar": "audio", "leaked_text": "text", "same_part": "audio"}
_COMPARED_H = 0.25  # hours of each set that are compared, at most

Reasons = dict[str, str]  # reason by utterance id


@configuration
class PrepareConfig:
    """What `prepare` reads."""

    out: Path
    labelled: DataConfig
    pool: DataConfig
    dev: DataConfig
    test: DataConfig | None
    synthetic: SyntheticConfig | None
    leaks: Literal["stop", "skip"]
    languages: Literal["labelled", "any"]
    seed: int


def prepare(config: PrepareConfig) -> Path:
    """Write the manifests that the chain trains on or transcribes, `left_out.tsv`, and return `data.json`.

    Raises:
        ManifestError: dev or test share audio or texts with what is trained on, and `leaks` says to stop; or nothing is
            left of a set.
    """
    given = {"labelled": read_data(config.labelled, section="labelled"), "pool": read_data(config.pool, section="pool")}
    left_out: dict[str, Reasons] = defaultdict(dict)
    if config.synthetic is not None:
        data = DataConfig(manifests=config.synthetic.manifests, root=config.synthetic.root)
        whole = read_data(data, section="synthetic")
        given["synthetic"] = _capped(whole, config.synthetic.max_hours, config.seed)
        drawn = {row.id for row in given["synthetic"].utterances}
        over = (row.id for row in whole.utterances if row.id not in drawn)
        left_out["synthetic"] |= dict.fromkeys(over, f"beyond synthetic.max_hours={config.synthetic.max_hours:g}")
    held_out = {"dev": read_data(config.dev, section="dev")}
    if config.test is not None:
        held_out["test"] = read_data(config.test, section="test")
    report = check_manifests([*given.values(), *held_out.values()], [*given, *held_out], CheckConfig())
    leaks = {name: _shared_with(report, name, tuple(held_out), texts=True) for name in given}
    if config.leaks == "stop" and any(leaks.values()):
        raise ManifestError("\n".join(_refusal(name, found) for name, found in leaks.items() if found))
    for name, found in leaks.items():
        left_out[name] |= found
    left_out["pool"] = _shared_with(report, "pool", ("labelled",), texts=False) | left_out["pool"]
    if config.languages == "labelled":
        left_out["pool"] = _in_other_languages(given["pool"], given["labelled"]) | left_out["pool"]
    taken: set[str] = set()
    kept = {}
    for name, manifest in given.items():
        rows = [row for row in manifest.utterances if row.id not in left_out[name]]
        if not rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(left_out[name].values()).items())
            raise ManifestError(f"{name}: no utterance is left ({reasons}); name other manifests")
        kept[name] = dataclasses.replace(manifest, utterances=tuple(_renamed(row, name, taken) for row in rows))
        taken |= {row.id for row in kept[name].utterances}
        root = root_from(config.out, kept[name])
        write_manifest(config.out / f"{name}.tsv", kept[name].utterances, root=root)
    _write_left_out(config.out / "left_out.tsv", left_out)
    apart = _mismatch(config, kept["labelled"], kept["pool"])
    print(told(apart), file=sys.stderr)
    summary: dict[str, Any] = {
        "sets": {
            name: {"utterances": len(each.utterances), "hours": each.duration_s / 3600}
            for name, each in (kept | held_out).items()
        },
        "left_out": {name: dict(Counter(map(_kind, reasons.values()))) for name, reasons in left_out.items()},
        "mismatch": None if apart is None else dataclasses.asdict(apart),
    }
    write_atomically(config.out / "data.json", json.dumps(summary, indent=1) + "\n")
    return config.out / "data.json"


def _capped(manifest: Manifest, hours: float, seed: int) -> Manifest:
    if manifest.duration_s <= hours * 3600:
        return manifest
    return dataclasses.replace(manifest, utterances=tuple(sample(manifest.utterances, hours, seed=seed)))


def _in_other_languages(pool: Manifest, labelled: Manifest) -> Reasons:
    """Return the utterances whose language no label is in; `en` and `en-US` are one, and not stated is no reason."""
    known = {_base(row.language) for row in labelled.utterances}
    if None in known:
        return {}
    named = ", ".join(sorted(map(str, known)))
    return {
        row.id: f"in {base}, labels are in {named}; languages=any takes it"
        for row in pool.utterances
        if (base := _base(row.language)) is not None and base not in known
    }


def _base(language: str | None) -> str | None:
    return language.replace("_", "-").partition("-")[0].lower() if language else None


def _shared_with(report: Report, name: str, others: Sequence[str], *, texts: bool) -> Reasons:
    """Return the utterances of a set that share audio, or texts, with other sets, each with what it shares.

    Args:
        report: the check of all sets.
        name: the set.
        others: names of the other sets.
        texts: whether a text in common counts.
    """
    names = [name, *others]
    place = {report.names.index(each): number for number, each in enumerate(names)}
    rows = [dataclasses.replace(row, manifest=place[row.manifest]) for row in report.rows if row.manifest in place]
    rows.sort(key=lambda checked: checked.manifest)
    found: Reasons = {}
    for finding in findings_across(rows, names, CheckConfig()):
        is_wanted = finding.name in _LEAKS and (texts or _LEAKS[finding.name] == "audio")
        if finding.manifest == 0 and is_wanted:
            found.setdefault(finding.id, finding.message)
    for key, message in _same_parts(rows, [report.manifests[report.names.index(each)] for each in names], names):
        found.setdefault(key, message)
    return found


def _same_parts(rows: Sequence[Checked], manifests: Sequence[Manifest], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the utterances of the first set that overlap with one of another set in the same file, with messages."""
    spans: dict[object, list[tuple[int, int, Checked]]] = defaultdict(list)
    for checked in rows:
        if checked.manifest:
            place = manifests[checked.manifest].absolute_path(checked.row)
            spans[place].append((checked.row.start, checked.row.start + checked.row.num_samples, checked))
    found = []
    for checked in rows:
        row = checked.row
        if checked.manifest == 0:
            for start, end, other in spans.get(manifests[0].absolute_path(row), ()):
                channels = {row.channel, other.row.channel}
                if row.start < end and start < row.start + row.num_samples and (None in channels or len(channels) == 1):
                    message = f"overlaps in its file with {other.row.id} of {names[other.manifest]}"
                    found.append((row.id, message))
    return found


def _refusal(name: str, found: Mapping[str, str]) -> str:
    named = "; ".join(f"{key} {message}" for key, message in [*found.items()][:3])
    return (
        f"{name}: {len(found)} utterances share audio or texts with what is held out: {named}. Remove them from "
        f"{name}, or set leaks=skip to leave them out there"
    )


def _renamed(row: Utterance, name: str, taken: set[str]) -> Utterance:
    """Return an utterance with an id that no earlier set has."""
    key = row.id
    while key in taken:
        key = f"{name}-{key}"
    return row if key == row.id else dataclasses.replace(row, id=key)


def _kind(reason: str) -> str:
    """Return the reason without the utterance that it names."""
    for sign, kind in (("same samples", "audio"), ("copy", "audio"), ("overlaps", "audio"), ("same text", "text")):
        if sign in reason:
            return f"{kind} of another set"
    return reason


def _write_left_out(path: Path, left_out: Mapping[str, Reasons]) -> None:
    rows = [(name, key, reason) for name, reasons in left_out.items() for key, reason in reasons.items()]
    lines = ["set\tid\treason", *("\t".join(row) for row in rows)]
    write_atomically(path, "\n".join(lines) + "\n")
    for name, reasons in left_out.items():
        if reasons:
            print(f"{name}: {len(reasons)} utterances are left out; {path} says why", file=sys.stderr)


def _mismatch(config: PrepareConfig, labelled: Manifest, pool: Manifest) -> Mismatch | None:
    """Compare MFCC of up to a quarter of an hour of each set, with the level of each waveform normalised."""

    def features(manifest: Manifest, data: DataConfig, name: str) -> list[Tensor]:
        rows = _capped(manifest, _COMPARED_H, config.seed).utterances
        audio = dataclasses.replace(config.labelled.audio, normalize=True)
        lenient = dataclasses.replace(data, bad_audio="skip")
        read = read_waveforms(lenient, manifest, rows, audio=audio, window=MFCC_WINDOW, title=f"comparing {name}")
        return [mfcc(waveform) for _, waveform in read]

    own, others = features(labelled, config.labelled, "labelled"), features(pool, config.pool, "pool")
    return mismatch(own, others, seed=config.seed)
