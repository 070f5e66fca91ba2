"""Work on a Ray cluster: tasks in small lots, each done in a worker of the cluster as this machine would do it.

A lot whose worker is lost is done again elsewhere. All machines need the package and see the files at the same paths.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from speechssl.errors import ManifestError, SpeechSSLError

__all__ = ["on_ray"]

_LOT = 16  # tasks that are done together
_TRIES = 4  # of a lot whose worker is lost


def on_ray(
    local: Callable[[Sequence[Any], Callable[[Any], Any]], Iterable[tuple[int, Any]]], *, lot: int = _LOT
) -> Callable[[Sequence[Any], Callable[[Any], Any]], Iterator[tuple[int, Any]]]:
    """Return what does tasks on the cluster of `RAY_ADDRESS`, or on one that is started here for the time.

    Args:
        local: does the tasks of a lot where it is.
        lot: tasks that are sent together.

    Raises:
        ManifestError: Ray is not installed; when it runs: a lot ended its worker again and again.
        SpeechSSLError: when it runs: whatever `local` raises.
    """
    ray = _ray()

    def work(tasks: Sequence[Any], do: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        is_ours = not ray.is_initialized()
        if is_ours:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="error")
        try:
            yield from _spread(ray, local, tasks, do, lot)
        finally:
            if is_ours:
                ray.shutdown()

    return work


def _spread(ray: Any, local: Any, tasks: Sequence[Any], do: Any, lot: int) -> Iterator[tuple[int, Any]]:
    remote = ray.remote(max_retries=_TRIES - 1)(_do_lot)
    shared_local, shared_do = ray.put(local), ray.put(do)  # sent once to each machine
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
