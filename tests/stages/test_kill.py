"""A run that is killed again and again ends as one that was left alone: `make slow`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

STEPS, KILLS = 400, 50
KILLING = """
import os, random, signal, sys, time
from pathlib import Path
from speechssl.__main__ import main

recipe, kills, *overrides = sys.argv[1:]
log = Path(recipe).parent / "run" / "log.jsonl"
moments = random.Random(0)

def start():
    if (child := os.fork()) == 0:  # what it needs is imported: each start is quick
        os._exit(main(["pretrain", recipe, *overrides]))
    return child

for _ in range(int(kills)):
    before = log.stat().st_size if log.exists() else 0
    child = start()
    while not log.exists() or log.stat().st_size <= before:
        if os.waitpid(child, os.WNOHANG)[0]:
            sys.exit("the run ended before it was killed")
        time.sleep(0.002)  # until it has made a step of its own
        before = min(before, log.stat().st_size) if log.exists() else 0  # steps to be repeated are cut off
    time.sleep(moments.uniform(0, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1]))
"""


def recipe_of(folder: Path, corpus: Path, kind: str) -> Path:
    """Write a recipe of many small steps, saved every third."""
    values = {
        "out": str(folder / "run"),
        "data": {"manifests": [str(corpus)]},
        "encoder": {
            "conv": [[8, 10, 5], [16, 4, 4], [16, 4, 4], [16, 4, 4]],
            "transformer": {"dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 64, "position_kernel": 8},
        },
        "objective": {"kind": kind, "mask": {"start_prob": 0.1, "span": 3}},
        "batch": {"seconds": 3.0, "max_crop_s": 0.6, "min_s": 0.1},
        "train": {"steps": STEPS, "log_every": 1, "save_every": 3, "health": {"enabled": False}},
    }
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "recipe.yaml"


def run(recipe: Path, kills: int, *overrides: str) -> None:
    """Train, killed so many times on the way."""
    command = [sys.executable, "-c", KILLING, recipe, str(kills), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["masked_prediction", "contrastive", "random_projection", "teacher"])
def test_a_run_killed_at_random_moments_ends_with_the_same_weights(kind, tmp_path, corpus, units):
    overrides = [f"labels=[{units}]"] if kind == "masked_prediction" else []
    run(recipe_of(tmp_path / "whole", corpus, kind), 0, *overrides)
    run(recipe_of(tmp_path / "killed", corpus, kind), KILLS, *overrides)
    name = f"step_{STEPS:08d}"
    expected, found = (
        load_file(tmp_path / which / "run" / name / "model.safetensors") for which in ("whole", "killed")
    )
    assert all(bool((expected[key] == found[key]).all()) for key in expected)
    first, second = (
        [json.loads(line) for line in (tmp_path / which / "run/log.jsonl").read_text(encoding="utf-8").splitlines()]
        for which in ("whole", "killed")
    )
    assert [row["step"] for row in second] == [*range(1, STEPS + 1)]
    assert [row["loss"] for row in first] == [row["loss"] for row in second]
    again = (tmp_path / "killed/run/log.superseded.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(again) > KILLS / 2, "few steps were repeated: the kills came too late to mean anything"
