"""Who does the work of a command on many files: this machine, the tasks of a job array, or a Ray cluster.

Work is a function of tasks and of what to do with each; it gives results in any order, with the number of their task.
So the result is the same whoever does it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NoReturn

from speechssl import fingerprint
from speechssl.atomic import write_atomically
from speechssl.errors import ManifestError, StoppedError
from speechssl.manifests.lines import Kinds, read_line, write_line
from speechssl.manifests.on_ray import on_ray

__all__ = ["Engine", "PartWritten", "Work", "chosen_work", "in_threads", "one_by_one", "parts_beside", "remove_parts"]

Work = Callable[[Sequence[Any], Callable[[Any], Any]], Iterable[tuple[int, Any]]]
Engine = Literal["local", "ray"]

_WINDOW = 4096  # tasks that threads are given at once


class PartWritten(StoppedError):  # noqa: N818 - no error: the job has done what it was to do
    """A job of an array has written the results of its part; there is nothing to go on with before all have."""


def parts_beside(out: Path) -> Path:
    """Return the folder in which the jobs of an array leave the results for `out`."""
    return out.with_name(f"{out.name}.shards")


def chosen_work(
    local: Work, few: Work, engine: Engine, shard: str | None, folder: Path, *, about: str, kinds: Kinds
) -> Work:
    """Return what does the work.

    Args:
        local: does all of it on this machine.
        few: does a few tasks in one process, with the same results.
        engine: `ray` sends a few tasks at a time to a cluster.
        shard: `I/N` does the I-th of N parts, writes the results to `folder` and raises `PartWritten`; `merge` takes
            the results of all parts; None does everything.
        folder: of the parts.
        about: settings that results depend on; all parts must have been done with the same.
        kinds: classes of results.

    Raises:
        ManifestError: `shard` is neither; when it runs: parts are missing, doubled, or of other files or settings.
    """
    if shard == "merge":
        return _of_parts(folder, about=about, kinds=kinds)
    work = on_ray(few) if engine == "ray" else local
    if shard is None:
        return work
    number, _, of = shard.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= 1_000_000):
        raise ManifestError(f"shard: expected I/N with I from 1 to N, as 2/8, or merge; found {shard!r}")
    return _part(work, folder, int(number), int(of), about=about)


def one_by_one(tasks: Sequence[Any], do: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
    """Do tasks in this process."""
    yield from ((number, do(task)) for number, task in enumerate(tasks))


def in_threads(workers: int | None = None) -> Work:
    """Return what does tasks in threads of this process; None for one a core."""

    def work(tasks: Sequence[Any], do: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            for begin in range(0, len(tasks), _WINDOW):
                yield from enumerate(pool.map(do, tasks[begin : begin + _WINDOW]), start=begin)

    return work


def remove_parts(folder: Path) -> None:
    """Remove the parts in a folder, once what they were for is written; other files stay."""
    for path in folder.glob("*-of-*.jsonl"):
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _part(work: Work, folder: Path, number: int, of: int, *, about: str) -> Work:
    def do_part(tasks: Sequence[Any], do: Callable[[Any], Any]) -> NoReturn:
        mine = range(number - 1, len(tasks), of)
        results = sorted(work([tasks[index] for index in mine], do), key=lambda pair: pair[0])
        head = {"shard": number, "of": of, "tasks": len(tasks), "digest": _digest(tasks, about)}
        lines = [write_line((mine[place], result)) for place, result in results]
        path = folder / f"{number}-of-{of}.jsonl"
        write_atomically(path, "".join(f"{line}\n" for line in (write_line(tuple(head.items())), *lines)))
        raise PartWritten(f"{path}: {len(mine)} of {len(tasks)} done; when all {of} are, --shard merge")

    return do_part


def _of_parts(folder: Path, *, about: str, kinds: Kinds) -> Work:
    def take(tasks: Sequence[Any], do: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        paths = sorted(folder.glob("*-of-*.jsonl"))
        heads = [_head(path) for path in paths]
        counts = {head["of"] for head in heads}
        if len(counts) != 1:
            found = f"of {' and of '.join(map(str, sorted(counts)))} jobs" if counts else "none"
            raise ManifestError(f"{folder}: expected the shards of one job array, found {found}; run --shard I/N first")
        of = counts.pop()
        numbers = [head["shard"] for head in heads]
        missing = sorted({*range(1, of + 1)} - {*numbers})
        doubled = sorted({number for number in numbers if numbers.count(number) > 1})
        if missing or doubled:
            named = "; ".join(
                f"{word} {', '.join(f'{n}/{of}' for n in which[:5])}{', ...' * (len(which) > 5)}"
                for word, which in (("missing", missing), ("doubled", doubled))
                if which
            )
            raise ManifestError(f"{folder}: {named}; run those jobs again, or remove what is too many")
        digest = _digest(tasks, about)
        other = [path.name for path, head in zip(paths, heads, strict=True) if head["digest"] != digest]
        if other:
            raise ManifestError(
                f"{folder}: {len(other)} shards are of other files or settings: {', '.join(other[:3])}; "
                "run their jobs again, with the same arguments as all"
            )
        for path, number in zip(paths, numbers, strict=True):
            yield from _results(path, range(number - 1, len(tasks), of), kinds)

    return take


def _head(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            return dict(read_line(file.readline(), {}))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: no results of a shard ({error}); run its job again") from error


def _results(path: Path, expected: Sequence[int], kinds: Kinds) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            next(file)
            for index, line in zip(expected, file, strict=True):
                number, result = read_line(line, kinds)
                if number != index:
                    raise ValueError(f"task {number} where {index} is expected")
                yield index, result
    except (OSError, ValueError, TypeError) as error:
        raise ManifestError(f"{path}: results are damaged ({error}); run its job again") from error


def _digest(tasks: Sequence[Any], about: str) -> str:
    listed = (f"\n{task!r}".encode("utf-8", "surrogateescape") for task in tasks)
    return fingerprint.of_parts(chain([about.encode()], listed), fingerprint.LONG)
