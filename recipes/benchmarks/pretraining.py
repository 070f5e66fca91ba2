"""How soon a training step is done: ours against every peer at the same work, in turn, in one process.

    pretraining.py                                        both sizes, all tasks, batches of equal length
    pretraining.py --manifest */pool.tsv                  and batches of real lengths
    pretraining.py --size base --task hubert --repeats 5  a part of it
    pretraining.py --short                                few repeats, and few steps of BASE

Prints one table and writes one JSON file. See README.md beside it.
"""

import argparse
import dataclasses
import sys
from functools import partial
from pathlib import Path

import torch
from allocator import set_allocator
from bound import bound_s, measure_rates, step_products
from contenders import STYLES, TASKS, Contender, batches_of, contenders, turn
from measuring import OURS, Row, about, interleave, table, write_report
from memory import peak_mib
from sizes import SIZES, Size

TOTAL_S = {False: 180.0, True: 40.0}  # of audio in the mixed batches of a turn; in the short form
BATCH_S = {False: 60.0, True: 20.0}  # of audio in each: 60 s of BASE, padded at random, need more than 24 GB


def measure(size: Size, task: str, kind: str, options: argparse.Namespace) -> list[Row]:
    """Time all contenders at one kind of work."""
    torch.manual_seed(options.seed)
    few = 1 if kind == "mixed" else 3  # layer drop alone moves a single step by a tenth
    repeats = options.repeats or (few if options.short and size.name == "base" else 5)
    drawn = {
        "manifests": options.manifest,
        "seconds": options.seconds or BATCH_S[options.short],
        "total_s": TOTAL_S[options.short],
        "seed": options.seed,
    }
    chosen = {name: build for name, build in contenders(size, task).items() if name in (*options.only, OURS)}
    batches = {name: batches_of(size, task, kind, name, **drawn) for name in chosen}
    built: dict[str, Contender] = {name: build() for name, build in chosen.items()}
    steps = 1 if kind == "mixed" else size.turns
    turns = {
        name: turn(each, batches[name], steps, partial(set_allocator, keeps=name == OURS or options.malloc == "kept"))
        for name, each in built.items()
    }
    timings = interleave(turns, repeats)
    least = None
    if kind != "mixed" and not options.short:
        products = step_products(size, task, batches[OURS][0], timings[OURS][-1].outcome.predicted)
        least = steps * sum(bound_s(products, measure_rates(products)).values())
    rows = []
    for name, contender in built.items():
        parameters = sum(parameter.numel() for parameter in contender.model.parameters())
        row = Row.of((size.name, task, kind), name, timings[name], parameters)
        peak = None
        if not options.short:
            peak = peak_mib(size.name, task, kind, name, **drawn)
        rows.append(dataclasses.replace(row, peak_mib=peak, bound_share=None if least is None else least / row.wall_s))
    return rows


def kinds_of(task: str, options: argparse.Namespace) -> list[str]:
    """List the kinds of batches of a task; feature extraction has a single utterance too."""
    kinds = [kind for kind in options.batch if kind != "mixed" or options.manifest]
    return ["single", *kinds] if task == "extract" else kinds


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["base", "small"])
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--batch", nargs="+", choices=("equal", "mixed"), default=["equal", "mixed"])
    parser.add_argument("--only", nargs="+", choices=list(STYLES), default=list(STYLES), help="beside ours")
    parser.add_argument("--manifest", type=Path, nargs="+", default=[], help="of real speech, for mixed batches")
    parser.add_argument("--seconds", type=float, help="of audio in a mixed batch; 60, in the short form 20")
    parser.add_argument("--repeats", type=int, help="turns of each contender that are timed")
    parser.add_argument("--short", action="store_true")
    parser.add_argument(
        "--malloc",
        choices=("own", "kept"),
        default="own",
        help="freed memory: each contender's as its users have it, or kept for all as our command line does",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/pretraining.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for name in options.size:
        for task in options.task:
            for kind in kinds_of(task, options):
                rows += measure(SIZES[name](), task, kind, options)
                print(f"measured: {name} {task} {kind}", file=sys.stderr, flush=True)
                write_report(options.out, about(options.seed), rows)  # what was measured is kept if it stops here
    print(table(rows))


if __name__ == "__main__":
    main()
