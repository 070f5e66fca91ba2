"""Iterations that are killed again and again end as ones that were left alone: `make slow`."""

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

from speechssl.config import to_dict
from speechssl.hub.saved import SavedModel
from speechssl.model.encoder import EncoderConfig


def start(recipe: Path, out: Path) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "speechssl", "hubert", str(recipe), f"out={out}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


@pytest.mark.slow
def test_iterations_killed_at_random_moments_end_with_the_same_model(corpus, tiny_encoder: EncoderConfig, tmp_path):
    values = {
        "out": "unused",
        "data": {"manifests": [str(corpus)]},
        "units": {"clusters": 4, "iterations": 5},
        "pretrain": {
            "encoder": to_dict(tiny_encoder),
            "objective": {"mask": {"start_prob": 0.1, "span": 3}},
            "batch": {"seconds": 3.0, "max_crop_s": 0.6, "min_s": 0.1},
            "train": {"steps": 30, "log_every": 1, "save_every": 3},
        },
        "iterations": [{}, {"units": {"layer": 2}}],
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(recipe, whole).wait() == 0
    record = killed / "record.jsonl"
    moments = random.Random(0)
    for _ in range(6):
        before = record.stat().st_size if record.exists() else 0
        process = start(recipe, killed)
        while process.poll() is None and (not record.exists() or record.stat().st_size == before):
            time.sleep(0.01)  # until it has said what it does
        time.sleep(moments.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(recipe, killed).wait() == 0
    assert SavedModel.read(killed / "2-pretrain").fingerprint() == SavedModel.read(whole / "2-pretrain").fingerprint()
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line["event"] == "finished"] == [
        "1-units",
        "1-pretrain",
        "2-units",
        "2-pretrain",
    ]
    assert sum(line["event"] == "started" for line in lines) > 4, "the kills came too late to mean anything"
