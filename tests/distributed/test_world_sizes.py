"""The same run on one, two or four ranks: the same global batches, losses and weights; and ranks that die."""

import dataclasses
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from speechssl.config import to_dict
from speechssl.data.batching import BatchConfig
from speechssl.data.labels import write_labels
from speechssl.data.manifest import read_manifest
from speechssl.errors import CheckpointError
from speechssl.model.masking import MaskConfig
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.contrastive_targets import CopyConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.online_codebooks import OnlineCodebookConfig
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.random_projection import RandomProjectionConfig
from speechssl.tasks.random_quantizer import CodebookConfig
from speechssl.tasks.teacher import TeacherConfig
from speechssl.train.checkpoint import read_state
from speechssl.train.learner import TrainConfig
from speechssl.train.skipped_steps import read_skipped_step
from tests.distributed.launching import torchrun

MASK = MaskConfig(start_prob=0.1, span=3)
OBJECTIVES = {
    "masked_prediction": MaskedPredictionConfig(mask=MASK, dim=8),
    "contrastive": ContrastiveConfig(mask=MASK, dim=8, negatives=5, quantizer=QuantizerConfig(entries=4, dim=8)),
    "random_projection": RandomProjectionConfig(
        mask=MASK, codebook=CodebookConfig(entries=6, dim=3, bins=8, projection="pca", pca_steps=4, update="ema")
    ),
    "log_mel": ContrastiveConfig(
        mask=MASK,
        dim=8,
        negatives=5,
        quantizer=QuantizerConfig(entries=4, dim=8),
        targets="log_mel",
        copy=CopyConfig(gain_db=6.0, tilt=0.5),
        loudness_neighbours=3,
    ),
    "teacher": TeacherConfig(form="codebooks", layers=2, mask=MASK, codebooks=OnlineCodebookConfig(entries=4)),
}
STEPS = 6
WORKER = """
import math, shutil, sys
from pathlib import Path
import torch
from torch import distributed
from speechssl.__main__ import main
from speechssl.data import dataset

poisoned, *recipes, interrupted = sys.argv[1:]  # the last takes over what the first had done after half of its steps
status = [main(["pretrain", recipe]) for recipe in recipes]
distributed.barrier()
if distributed.get_rank() == 0:
    later = shutil.ignore_patterns("step_0000000[456]")
    shutil.copytree(Path(recipes[0]).with_suffix(""), Path(interrupted).with_suffix(""), ignore=later)
distributed.barrier()
status.append(main(["pretrain", interrupted]))

read = dataset.read_utterance

def with_an_infinite_sample(manifest, row, *arguments, **rest):
    waveform = read(manifest, row, *arguments, **rest)
    if row.path != "u0003.wav" or (done := Path(poisoned).with_suffix(".done")).exists():
        return waveform
    done.touch()
    return waveform.index_fill(0, torch.tensor([99]), math.inf)

dataset.read_utterance = with_an_infinite_sample
status.append(main(["pretrain", poisoned]))
distributed.destroy_process_group()
sys.exit(max(status))
"""
DYING = """
import os, signal, sys
from speechssl.__main__ import main
from speechssl.train import run as running

update = running.Learner.update

def dying(self, batches, state, **rest):
    if state.step == 3 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, batches, state, **rest)

running.Learner.update = dying
sys.exit(main(["pretrain", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def configure(tmp_path_factory, make_corpus, random_labels, tiny_encoder):
    """Return a function that makes the run of a name: four batches a step, whatever the number of ranks."""
    folder = tmp_path_factory.mktemp("world")
    manifest = make_corpus(folder / "corpus")
    write_labels(folder / "labels.tsv", random_labels(read_manifest(manifest)))

    def make(name: str, kind: str, ranks: int, **train: int) -> PretrainConfig:
        config = PretrainConfig(
            out=folder / f"{name}-{kind}",
            data=DataConfig(manifests=(manifest,)),
            labels=(folder / "labels.tsv",) if kind == "masked_prediction" else (),
            encoder=tiny_encoder,  # with dropout and layer drop
            objective=OBJECTIVES[kind],
            batch=BatchConfig(seconds=2.0, max_crop_s=1.0, min_s=0.1),
            train=TrainConfig(steps=STEPS, accumulate=4 // ranks, log_every=1, save_every=1, keep=9, **train),
        )
        config.out.with_suffix(".yaml").write_text(yaml.safe_dump(to_dict(config)))
        return config

    return make


@pytest.fixture(scope="module")
def runs(configure) -> dict[str, Path]:
    """Return the folders of runs on one rank and on two."""
    resumed = "random_projection"  # the first, which the last run takes over
    two = [configure("two", kind, 2) for kind in sorted(OBJECTIVES, key=lambda kind: kind != resumed)]
    two.append(configure("again", resumed, 2))
    (worker := two[0].out.with_name("worker.py")).write_text(WORKER)
    poisoned = configure("poisoned", "contrastive", 2)
    done = torchrun(worker, *(config.out.with_suffix(".yaml") for config in [poisoned, *two]))
    assert done.returncode == 0, done.stderr
    for kind in OBJECTIVES:
        pretrain(configure("one", kind, 1))
    return {path.stem: path for path in two[0].out.parent.iterdir() if path.is_dir()}


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_training(run: Path, other: Path) -> None:
    assert losses(run) == pytest.approx(losses(other), rel=1e-5)
    assert len(set(losses(run))) == STEPS
    ours, theirs = (load_file(path / f"step_{STEPS:08d}/model.safetensors") for path in (run, other))
    # Adam's first steps hang on the sign of tiny gradients, hence the tolerance: a fifth of the learning rate
    assert all(torch.allclose(tensor, theirs[name], atol=1e-4) for name, tensor in ours.items())


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_two_ranks_have_the_losses_of_one_that_accumulates(runs, kind):
    assert_same_training(runs[f"two-{kind}"], runs[f"one-{kind}"])
    states = [read_state(runs[f"{name}-{kind}"] / f"step_{STEPS:08d}") for name in ("one", "two")]
    assert states[0].audio_seconds == pytest.approx(states[1].audio_seconds)


def test_two_ranks_go_on_where_two_stopped_bit_for_bit(runs):
    again, straight = runs["again-random_projection"], runs["two-random_projection"]
    assert losses(again) == losses(straight)
    assert len((again / "log.superseded.jsonl").read_text().splitlines()) == 3  # these steps were made again
    ours, theirs = (load_file(run / f"step_{STEPS:08d}/model.safetensors") for run in (again, straight))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_one_rank_goes_on_where_two_stopped(runs, configure, kind):
    config = configure("mixed", kind, 1)
    shutil.copytree(runs[f"two-{kind}"], config.out)
    for step in range(4, STEPS + 1):
        shutil.rmtree(config.out / f"step_{step:08d}")
    pretrain(config)
    assert_same_training(config.out, runs[f"one-{kind}"])


def test_ranks_that_would_change_the_global_batch_are_refused(runs, configure):
    config = configure("smaller", "contrastive", 1)
    shutil.copytree(runs["two-contrastive"], config.out)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=2))
    with pytest.raises(CheckpointError, match=r"takes 4 batches a step, these ranks would take 2; choose train\.acc"):
        pretrain(config)


def test_a_loss_that_is_not_finite_on_one_rank_skips_the_step_on_all(runs):
    state = read_state(runs["poisoned-contrastive"] / f"step_{STEPS:08d}")
    assert state.skipped_steps == 1
    weights = load_file(runs["poisoned-contrastive"] / f"step_{STEPS:08d}/model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    folder = max((runs["poisoned-contrastive"]).glob("skipped_step_*"))
    skipped = read_skipped_step(folder)
    assert [batch.number for batch in skipped.batches] == [0, 1, 2, 3]  # batches of both ranks
    assert "u0003" in skipped.suspects()
    assert not all("u0003" in batch.ids for batch in skipped.batches)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_four_ranks_have_the_losses_of_one_that_accumulates(runs, configure, kind):
    config = configure("four", kind, 4)
    done = torchrun("-m", "speechssl", "pretrain", config.out.with_suffix(".yaml"), processes=4)
    assert done.returncode == 0, done.stderr
    assert_same_training(config.out, runs[f"one-{kind}"])


@pytest.mark.slow
def test_a_rank_that_dies_is_named_by_the_others_and_a_restart_goes_on(runs, configure):
    config = configure("dying", "contrastive", 2)
    (worker := config.out.with_name("dying.py")).write_text(DYING)
    started = time.monotonic()
    done = torchrun("--max-restarts=1", worker, config.out.with_suffix(".yaml"))
    assert done.returncode == 0, done.stderr
    assert "step 3: rank 1 died (rank 0 saw: " in done.stderr
    assert time.monotonic() - started < 120  # both attempts
    ours, theirs = (
        load_file(run / f"step_{STEPS:08d}/model.safetensors") for run in (config.out, runs["two-contrastive"])
    )
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert losses(config.out) == losses(runs["two-contrastive"])
