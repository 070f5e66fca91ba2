"""Two processes on one machine train as one process would on both batches."""

import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from speechssl.config import to_dict
from speechssl.data.batching import BatchConfig
from speechssl.data.labels import write_labels
from speechssl.data.manifest import read_manifest
from speechssl.model.masking import MaskConfig
from speechssl.objective.contrastive import ContrastiveConfig
from speechssl.objective.masked_prediction import MaskedPredictionConfig
from speechssl.objective.quantizer import QuantizerConfig
from speechssl.stages.data import DataConfig
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.train.checkpoint import read_state
from speechssl.train.loop import TrainConfig
from speechssl.train.optim import OptimConfig

WORKER = """
import shutil, sys
from pathlib import Path
from torch import distributed
from speechssl.config import load
from speechssl.parallel import start_ranks
from speechssl.stages.pretrain import PretrainConfig, pretrain

ranks = start_ranks()
for recipe in sys.argv[1:]:
    last = pretrain(load(Path(recipe), PretrainConfig))
ranks.wait()
if ranks.is_first:  # as if the last run had been interrupted after its checkpoint before the last
    shutil.rmtree(last)
ranks.wait()
pretrain(load(Path(sys.argv[-1]), PretrainConfig))
distributed.destroy_process_group()
"""
MASK = MaskConfig(start_prob=0.1, span=3)
MASKED_PREDICTION = MaskedPredictionConfig(mask=MASK, dim=8)
CONTRASTIVE = ContrastiveConfig(mask=MASK, dim=8, distractors=5, quantizer=QuantizerConfig(entries=4, dim=8))
NOTHING_DRAWN = MaskedPredictionConfig(
    mask=MaskConfig(start_prob=0.0, min_spans=0), dim=8, unmasked_weight=1.0, feature_penalty=0.0
)  # every frame is predicted and counted, and no rank draws anything
PLAIN = OptimConfig(lr=1.0, eps=1.0, weight_decay=0.0, warmup=0.0)  # so large an eps shows the gradient's size


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def reports(run: Path, name: str = "log.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_corpus, random_labels, tiny_encoder) -> dict[str, Path]:
    """Give the folders of four runs: three of two processes, the last interrupted and resumed, and one of one."""
    folder = tmp_path_factory.mktemp("distributed")
    manifest = make_corpus(folder / "corpus")
    write_labels(folder / "labels.tsv", random_labels(read_manifest(manifest)))
    still = dataclasses.replace(tiny_encoder.transformer, dropout=0.0, attention_dropout=0.0, layer_drop=0.0)
    still_encoder = dataclasses.replace(tiny_encoder, feature_dropout=0.0, transformer=still)

    def configure(name: str, objective: object, **changes: object) -> PretrainConfig:
        config = PretrainConfig(
            out=folder / name,
            data=DataConfig(manifests=(manifest,)),
            labels=() if objective is CONTRASTIVE else (folder / "labels.tsv",),
            encoder=tiny_encoder,
            objective=objective,
            batch=BatchConfig(seconds=2.0, max_crop_s=1.0, min_s=0.1),
            train=TrainConfig(steps=4, log_every=1, save_every=2, keep=9),
        )
        return dataclasses.replace(config, **changes)

    together = [
        configure("contrastive", CONTRASTIVE),
        configure("two", NOTHING_DRAWN, encoder=still_encoder, optim=PLAIN),
        configure("resumed", MASKED_PREDICTION),
    ]
    for config in together:
        (folder / f"{config.out.name}.yaml").write_text(yaml.safe_dump(to_dict(config)))
    (folder / "worker.py").write_text(WORKER)
    address = ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", *address]
    source = Path(__file__).parents[2]
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": source}
    done = subprocess.run(
        [*command, folder / "worker.py", *(folder / f"{config.out.name}.yaml" for config in together)],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    train = dataclasses.replace(together[1].train, accumulate=2)
    pretrain(dataclasses.replace(together[1], out=folder / "one", train=train))
    return {name: folder / name for name in ("contrastive", "two", "resumed", "one")}


@pytest.mark.parametrize("name", ["contrastive", "two", "resumed"])
def test_two_processes_finish_with_finite_losses_and_one_checkpoint(runs, name):
    assert all(math.isfinite(report["loss"]) for report in reports(runs[name]))
    assert read_state(runs[name] / "step_00000004").is_finished


def test_only_the_first_process_writes_the_log(runs):
    assert [report["step"] for report in reports(runs["two"])] == [1, 2, 3, 4]


def test_two_processes_have_the_gradient_of_one_that_sees_both_batches(runs):
    norms = [[report["grad_norm"] for report in reports(runs[name])] for name in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_two_processes_arrive_at_the_weights_of_one_that_sees_both_batches(runs):
    one, two = (load_file(runs[name] / "step_00000004/model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(tensor, two[name], atol=1e-4) for name, tensor in one.items())


def test_a_resumed_run_of_two_processes_repeats_the_steps_of_the_uninterrupted_one(runs):
    first, again = (
        [{key: report[key] for key in ("step", "loss", "grad_norm")} for report in reports(runs["resumed"], name)]
        for name in ("log.superseded.jsonl", "log.jsonl")
    )
    assert [step["step"] for step in first] == [3, 4]
    assert [step["step"] for step in again] == [1, 2, 3, 4]
    assert again[2:] == first
