"""What the parts of recipes/gpu share: the card and its two ceilings, clocks, and rows that outlive a part cut short.

On a machine without a GPU everything runs on the CPU, small: a rehearsal, whose figures mean nothing.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import torch

from speechssl.atomic import write_atomically

__all__ = ["Part", "Row", "facts", "matrix_rate", "memory_rate", "spent", "wait"]

Value = float | int | str | bool | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: what was done, by whom, and what was found."""

    work: str
    who: str
    values: dict[str, Value] = field(default_factory=dict)


class Part:
    """One script of this folder: its device, its time, and the file that its rows are in.

    The file is written anew after each row, so that a part that is cut short leaves what it had found.
    """

    def __init__(self, description: str | None) -> None:
        """Read the command line."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--out", type=Path, required=True, help="JSON file of the rows")
        parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        parser.add_argument("--seconds", type=float, default=60.0, help="no work is begun after so many")
        parser.add_argument("--seed", type=int, default=0)
        options = parser.parse_args()
        self.device = torch.device(options.device)
        self.out: Path = options.out
        self.seed: int = options.seed
        self.ends = time.monotonic() + options.seconds
        self.rows: list[Row] = []
        self._write()

    @property
    def is_rehearsal(self) -> bool:
        """Whether there is no GPU, so that all is done small."""
        return self.device.type == "cpu"

    @property
    def is_over(self) -> bool:
        """Whether nothing more shall be begun."""
        return time.monotonic() > self.ends

    @property
    def left_s(self) -> float:
        """Seconds until the part is cut short, and some to spare."""
        return max(5.0, self.ends - time.monotonic())

    def add(self, work: str, who: str, **values: Value) -> None:
        """Keep a row, and print it; a number that is not finite becomes a word, which JSON knows."""
        values = {name: str(each) if _is_odd(each) else each for name, each in values.items()}
        self.rows.append(Row(work=work, who=who, values=values))
        self._write()
        print(f"{work} | {who} | " + ", ".join(f"{name} {_short(value)}" for name, value in values.items()), flush=True)

    @contextmanager
    def surviving(self, work: str, who: str) -> Iterator[None]:
        """Keep the error of a row's work, in one line, and go on with the next row, unless the device is lost."""
        try:
            yield
        except Exception as error:  # whatever it is, the rows after it are worth having
            traceback.print_exc()
            self.add(
                work, who, failed=f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
            )
        if self.device.type == "cuda":
            try:
                torch.cuda.synchronize(self.device)
                torch.cuda.empty_cache()
            except RuntimeError as error:  # after an illegal access nothing runs any more in this process
                sys.exit(f"the device is lost for this part after {work}, {who}: {error}")

    def _write(self) -> None:
        write_atomically(self.out, json.dumps([asdict(row) for row in self.rows], indent=1) + "\n")


def wait(device: torch.device) -> None:
    """Wait until the device has done what is queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spent(work: Callable[[], object], device: torch.device, *, repeats: int, warm_up: int = 2) -> list[float]:
    """Return the seconds of each repeat of `work`, by the device's own clock where it has one."""
    for _ in range(warm_up if device.type == "cuda" else 0):
        work()
    found = []
    for _ in range(repeats):
        wait(device)
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            wait(device)
            found.append(start.elapsed_time(end) / 1e3)
        else:
            begun = time.perf_counter()
            work()
            found.append(time.perf_counter() - begun)
    return found


@cache
def matrix_rate(device: torch.device, precision: str) -> float:
    """Measure operations a second of a large square product of random factors: `float32`, `tf32` or `bfloat16`."""
    size = 8192 if device.type == "cuda" else 128
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        return 2 * size**3 / statistics.median(spent(lambda: left @ right, device, repeats=7))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@cache
def memory_rate(device: torch.device) -> float:
    """Measure bytes a second, read and written, of a copy within the device's memory."""
    number = 2**30 if device.type == "cuda" else 2**16
    source, target = (torch.rand(number, device=device) for _ in range(2))
    return 2 * source.nbytes / statistics.median(spent(lambda: target.copy_(source), device, repeats=7))


def facts(device: torch.device, seed: int) -> dict[str, Value | dict[str, str]]:
    """Describe the card and what measured it, for the head of the table."""
    from measuring import about  # of recipes/benchmarks

    packages = ("torch", "torchaudio", "triton", "transformers", "flash-kmeans", "fastkmeans")
    found = about(seed, packages)
    card = platform.processor() or platform.machine()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        card = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return {
        "date": str(found["date"]),
        "commit": str(found["commit"]),
        "card": card,
        "is_rehearsal": device.type == "cpu",
        "seed": seed,
        "versions": {name: str(each) for name, each in found["versions"].items()} | {"cuda": str(torch.version.cuda)},
    }


def _is_odd(value: Value) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit("this is no part; run run.sh beside it")
