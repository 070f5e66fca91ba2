"""Run record `record.jsonl`, append-only: which steps of a chain are done, from which inputs, with which outputs.

Each line records that a step started, finished, or was moved aside. The content of manifests, labels, alignments and
models is hashed. Audio is not hashed, because that would take as long as reading it; a recording replaced by another of
the same length goes unnoticed.
"""

import dataclasses
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import torch

import speechssl
from speechssl import fingerprint
from speechssl.config import to_dict
from speechssl.errors import CheckpointError
from speechssl.hub.model_formats import read_saved
from speechssl.provenance import source_commit
from speechssl.train.run_folder import holds_work

__all__ = ["Inputs", "RunRecord", "content_hash", "file_hashes", "model_fingerprint", "step_inputs"]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything that the outputs of a step depend on."""

    values: Mapping[str, Any]  # plain values by dotted key: the configuration, and hashes of the files read
    defaults: frozenset[str] = frozenset()  # keys at their default; an older record without such a key agrees

    def also(self, key: str, value: object, *, default: object) -> Self:
        """Return these inputs with a key added that is not in the step's configuration."""
        at_default = {key} if value == default else set()
        return replace(self, values={**self.values, key: value}, defaults=self.defaults | at_default)

    def differ(self, recorded: Mapping[str, Any]) -> list[str]:
        """Return the keys whose value differs from the recorded one."""
        keys = [*recorded, *(key for key in self.values if key not in recorded and key not in self.defaults)]
        return [key for key in keys if recorded.get(key) != self.values.get(key)]


