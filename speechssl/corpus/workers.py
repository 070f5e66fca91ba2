"""Runs tasks over many files: on this machine, as parts of a job array, or on a Ray cluster.

`Work` is a function of tasks and of what to do with each; it yields results in any order, with the index of their task,
so that the outcome does not depend on where it runs.
"""

import base64
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NoReturn

from speechssl import fingerprint
from speechssl.atomic import write_atomically
from speechssl.errors import ManifestError, SpeechSSLError, StoppedError

__all__ = [
    "Engine",
    "Kinds",
    "PartWritten",
    "Work",
    "chosen_work",
    "in_threads",
    "on_ray",
    "one_by_one",
    "parts_beside",
    "read_line",
    "remove_parts",
    "write_line",
]

_LOT = 16  # tasks that are sent together
_TRIES = 4  # attempts for a lot whose worker is lost


def on_ray(
    local: Callable[[Sequence[Any], Callable[[Any], Any]], Iterable[tuple[int, Any]]], *, lot: int = _LOT
) -> Callable[[Sequence[Any], Callable[[Any], Any]], Iterator[tuple[int, Any]]]:
    """Return work that runs on the cluster of `RAY_ADDRESS`, or on a temporary local one.

    Args:
        local: runs the tasks of a lot on a worker.
        lot: tasks that are sent together.

    Raises:
        ManifestError: Ray is not installed; when the work runs, if a lot crashes its worker repeatedly.
        SpeechSSLError: when the work runs, an error of `local`.
    """
    ray = _ray()

    def work(tasks: Sequence[Any], do: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        is_ours = not ray.is_initialized()
        if is_ours:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="error")
        try:
            yield from _on_cluster(ray, local, tasks, do, lot)
        finally:
            if is_ours:
                ray.shutdown()

    return work


def _on_cluster(ray: Any, local: Any, tasks: Sequence[Any], do: Any, lot: int) -> Iterator[tuple[int, Any]]:
    remote = ray.remote(max_retries=_TRIES - 1)(_do_lot)
    shared_local, shared_do = ray.put(local), ray.put(do)  # sent to each machine once
    ahead = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting: dict[Any, int] = {}
    begins = iter(range(0, len(tasks), lot))
    while True:
        for begin in begins:
            waiting[remote.remote(shared_local, tasks[begin : begin + lot], shared_do)] = begin
            if len(waiting) >= ahead:
                break
        if not waiting:
            return
        (done, *_), _ = ray.wait([*waiting], num_returns=1)
        begin = waiting.pop(done)
        yield from ((begin + place, result) for place, result in _result(ray, done, tasks[begin]))


def _result(ray: Any, done: Any, first: Any) -> list[tuple[int, Any]]:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SpeechSSLError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise ManifestError(
            f"a worker of the cluster was lost {_TRIES} times at the {_LOT} tasks from {first!r:.200} on "
            f"({type(error).__name__}); look at them with --engine local"
        ) from error


def _do_lot(local: Any, tasks: Sequence[Any], do: Any) -> list[tuple[int, Any]]:
    return [*local(tasks, do)]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ManifestError("--engine ray needs Ray: pip install 'speechssl[ray]'") from error
    return ray


Kinds = Mapping[str, type]  # classes that lines may hold, by name


def write_line(value: object) -> str:
    """Serialise a value as one line of JSON.

    Raises:
        ValueError: the value holds an unsupported type.
    """
    return json.dumps(_plain(value), ensure_ascii=True)


def read_line(line: str, kinds: Kinds) -> Any:
    """Deserialise a line of `write_line`.

    Raises:
        ValueError: the line is malformed, or holds a class that is not in `kinds`.
    """
    return _value(json.loads(line), kinds)


def _plain(value: object) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {"bytes": base64.b64encode(value).decode()}
        case SpeechSSLError():
            return {"class": type(value).__name__, "said": str(value)}
        case tuple():
            return {"tuple": [_plain(item) for item in value]}
        case list():
            return [_plain(item) for item in value]
        case Counter():
            return {"counts": [[_plain(key), count] for key, count in value.items()]}
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return {"class": type(value).__name__, "fields": fields}
    raise ValueError(f"no line holds {type(value).__name__}")


def _value(plain: Any, kinds: Kinds) -> Any:
    match plain:
        case list():
            return [_value(item, kinds) for item in plain]
        case {"bytes": text}:
            return base64.b64decode(text)
        case {"tuple": items}:
            return tuple(_value(item, kinds) for item in items)
        case {"counts": pairs}:
            return Counter({_value(key, kinds): count for key, count in pairs})
        case {"class": name} if name not in kinds:
            raise ValueError(f"no kind is called {name}")
        case {"class": name, "said": said}:
            return kinds[name](said)
        case {"class": name, "fields": dict(fields)}:
            return kinds[name](**{key: _value(item, kinds) for key, item in fields.items()})
        case dict():
            raise ValueError(f"no value: {plain!r:.80}")
    return plain


Work = Callable[[Sequence[Any], Callable[[Any], Any]], Iterable[tuple[int, Any]]]
Engine = Literal["local", "ray"]

_WINDOW = 4096  # tasks submitted to threads at once


class PartWritten(StoppedError):  # noqa: N818 - not an error: the job is done
    """A job of an array has written the results of its part; the command stops until all parts are there."""


def parts_beside(out: Path) -> Path:
    """Return the folder where the jobs of an array write their results for `out`."""
    return out.with_name(f"{out.name}.shards")


def chosen_work(
    local: Work, few: Work, engine: Engine, shard: str | None, folder: Path, *, about: str, kinds: Kinds
) -> Work:
    """Choose where the work runs.

    Args:
        local: runs all tasks on this machine.
        few: runs a few tasks in one process, with the same results.
        engine: `ray` sends lots of tasks to a cluster.
        shard: `I/N` runs part I of N, writes the results to `folder` and raises `PartWritten`; `merge` reads the
            results of all parts; None runs everything.
        folder: folder of the parts.
        about: settings that results depend on, which must be the same for all parts.
        kinds: classes of results.

    Raises:
        ManifestError: `shard` is invalid; when the work runs, if parts are missing, repeated, or made from other files
            or settings.
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
    """Run tasks in this process, one after another."""
    yield from ((number, do(task)) for number, task in enumerate(tasks))


def in_threads(workers: int | None = None) -> Work:
    """Return work that runs in threads of this process; None for one per core."""

    def work(tasks: Sequence[Any], do: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            for begin in range(0, len(tasks), _WINDOW):
                yield from enumerate(pool.map(do, tasks[begin : begin + _WINDOW]), start=begin)

    return work


def remove_parts(folder: Path) -> None:
    """Remove the parts in a folder, but no other files."""
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
            raise ManifestError(f"{folder}: {named}; run those jobs again, or remove the duplicates")
        digest = _digest(tasks, about)
        other = [path.name for path, head in zip(paths, heads, strict=True) if head["digest"] != digest]
        if other:
            raise ManifestError(
                f"{folder}: {len(other)} shards were made from other files or settings: {', '.join(other[:3])}; "
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
        raise ManifestError(f"{path}: not the results of a shard ({error}); run its job again") from error


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
