"""What synthetic speech did to each group of dev: two recognisers, trained with it and without, on the same utterances.

Generated speech has the voices and the accents of its generator; a mean that gets better may hide a group that gets
worse. Intervals are those of the difference, by a paired bootstrap over utterances.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from speechssl.asr.decoding.decoders import Greedy
from speechssl.atomic import write_atomically
from speechssl.config import configuration
from speechssl.data.utterances import Manifest, Utterance
from speechssl.downstream.bootstrap import interval
from speechssl.downstream.group_scores import UNKNOWN, Ratio
from speechssl.errors import ManifestError
from speechssl.hub.model_formats import read_saved
from speechssl.stages.reading_data import DataConfig, read_data
from speechssl.stages.score import cell_of
from speechssl.stages.scored import transcribe_scored
from speechssl.stages.selftrain_recipe import KeepConfig

__all__ = ["EffectConfig", "compare_on_dev", "differences", "require_columns"]

_USUAL = ("language", "speaker", "corpus")  # columns that every manifest may have
ALL = "all"  # name of the group of all utterances


@configuration
class EffectConfig:
    """What the comparison depends on."""

    out: Path
    checkpoint: Path  # recogniser trained with synthetic speech
    without: str  # fingerprint of the one trained without
    dev: DataConfig
    groups: tuple[str, ...]  # columns of the dev manifest
    seed: int


def require_columns(manifest: Manifest, names: Sequence[str]) -> None:
    """Check that the names of groups are columns, which may be empty where every manifest may have them.

    Raises:
        ManifestError: a name is no column.
    """
    common = [field.name for field in dataclasses.fields(Utterance) if field.name != "more"]
    further = dict.fromkeys(name for row in manifest.utterances for name, _ in row.more)
    if unknown := [name for name in names if name not in common and name not in further]:
        raise ManifestError(
            f"dev: no column {unknown[0]!r}, which synthetic.groups names; take some of {', '.join(_USUAL)}"
            f"{''.join(f', {name}' for name in further)}, or add it to the manifest"
        )


def compare_on_dev(config: EffectConfig, without: Path) -> Path:
    """Transcribe dev with both recognisers, without a search, and write and return `effect.json`.

    Args:
        config: the comparison.
        without: the recogniser trained without synthetic speech.
    """
    manifest = read_data(config.dev, section="dev")
    errors, rows = [], {}
    for path in (without, config.checkpoint):
        saved = read_saved(path)
        skips: list[str] | None = [] if config.dev.bad_audio == "skip" else None
        found = transcribe_scored(saved, manifest, Greedy(), KeepConfig(second="none"), seed=config.seed, skips=skips)
        vocabulary = saved.vocabulary()
        references = {each.row.id: vocabulary.reference(each.row.text or "") for each in found}
        rows = {each.row.id: (each.row, len(references[each.row.id])) for each in found if references[each.row.id]}
        errors.append({each.row.id: Levenshtein.distance(references[each.row.id], each.text) for each in found})
    told = {"groups": differences(rows, errors[0], errors[1], config.groups, seed=config.seed)}
    write_atomically(config.out / "effect.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return config.out / "effect.json"


def differences(
    rows: dict[str, tuple[Utterance, int]],
    without: dict[str, int],
    with_it: dict[str, int],
    columns: tuple[str, ...],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the CER of all utterances and of each group, of both recognisers, and the interval of the difference.

    A group of a single utterance has no interval: None.

    Args:
        rows: utterance and letters of its reference, by id.
        without: wrong letters of the recogniser trained without synthetic speech, by id.
        with_it: the same of the other one.
        columns: columns of the manifest; one that holds a single value is left out.
        seed: seed of the bootstrap.
    """
    members: dict[tuple[str, str], list[str]] = {("", ALL): list(rows)}
    for column in columns:
        by_value = defaultdict(list)
        for key, (row, _) in rows.items():
            by_value[cell_of(row, column, {}) or UNKNOWN].append(key)
        if len(by_value) > 1:
            members |= {(column, value): keys for value, keys in sorted(by_value.items())}
    found = []
    for (column, value), keys in members.items():
        letters = np.array([rows[key][1] for key in keys])
        first, second = (np.array([errors[key] for key in keys]) for errors in (without, with_it))
        gap = Ratio(second - first, letters)
        bounds = interval(gap, keys, seed=seed) if len(keys) > 1 else None  # a single one has no spread
        found.append(
            {
                "column": column,
                "group": value,
                "utterances": len(keys),
                "cer_without": float(first.sum() / letters.sum()),
                "cer_with": float(second.sum() / letters.sum()),
                "interval": None if bounds is None else [bounds.low, bounds.high],  # of the difference
            }
        )
    return found