class RunRecord:
    """The steps in one folder, with their record."""

    def __init__(self, out: Path, *, redo: bool = False) -> None:
        """Read the record of a folder; nothing is written before a step starts.

        Args:
            out: folder with `record.jsonl` and a folder for each step.
            redo: move a step whose inputs have changed aside and repeat it, instead of raising.

        Raises:
            CheckpointError: a line of the record cannot be read.
        """
        self.out, self.redo = out, redo
        self.path = out / "record.jsonl"
        self.lines = _read(self.path)

    def perform(
        self, step: str, inputs: Inputs, run: Callable[[], object], outputs: Callable[[], dict[str, str]]
    ) -> dict[str, str]:
        """Run a step; skip it if it was finished from the same inputs, and resume it if it was interrupted.

        Args:
            step: name of the step and of its folder.
            inputs: everything that its outputs depend on.
            run: runs or resumes the step.
            outputs: returns the fingerprints of its outputs, by path below `out`; called when it is finished.

        Returns:
            The fingerprints of the outputs.

        Raises:
            CheckpointError: the folder was made from other inputs, or its outputs have changed since; without `redo`.
                Results are never removed.
        """
        folder = self.out / step
        last = self._last(step)
        if folder.exists():
            found = self._finished(last, inputs, outputs)
            problem = _difference(last, inputs, found)
            if problem and not holds_work(folder):  # an empty folder: the stage replaces its configuration
                problem = ""
            if problem and not self.redo:
                raise CheckpointError(
                    f"{folder}: {problem}; name another out, or set redo=true: the folder is then kept under another "
                    "name, and the step is repeated with those that depend on it"
                )
            if problem:
                self._move_aside(step, problem)
            elif found is not None:
                _say(f"{step}: unchanged, skipped")
                return found
        return self._do(step, inputs, run, outputs)

    def seconds(self, step: str) -> float:
        """Return the seconds of the step when it was last finished, without time lost by interruptions."""
        finished = [line["seconds"] for line in self.lines if line["step"] == step and line["event"] == "finished"]
        return finished[-1] if finished else 0.0

    def _do(
        self, step: str, inputs: Inputs, run: Callable[[], object], outputs: Callable[[], dict[str, str]]
    ) -> dict[str, str]:
        started = _now()
        read: dict[str, Any] = {"hash": fingerprint.of_values(inputs.values), "inputs": dict(inputs.values)}
        self._append({"event": "started", "step": step, **read, "at": started})
        _say(f"{step}: started")
        clock = time.perf_counter()
        run()
        seconds = round(time.perf_counter() - clock, 3)
        made = outputs()
        line = {"event": "finished", "step": step, **read, "outputs": made, "seconds": seconds}
        self._append(line | {"started": started, "finished": _now()} | _surroundings())
        return made

    def _last(self, step: str) -> dict[str, Any] | None:
        """Return the newest line of a step since it was last moved aside."""
        last = next((line for line in reversed(self.lines) if line["step"] == step), None)
        return None if last is None or last["event"] == "moved" else last

    def _finished(
        self, last: dict[str, Any] | None, inputs: Inputs, outputs: Callable[[], dict[str, str]]
    ) -> dict[str, str] | None:
        """Return the present fingerprints of a finished step; None if it is unfinished, or lacks a file."""
        if last is None or last["event"] != "finished" or inputs.differ(last["inputs"]):
            return None
        if not all((self.out / path).exists() for path in last["outputs"]):
            return None
        return outputs()

    def _move_aside(self, step: str, problem: str) -> None:
        number = 1
        while (aside := self.out / f"{step}.old-{number}").exists():
            number += 1
        (self.out / step).rename(aside)
        self._append({"event": "moved", "step": step, "to": aside.name, "because": problem, "at": _now()})
        _say(f"{step}: {problem}; kept as {aside.name}")

    def _append(self, line: dict[str, Any]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        whole = _whole_lines(self.path)
        if (
            self.path.exists() and len(whole) < self.path.stat().st_size
        ):  # killed while writing: drop the incomplete line
            os.truncate(self.path, len(whole))
        with self.path.open("ab") as file:
            file.write((json.dumps(line) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)


def step_inputs(config: object, out: Path, *, model: str | None) -> Inputs:
    """Return the inputs of a step: its configuration, and the content of the files that it names.

    Args:
        config: configuration of the step. Files it names are hashed, except `out` and the root of the audio.
        out: folder of the chain; paths below it are stored relative to it, so that it may be moved.
        model: fingerprint of the model that the key `checkpoint` names, if any.

    Raises:
        CheckpointError: a path cannot be read.
    """
    values = {key: value for key, value in _flat(to_dict(config), f"{out}/") if key != "out"}
    for key, path in _paths(config):
        name = _relative(str(path), f"{out}/")
        if key == "checkpoint":
            values[f"model in {name}"] = model
        elif key not in ("out", "root"):
            values[f"content of {name}"] = content_hash(path)
    return Inputs(values=values, defaults=frozenset(_at_default(config)))


def content_hash(path: Path) -> str:
    """Return 16 hex digits of the SHA-256 of a file, or of the names and contents of all files below a folder.

    Raises:
        CheckpointError: it cannot be read.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    try:
        parts = [
            os.fsencode(file.relative_to(path)) + b"\0" + bytes.fromhex(fingerprint.of_file(file))
            for file in files
            if file == path or file.is_file()
        ]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); name an existing file or folder") from error
    return fingerprint.of_bytes(b"".join(parts))[: fingerprint.DIGITS]


def file_hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the content hashes of files in the folder of a step, by path below the chain's folder."""
    return {f"{folder.name}/{name}": content_hash(folder / name) for name in names}


def model_fingerprint(run: Path) -> dict[str, str]:
    """Return the fingerprint of the best model in the folder of a step, by path below the chain's folder."""
    saved = read_saved(run)
    return {saved.name: saved.fingerprint()}


def _paths(config: object, key: str = "") -> Iterator[tuple[str, Path]]:
    """Yield every path in a configuration with the last part of its key."""
    if isinstance(config, Path):
        yield key, config
    elif dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            yield from _paths(getattr(config, field.name), field.name)
    elif isinstance(config, tuple):
        for item in config:
            yield from _paths(item, key)


def _at_default(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys that hold their class's default."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if dataclasses.is_dataclass(value):
            yield from _at_default(value, f"{prefix}{field.name}.")
        elif value == default:
            yield prefix + field.name


def _flat(values: Mapping[str, Any], root: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested plain values by dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, root, f"{prefix}{key}.")
        else:
            yield prefix + key, _relative(value, root)


def _relative(value: Any, root: str) -> Any:
    if isinstance(value, list):
        return [_relative(item, root) for item in value]
    return value.removeprefix(root) if isinstance(value, str) else value


def _difference(last: dict[str, Any] | None, inputs: Inputs, found: dict[str, str] | None) -> str:
    """Return why a step cannot be resumed from its folder; empty if it was made, or begun, from the same inputs."""
    if last is None:
        return "is not in record.jsonl, so its inputs are unknown"
    if different := inputs.differ(last["inputs"]):
        return f"was made from other inputs ({_changes(different, last['inputs'], inputs.values)})"
    if found is not None and (different := Inputs(values=found).differ(last["outputs"])):
        return f"has changed since it was made ({_changes(different, last['outputs'], found)})"
    return ""


def _changes(different: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    named = ", ".join(
        f"{key} was {repr(old[key]) if key in old else 'not recorded'}, "
        f"is {repr(new[key]) if key in new else 'not there'}"
        for key in different[:3]
    )
    return named + (f", and {len(different) - 3} more" if len(different) > 3 else "")


def _whole_lines(path: Path) -> bytes:
    """Return the record up to its last newline; a rest was left by a process that was killed while writing."""
    written = path.read_bytes() if path.exists() else b""
    return written[: written.rfind(b"\n") + 1]


def _read(path: Path) -> list[dict[str, Any]]:
    lines = []
    for number, text in enumerate(_whole_lines(path).splitlines(), start=1):
        try:
            line = json.loads(text)
            whole = line | {"step": line["step"], "event": line["event"]}
            read = {_present_key(key): value for key, value in whole.get("inputs", {}).items()}
            lines.append(whole | ({"inputs": read} if read else {}))
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path}:{number}: expected a JSON line of a step, found {text[:60]!r}; restore the file, or name "
                "another out"
            ) from error
    return lines


def _present_key(key: str) -> str:
    """Return the present name of a key of an earlier version's recipes."""
    return re.sub(r"^valid(?=\.|$)", "dev", key)


def _surroundings() -> dict[str, Any]:
    """Return versions and machine of the step."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return {
        "speechssl": speechssl.__version__,
        "commit": source_commit(),
        "torch": torch.__version__,
        "machine": platform.platform(),
        "device": str(accelerator or "cpu"),
        "threads": torch.get_num_threads(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _say(message: str) -> None:
    print(message, file=sys.stderr)
