"""How soon a training step is done: ours against every peer at the same work, in turn, in one process.

    pretraining.py                                        everything: both sizes, all tasks, equal and mixed lengths
    pretraining.py --size base --task hubert --repeats 5  a part of it
    pretraining.py --short                                few repeats: the small size, and single steps of BASE

Prints one table and writes one JSON file. See README.md beside it.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from learners import Learner, OurLearner, Runner, our_extractor, our_learner
from measuring import OURS, Outcome, Row, about, interleave, table, write_report
from peers import PEERS
from plain import PLAIN
from sizes import SIZES, Size, equal_batch

from speechssl.data.batching import Batch

TASKS = ("wav2vec2", "hubert", "ctc", "extract")
Contender = Learner | OurLearner | Runner


def contenders(size: Size, task: str) -> dict[str, Callable[[], Contender]]:
    """List who is measured at a task, by name, each with what builds it."""
    found: dict[str, Callable[[], Contender]] = {
        OURS: lambda: our_extractor(size) if task == "extract" else our_learner(size, task)
    }
    if size.name == "base":
        found |= {name: partial(build, size) for name, build in PEERS[task].items()}
    else:
        found["plain modules"] = lambda: PLAIN[task](size)
    return found


def turn(contender: Contender, batches: list[Batch], steps: int) -> Callable[[], Outcome]:
    """Return what takes a contender through its batches so many times."""

    def work() -> Outcome:
        outcomes = [contender(batch) for _ in range(steps) for batch in batches]
        return Outcome(
            loss=outcomes[-1].loss,
            predicted=outcomes[-1].predicted,
            audio_s=sum(outcome.audio_s for outcome in outcomes),
        )

    return work


def measure(size: Size, task: str, options: argparse.Namespace) -> list[Row]:
    """Time all contenders of a task on equal batches."""
    repeats = options.repeats or (1 if options.short and size.name == "base" else 5)
    batch = equal_batch(size, seed=options.seed)
    built = {name: build() for name, build in contenders(size, task).items()}
    turns = {name: turn(contender, [batch], size.turns) for name, contender in built.items()}
    timings = interleave(turns, repeats)
    return [
        Row.of((size.name, task, "equal"), name, timings[name], sum(p.numel() for p in contender.model.parameters()))
        for name, contender in built.items()
    ]


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--repeats", type=int, help="turns of each contender that are timed")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/pretraining.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for name in options.size:
        for task in options.task:
            torch.manual_seed(options.seed)
            rows += measure(SIZES[name](), task, options)
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))
    write_report(options.out, about(options.seed), rows)


if __name__ == "__main__":
    main()
