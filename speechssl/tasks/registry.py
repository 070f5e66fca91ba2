"""The registry of tasks: built-in ones, and those that installed packages add by the entry point `speechssl.tasks`.

    [project.entry-points."speechssl.tasks"]
    apc = "my_package.apc:TASK"

The entry point's name is the task's `kind`, its value an instance of `Task`.
"""

import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, get_args, get_type_hints

from speechssl.config import OneOf
from speechssl.errors import ConfigError
from speechssl.tasks.best_rq import BestRQTask
from speechssl.tasks.data2vec import Data2VecTask
from speechssl.tasks.hubert import HubertTask
from speechssl.tasks.pretraining import Objective, PretrainingTask
from speechssl.tasks.recognition import RecognitionTask
from speechssl.tasks.task import DataSizes, Need, Task, TaskConfig
from speechssl.tasks.wav2vec2 import Wav2Vec2Task

__all__ = [
    "DEFAULT_OBJECTIVE",
    "TASKS",
    "ObjectiveConfig",
    "all_tasks",
    "build_objective",
    "find_method",
    "find_task",
    "task_of",
]

_OURS: tuple[Task, ...] = (Wav2Vec2Task(), HubertTask(), BestRQTask(), Data2VecTask(), RecognitionTask())
TASKS: dict[str, Task] = {task.kind: task for task in _OURS}
DEFAULT_OBJECTIVE: TaskConfig = HubertTask.config_type()
GROUP = "speechssl.tasks"


def find_task(kind: str) -> Task:
    """Return a task by its kind.

    Raises:
        ConfigError: no installed task has this kind, or its package cannot be imported.
    """
    if kind in TASKS:
        return TASKS[kind]
    for entry in entry_points(group=GROUP, name=kind):
        return _loaded(entry)
    known = [*TASKS, *(entry.name for entry in entry_points(group=GROUP))]
    raise ConfigError(
        f"no task is called {kind!r}, found {', '.join(known)}; install the package that has it, or correct the kind"
    )


def task_of(config: TaskConfig) -> Task:
    """Return the task of a configuration.

    Raises:
        ConfigError: as `find_task`.
    """
    return find_task(config.kind)


def find_method(method: str) -> Task:
    """Return a pretraining task by its method, such as `hubert`.

    Raises:
        ConfigError: no installed task has this method.
    """
    for find in (lambda: TASKS, all_tasks):  # installed packages are searched only for what is not the toolkit's own
        methods = {task.method: task for task in find().values() if task.is_pretraining}
        if method in methods:
            return methods[method]
    raise ConfigError(f"method {method!r} is not known, expected one of {', '.join(methods)}")


def all_tasks() -> dict[str, Task]:
    """Return all tasks by kind; tasks that cannot be imported are reported on standard error and left out."""
    found = dict(TASKS)
    for entry in entry_points(group=GROUP):
        try:
            if entry.name in found:
                raise ConfigError(f"the task {entry.name} = {entry.value}: the kind is taken; give it another name")
            found[entry.name] = _loaded(entry)
        except ConfigError as error:
            _report(f"left out: {error}")
    return found


@cache
def _report(message: str) -> None:
    """Print a message on standard error, once in a process."""
    print(message, file=sys.stderr)


def build_objective(config: TaskConfig, *, dim: int, conv_dim: int, clusters: tuple[int, ...]) -> Objective:
    """Build the objective of a pretraining task, without an encoder.

    Args:
        config: configuration of the task.
        dim: dimension of the Transformer's output.
        conv_dim: dimension of the extractor's output.
        clusters: number of units of each label stream; empty for a task without labels.

    Raises:
        LabelError: labels are missing, or given to a task that takes none.
    """
    task = task_of(config)
    assert isinstance(task, PretrainingTask)
    task.check(DataSizes(clusters=clusters))
    return task.objective(config, dim=dim, conv_dim=conv_dim, clusters=clusters)


def _loaded(entry: EntryPoint) -> Task:
    where = f"the task {entry.name} of {entry.dist.name if entry.dist else entry.value}"
    try:
        task: Any = entry.load()
    except Exception as error:  # third-party code may raise anything
        raise ConfigError(f"{where} cannot be imported ({error}); fix or remove the package") from error
    if not isinstance(task, Task):
        raise ConfigError(
            f"{where}: expected an instance of Task, found {type(task).__name__}; fix or remove the package"
        )
    if fault := _fault(task, entry.name):
        raise ConfigError(f"{where}: {fault}; fix or remove the package")
    return task


def _fault(task: Task, kind: str) -> str:
    """Return what is wrong with the description of a task; nothing if it is complete."""
    missing = [name for name in ("kind", "method", "title", "config_type") if not hasattr(task, name)]
    if missing:
        return f"expected the attributes kind, method, title and config_type, found no {', '.join(missing)}"
    if task.kind != kind:
        return f"expected kind={kind}, as its entry point is called, found {task.kind}"
    if unknown := sorted({*task.needs} - {*get_args(Need)}):
        return f"expected needs among {', '.join(get_args(Need))}, found {', '.join(unknown)}"
    if task.method in {own.method for own in TASKS.values()}:
        return f"the method {task.method} is taken, expected another name"
    found = get_type_hints(task.config_type).get("kind") if is_dataclass(task.config_type) else None
    if get_args(found) != (kind,):
        return f'expected the configuration to have `kind: Literal["{kind}"] = "{kind}"`, found {found}'
    return ""


def _objectives() -> Mapping[str, type]:
    return {task.kind: task.config_type for task in all_tasks().values() if task.is_pretraining}


_KINDS = ", ".join(f"{task.kind} is {task.method}" for task in _OURS if task.is_pretraining)
ObjectiveConfig = Annotated[TaskConfig, OneOf(_objectives, hint=f"{_KINDS}; install the package that adds another")]
