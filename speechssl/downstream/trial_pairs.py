"""Pairs of a manifest's utterances to compare: those that a list of trials names, or all pairs.

A trial names an utterance by its id, or by its path: as in the manifest, without suffix or with another one, or by the
end of either, as in lists that begin at another folder. `all_pairs` makes trials where there is no list.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.data.utterances import Utterance
from speechssl.downstream.trials import TrialList
from speechssl.errors import ManifestError

__all__ = ["Pairs", "all_pairs", "pairs_of"]

_MOST = 50_000  # utterances whose pairs are counted, in about a minute

Indices = NDArray[np.int64]
Values = Sequence[str | None]  # of a column, for each utterance


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Trials of utterances, as indices."""

    first: Indices  # (trials,)
    second: Indices
    is_target: NDArray[np.bool_]
    missing: tuple[str, ...] = ()  # names that no utterance has
    left_out: dict[str, int] = field(default_factory=dict)  # number of pairs by reason

    def __post_init__(self) -> None:
        assert len(self.first) == len(self.second) == len(self.is_target)


def pairs_of(trials: TrialList, utterances: Sequence[Utterance], *, missing: Literal["stop", "skip"]) -> Pairs:
    """Find the utterances that trials name.

    Raises:
        ManifestError: the list names no utterances, a name belongs to several, or to none and `missing` is stop.
    """
    if not trials.first:
        raise ManifestError(f"{trials.path}: holds scores and labels, but names no utterances; name a list of trials")
    names = _Names(utterances)
    found: dict[str, int | None] = {}
    for line, *sides in zip(trials.lines, trials.first, trials.second, strict=True):
        for name in sides:
            if name not in found:
                found[name] = names.find(name, where=f"{trials.path}:{line}")
    lacking = [name for name, index in found.items() if index is None]
    is_there = np.array(
        [found[a] is not None and found[b] is not None for a, b in zip(trials.first, trials.second, strict=True)]
    )
    if lacking and missing == "stop":
        line = trials.lines[int(np.argmin(is_there))]
        raise ManifestError(
            f"{trials.path}:{line}: {int((~is_there).sum())} of {len(is_there)} trials name {len(lacking)} utterances "
            f"that the manifest lacks, {', '.join(map(repr, lacking[:3]))}{', ...' if len(lacking) > 3 else ''}; "
            f"expected ids like {utterances[0].id!r} or paths like {utterances[0].path!r}; --missing skip leaves these "
            "trials out"
        )
    first, second = (
        np.array([found[name] for name, there in zip(side, is_there, strict=True) if there], np.int64)
        for side in (trials.first, trials.second)
    )
    left_out = {"missing utterance": int((~is_there).sum())} if lacking else {}
    return Pairs(
        first=first, second=second, is_target=trials.is_target[is_there], missing=tuple(lacking), left_out=left_out
    )


def all_pairs(
    speakers: Sequence[str | None],
    *,
    most: int,
    seed: int,
    differ: Mapping[str, Values] | None = None,
    alike: Mapping[str, Values] | None = None,
) -> Pairs:
    """Pair every two utterances, or as many as wanted, drawn at random.

    Args:
        speakers: speaker of each utterance; without one it is in no pair.
        most: most target trials, and most others.
        seed: seed of the draw.
        differ: columns whose known values differ in a pair, such as the session.
        alike: columns whose values are known and equal in a pair, such as sex.

    Raises:
        ManifestError: fewer than two speakers are known, none has two utterances, or there are more than 50,000
            utterances.
    """
    counts = Counter(speaker for speaker in speakers if speaker is not None)
    if len(counts) < 2 or max(counts.values()) < 2:
        raise ManifestError(
            f"expected two speakers or more, and one of them with two utterances, found {len(counts)} in the column "
            "speaker; name a manifest with speakers, or a list of trials"
        )
    if len(speakers) > _MOST:
        raise ManifestError(
            f"expected at most {_MOST} utterances to pair with each other, found {len(speakers)}; name a list of "
            "trials, or draw a sample with `speechssl manifest sample`"
        )
    walk = _Walk(speakers, differ or {}, alike or {})
    totals, left_out = np.zeros(2, np.int64), Counter[str]()
    for _, others, is_target in walk.rows(left_out):
        totals += [int(is_target.sum()), len(others) - int(is_target.sum())]
    generator = np.random.default_rng(seed)
    wanted = [np.sort(generator.choice(int(total), min(most, int(total)), replace=False)) for total in totals]
    for name, total, kept in zip(("targets", "non-targets"), totals.tolist(), wanted, strict=True):
        if total > len(kept):
            left_out[f"{name} not drawn"] = total - len(kept)
    taken: list[tuple[Indices, Indices, NDArray[np.bool_]]] = []
    begun = [0, 0]
    for row, others, is_target in walk.rows(Counter()):
        for kind, chosen in enumerate((others[is_target], others[~is_target])):
            begin, end = np.searchsorted(wanted[kind], [begun[kind], begun[kind] + len(chosen)])
            picked = chosen[wanted[kind][begin:end] - begun[kind]]
            taken.append((np.full(len(picked), row), picked, np.full(len(picked), kind == 0)))
            begun[kind] += len(chosen)
    first, second, is_target = (np.concatenate(columns) for columns in zip(*taken, strict=True))
    return Pairs(first=first, second=second, is_target=is_target, left_out=dict(left_out))


