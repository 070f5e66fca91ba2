"""Peak memory of one contender: a process of its own builds it, takes three steps, and says what it needed at most.

memory.py base wav2vec2 equal transformers     prints MiB over what imports alone take
"""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from contenders import TASKS, batches_of, contenders
from measuring import OURS, memory_kib
from sizes import SIZES

from speechssl.memory import keep_freed_memory

__all__ = ["peak_mib"]

STEPS = 3
IMPORTS = {  # what a contender would import when it is built, or compile with
    "transformers": ("transformers.models.wav2vec2.modeling_wav2vec2",),
    "fairseq2": ("fairseq2.models.wav2vec2.asr", "torch._inductor.compile_fx"),
    "torchaudio": ("torchaudio.models",),
}


def peak_mib(
    size: str,
    task: str,
    kind: str,
    contender: str,
    *,
    manifests: Sequence[Path] = (),
    seconds: float = 60.0,
    total_s: float = 60.0,
    seed: int = 0,
) -> float:
    """Run this file in a fresh process.

    Raises:
        RuntimeError: it failed; what it said is in the message.
    """
    command = [sys.executable, str(Path(__file__).resolve()), size, task, kind, contender]
    command += ["--seed", str(seed), "--seconds", str(seconds), "--total", str(total_s)]
    command += ["--threads", str(torch.get_num_threads())]
    command += ["--manifest", *map(str, manifests)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure one contender and print MiB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("kind", choices=("equal", "single", "mixed"))
    parser.add_argument("contender")
    parser.add_argument("--manifest", type=Path, nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--total", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for module in IMPORTS.get(options.contender, ()):
        importlib.import_module(module)
    size = SIZES[options.size]()
    batches = batches_of(
        size,
        options.task,
        options.kind,
        options.contender,
        manifests=options.manifest,
        seconds=options.seconds,
        total_s=options.total,
        seed=options.seed,
    )
    if options.contender == OURS:
        keep_freed_memory()  # as our command line does, which costs memory
    before = memory_kib("VmRSS")
    torch.manual_seed(options.seed)
    contender = contenders(size, options.task)[options.contender]()
    for step in range(max(STEPS, len(batches))):
        contender(batches[step % len(batches)])
    print((memory_kib("VmHWM") - before) / 1024)


if __name__ == "__main__":
    main()
