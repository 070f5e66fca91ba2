"""What an arm costs: run a command and note its time; say how many updates a budget pays for.

    cost.py run COSTS.jsonl NAME -- COMMAND ...     note CPU and wall seconds of the command and all it started
    cost.py updates OUT.json --minutes 40 --short 10 SHORT.jsonl --long 60 LONG.jsonl [--spent COSTS.jsonl ...]
    cost.py updates OUT.json --minutes 40 --count 6612 [--spent COSTS.jsonl ...]

`updates` takes the CPU time of an update from two short runs, so that starting up does not count, subtracts what was
spent before (units), rounds down to a multiple of 12 and writes the answer once: a later call prints the same number.
With --count the number is given and only written down.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from speechssl.atomic import write_atomically

MULTIPLE = 12  # checkpoints a run; a quarter and half of it are among them


def run(costs: Path, name: str, command: list[str]) -> int:
    """Run a command to its end, also when asked to stop, add a line to `costs` and return its exit status."""
    costs.parent.mkdir(parents=True, exist_ok=True)
    started, before = time.perf_counter(), os.times()
    child = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: child.send_signal(number))
    status = child.wait()
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    row = {"name": name, "cpu_s": cpu, "wall_s": time.perf_counter() - started, "status": status}
    with costs.open("a", encoding="utf-8") as file:
        print(json.dumps(row), file=file)
    return status


def spent(costs: Path, name: str | None = None) -> dict[str, float]:
    """Return the CPU and wall seconds that a file notes, of one name or of all; nothing where there is no file."""
    rows = [json.loads(line) for line in costs.read_text(encoding="utf-8").splitlines()] if costs.exists() else []
    return {key: sum(row[key] for row in rows if name in (None, row["name"])) for key in ("cpu_s", "wall_s")}


def plan(minutes: float, short: tuple[int, float], long: tuple[int, float], before: float) -> dict[str, float]:
    """Return the updates that are left of a budget, with what they were computed from.

    Args:
        minutes: of CPU, the whole budget.
        short: updates and CPU seconds of a short run.
        long: the same of a longer one.
        before: CPU seconds spent already.

    Raises:
        ValueError: the longer run took no longer, or the budget is spent.
    """
    an_update = (long[1] - short[1]) / (long[0] - short[0])
    if an_update <= 0:
        raise ValueError(f"{long[0]} updates took {long[1]:.1f} s, {short[0]} took {short[1]:.1f} s; measure again")
    count = int((60 * minutes - before) / an_update) // MULTIPLE * MULTIPLE
    if count <= 0:
        raise ValueError(f"{minutes} CPU minutes do not pay for {MULTIPLE} updates of {an_update:.2f} s; raise them")
    return {"updates": count, "cpu_s_per_update": an_update, "spent_before_s": before, "budget_s": 60 * minutes}


def given_count(count: int, minutes: float, before: float) -> dict[str, float]:
    """Return what `plan` does for a number of updates that the caller has chosen.

    Raises:
        ValueError: it is not a positive multiple of `MULTIPLE`.
    """
    if count <= 0 or count % MULTIPLE:
        raise ValueError(f"{count} updates: expected a positive multiple of {MULTIPLE}, one checkpoint for each part")
    return {"updates": count, "spent_before_s": before, "budget_s": 60 * minutes}


def main() -> int:
    """Read the command line, do it, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    noting = actions.add_parser("run")
    noting.add_argument("costs", type=Path)
    noting.add_argument("name")
    noting.add_argument("command", nargs=argparse.REMAINDER)
    planning = actions.add_parser("updates")
    planning.add_argument("out", type=Path)
    planning.add_argument("--minutes", type=float, required=True)
    planning.add_argument("--count", type=int)
    planning.add_argument("--short", nargs=2, metavar=("N", "COSTS"))
    planning.add_argument("--long", nargs=2, metavar=("N", "COSTS"))
    planning.add_argument("--spent", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    if given.action == "run":
        return run(given.costs, given.name, given.command[given.command[:1] == ["--"] :])
    if not given.out.exists():
        before = [spent(costs) for costs in given.spent]
        before_s = sum(row["cpu_s"] for row in before)
        if given.count is not None:
            answer = given_count(given.count, given.minutes, before_s)
        elif given.short is None or given.long is None:
            parser.error("updates needs --short and --long, or --count")
        else:
            short, long = ((int(count), spent(Path(costs))["cpu_s"]) for count, costs in (given.short, given.long))
            answer = plan(given.minutes, short, long, before_s)
        answer["spent_before_wall_s"] = sum(row["wall_s"] for row in before)
        write_atomically(given.out, json.dumps(answer, indent=1) + "\n")
    answer = json.loads(given.out.read_text(encoding="utf-8"))
    print(f"{given.out}: {answer}", file=sys.stderr)
    print(answer["updates"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