class _Walk:
    """The pairs of each utterance with later ones."""

    def __init__(self, speakers: Values, differ: Mapping[str, Values], alike: Mapping[str, Values]) -> None:
        self._known = np.array([index for index, speaker in enumerate(speakers) if speaker is not None], np.int64)
        self._speakers = _coded(speakers)
        self._differ = {name: _coded(values) for name, values in differ.items()}
        self._alike = {name: _coded(values) for name, values in alike.items()}

    def rows(self, left_out: Counter[str]) -> Iterator[tuple[int, Indices, NDArray[np.bool_]]]:
        """Yield an utterance, those that it is paired with, and whether each is of its speaker; count the others."""
        for place, row in enumerate(self._known.tolist()):
            others = self._known[place + 1 :]
            for name, codes in self._alike.items():
                is_kept = (codes[others] == codes[row]) & (codes[row] >= 0)
                left_out[f"not the same {name}"] += len(others) - int(is_kept.sum())
                others = others[is_kept]
            for name, codes in self._differ.items():
                is_kept = (codes[others] != codes[row]) | (codes[row] < 0)
                left_out[f"same {name}"] += len(others) - int(is_kept.sum())
                others = others[is_kept]
            yield row, others, self._speakers[others] == self._speakers[row]


class _Names:
    """Finds utterances by id or path."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self._utterances = utterances
        self._ids = {row.id: index for index, row in enumerate(utterances)}
        self._paths: dict[str, list[int]] = defaultdict(list)  # by path, and by path without suffix
        self._ends: dict[str, list[int]] = defaultdict(list)  # by the last part, without suffix
        for index, row in enumerate(utterances):
            path = PurePosixPath(row.path)
            for key in dict.fromkeys((str(path), str(path.with_suffix("")))):
                self._paths[key].append(index)
            self._ends[path.stem].append(index)

    def find(self, name: str, *, where: str) -> int | None:
        """Return the index of the utterance with a name; None if there is none.

        Raises:
            ManifestError: several utterances have it.
        """
        if name in self._ids:
            return self._ids[name]
        path = PurePosixPath(name)
        for found in self._candidates(path):
            if len(found) > 1:
                named = ", ".join(self._utterances[index].id for index in found[:3])
                raise ManifestError(f"{where}: {name!r} may be any of {named}; name utterances by their ids")
            if found:
                return found[0]
        return None

    def _candidates(self, path: PurePosixPath) -> Iterator[list[int]]:
        """Yield the utterances that a path may mean, the closest reading first."""
        if not path.name:
            return
        bare = path.with_suffix("")
        yield self._paths.get(str(path), [])
        yield self._paths.get(str(bare), [])
        for wanted in (path, bare):
            near = self._ends.get(wanted.name if wanted is path else path.stem, [])
            yield [index for index in near if _ends_alike(PurePosixPath(self._utterances[index].path), wanted)]


def _ends_alike(path: PurePosixPath, wanted: PurePosixPath) -> bool:
    """Return whether the shorter of two paths, the first without suffix, is the end of the longer one."""
    ours, theirs = path.with_suffix("").parts, wanted.parts
    number = min(len(ours), len(theirs))
    return ours[-number:] == theirs[-number:]


def _coded(values: Values) -> Indices:
    """Return a number for each different value; -1 for an unknown or empty one."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) if value else -1 for value in values], np.int64)
