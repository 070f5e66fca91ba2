"""Divides utterances into splits that stay disjoint when data is added later.

A key (speaker, text, id or file of an utterance) is hashed to a fixed number in [0, 1). With shares, a split is an
interval of these numbers: a key stays in its split when data is added. With hours, splits are filled in the order of
the numbers: added data can only move a key towards the last split, so that training data (the last split) never moves
into an earlier one (testing).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from speechssl.corpus.hashing import place_of
from speechssl.data.utterances import Utterance
from speechssl.errors import ManifestError

__all__ = ["Key", "describe_misses", "split_by_hours", "split_by_shares"]

Key = Literal["speaker", "id", "text", "path"]  # column whose values are never divided; path: parts of one file


def split_by_shares(
    utterances: Sequence[Utterance], shares: Mapping[str, float], *, by: Key, salt: str = ""
) -> dict[str, list[Utterance]]:
    """Assign keys to splits by their hash, in proportion to the shares.

    Args:
        utterances: what to divide.
        shares: split -> share of the keys (and roughly of the hours); shares add up to 1.
        by: what keeps utterances together.
        salt: another word makes another division.

    Returns:
        Each split's utterances, in their order, with the split column set.

    Raises:
        ManifestError: shares are not positive or do not add up to 1, an utterance has no key, or a split is empty.
    """
    if not shares or min(shares.values()) <= 0 or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise ManifestError(f"shares: expected positive numbers that add up to 1, found {dict(shares)}")
    places = {key: place_of(key, salt) for key in _keys(utterances, by)}
    edges = [math.fsum(list(shares.values())[: i + 1]) for i in range(len(shares) - 1)]
    names = list(shares)
    split_of = {key: names[sum(place >= edge for edge in edges)] for key, place in places.items()}
    return _divided(utterances, split_of, names, by)


def split_by_hours(
    utterances: Sequence[Utterance], hours: Mapping[str, float], *, rest: str, by: Key, salt: str = ""
) -> dict[str, list[Utterance]]:
    """Fill splits one after another, in the order of the keys' hashes, until each has its hours.

    Args:
        utterances: what to divide.
        hours: split -> least hours, in the order in which splits are filled.
        rest: split of all other keys.
        by: what keeps utterances together.
        salt: another word makes another division.

    Returns:
        Each split's utterances, in their order, with the split column set.

    Raises:
        ManifestError: hours are not positive or name `rest`, there is too little audio, or an utterance has no key.
    """
    if not hours or min(hours.values()) <= 0 or rest in hours:
        raise ManifestError(f"hours: expected positive numbers for splits other than {rest}, found {dict(hours)}")
    filled: dict[str, float] = {}
    for utterance, key in zip(utterances, _keys(utterances, by), strict=True):
        filled[key] = filled.get(key, 0.0) + utterance.duration_s
    remaining = iter(sorted(filled, key=lambda key: (place_of(key, salt), key)))
    split_of: dict[str, str] = {}
    for split, wanted in hours.items():
        seconds = 0.0
        while seconds < wanted * 3600 and (dealt := next(remaining, None)) is not None:
            split_of[dealt] = split
            seconds += filled[dealt]
    split_of |= dict.fromkeys(remaining, rest)
    return _divided(utterances, split_of, [*hours, rest], by)


def describe_misses(
    splits: Mapping[str, Sequence[Utterance]], wanted: Mapping[str, float], *, by: Key, unit: Literal["share", "h"]
) -> list[str]:
    """Describe the splits whose size is far from what was asked for, and why.

    Args:
        splits: split -> utterances.
        wanted: split -> share of all audio, or hours.
        by: column whose values were kept together.
        unit: unit of `wanted`.

    Returns:
        A line for each split with less than two thirds or more than one and a half times what was wanted.
    """
    seconds = {name: math.fsum(row.duration_s for row in rows) for name, rows in splits.items()}
    whole = math.fsum(seconds.values()) if unit == "share" else 3600
    missed = {
        name: seconds[name] / whole for name in wanted if not 2 / 3 <= seconds[name] / whole / wanted[name] <= 1.5
    }
    of_key: dict[str, float] = {}
    rows = [row for found in splits.values() for row in found]
    for row, key in zip(rows, _keys(rows, by), strict=True):
        of_key[key] = of_key.get(key, 0.0) + row.duration_s
    largest = (
        f"the longest of {len(of_key)} has {100 * max(of_key.values()) / math.fsum(seconds.values()):.0f} % of all"
    )
    advice = "divide by another column" if by == "id" else "divide by id, if that is acceptable"
    unit_of = {"share": "of the audio", "h": "h"}[unit]
    return [
        f"{name}: holds {found:.2g} {unit_of}, {wanted[name]:.2g} was asked for: no {by} is divided, and {largest}; "
        f"{advice}, take another --salt, or give more data"
        for name, found in missed.items()
    ]


def _divided(
    utterances: Sequence[Utterance], split_of: Mapping[str, str], names: Sequence[str], by: Key
) -> dict[str, list[Utterance]]:
    splits: dict[str, list[Utterance]] = {name: [] for name in names}
    for utterance, key in zip(utterances, _keys(utterances, by), strict=True):
        splits[split_of[key]].append(dataclasses.replace(utterance, split=split_of[key]))
    empty = [name for name, rows in splits.items() if not rows]
    if empty:
        raise ManifestError(
            f"{', '.join(empty)} would be empty: the {len(utterances)} utterances have {len(split_of)} different "
            f"values of {by}, which are not divided; give larger shares or fewer hours, or divide by id"
        )
    return splits


def _keys(utterances: Sequence[Utterance], by: Key) -> list[str]:
    keys: list[str | None] = [getattr(utterance, by) for utterance in utterances]
    missing = [utterance.id for utterance, key in zip(utterances, keys, strict=True) if not key]
    if missing:
        raise ManifestError(
            f"{len(missing)} of {len(utterances)} utterances have no {by}: {', '.join(missing[:3])}; "
            f"add the column with --side-file, or --speaker-from, of `speechssl manifest build`, or divide by id"
        )
    return [key for key in keys if key]
