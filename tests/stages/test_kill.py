"""A run that is killed again and again ends as one that was left alone: `make slow`."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

STEPS = 60


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
        "train": {"steps": STEPS, "log_every": 1, "save_every": 3},
    }
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "recipe.yaml"


def start(recipe: Path, *overrides: str) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "speechssl", "pretrain", str(recipe), *overrides]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["masked_prediction", "contrastive"])
def test_a_run_killed_at_random_moments_ends_with_the_same_weights(kind, tmp_path, corpus, units):
    overrides = [f"labels=[{units}]"] if kind == "masked_prediction" else []
    whole = recipe_of(tmp_path / "whole", corpus, kind)
    assert start(whole, *overrides).wait() == 0
    killed = recipe_of(tmp_path / "killed", corpus, kind)
    moments = random.Random(0)
    for _ in range(5):
        process = start(killed, *overrides)
        log = tmp_path / "killed" / "run" / "log.jsonl"
        before = log.stat().st_size if log.exists() else 0
        while process.poll() is None and (not log.exists() or log.stat().st_size == before):
            time.sleep(0.01)  # until it has made a step of its own
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(killed, *overrides).wait() == 0
    name = f"step_{STEPS:08d}"
    expected, found = (load_file(tmp_path / run / "run" / name / "model.safetensors") for run in ("whole", "killed"))
    assert all(bool((expected[key] == found[key]).all()) for key in expected)
    steps = [json.loads(line)["step"] for line in log.read_text(encoding="utf-8").splitlines()]
    assert len(steps) > len(set(steps)), "no step was ever repeated: the kills came too late to mean anything"
