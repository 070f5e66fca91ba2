"""The losses of the first five steps of each task, pinned: a refactor leaves them as they are.

A tiny model with everything switched on that draws or moves (spans, negatives, Gumbel noise, every dropout, layer
drop, crops, channel masks, a thawing trunk) learns from synthetic audio, as `speechssl pretrain` and `speechssl
finetune` would have it. The losses are read from the run's `log.jsonl`; the later ones also depend on gradients,
optimiser and schedule.

A change of method moves them, and its commit says why. To renew them, run `pytest tests/train/test_pinned.py`: each
failing assertion shows the row to put in place of the old one in `PINNED`.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import speechssl
from speechssl.config import from_dict, to_dict
from speechssl.data.labels import FrameLabels, write_labels
from speechssl.model.encoder import EncoderConfig

PINNED = {
    "contrastive": [3.942342, 3.478677, 3.009335, 2.599007, 2.575228],
    "masked_prediction": [2.935283, 2.705167, 2.349211, 2.017372, 1.783216],
    "teacher": [1.081718, 1.045311, 0.9843932, 1.007418, 0.9882913],
    "ctc": [73.0901, 59.94937, 55.64786, 50.57079, 65.84529],
}
TOLERANCE = 1e-5  # relative; torch 2.9, 2.11 and 2.15, SSE, AVX2 and AVX-512, one and two threads differ by 5e-7
MASK = {"start_prob": 0.1, "span": 3}
OBJECTIVES = {
    "contrastive": {
        "mask": MASK,
        "dim": 8,
        "negatives": 5,
        "cross_negatives": 2,
        "quantizer": {"entries": 4, "dim": 8},
    },
    "masked_prediction": {"mask": MASK, "dim": 8, "unmasked_weight": 0.5},
    "teacher": {
        "mask": MASK,
        "form": "codebooks",
        "layers": 2,
        "ema": {"start": 0.5, "end": 0.9, "steps": 5},
        "codebooks": {"entries": 5},
        "unmasked_weight": 0.5,
    },
}
OPTIM = {"lr": 3e-3, "eps": 1e-3, "warmup": 0.4, "max_grad_norm": 2.0}  # a small eps would magnify rounding
TRAIN = {"steps": 5, "accumulate": 2, "log_every": 1}
LAYER_DROP = 0.5  # high, so that other draws of layers differ within five steps
CHANNELS = {"start_prob": 0.05, "span": 4, "min_spans": 0}


@pytest.fixture
def pretrained(
    tmp_path: Path,
    make_corpus: Callable[..., Path],
    random_labels: Callable[..., FrameLabels],
    tiny_encoder: EncoderConfig,
) -> Callable[[str], Path]:
    """Return a function that pretrains for five steps with an objective, and returns the run folder."""
    corpus = make_corpus(tmp_path / "corpus")
    transformer = dataclasses.replace(tiny_encoder.transformer, layer_drop=LAYER_DROP)
    write_labels(tmp_path / "labels.tsv", random_labels(speechssl.read_manifest(corpus)))

    def run(kind: str) -> Path:
        recipe = {
            "out": tmp_path / kind,
            "data": {"manifests": [corpus]},
            "labels": [tmp_path / "labels.tsv"] if kind == "masked_prediction" else [],
            "encoder": to_dict(dataclasses.replace(tiny_encoder, transformer=transformer)),
            "objective": {"kind": kind, **OBJECTIVES[kind]},
            "batch": {"seconds": 3.0, "max_crop_s": 0.6, "min_s": 0.1},
            "optim": OPTIM,
            "train": TRAIN,
        }
        return speechssl.pretrain(from_dict(recipe, speechssl.PretrainConfig, where=kind)).parent

    return run


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_pretraining_begins_with_these_losses(pretrained, kind, threads):
    torch.set_num_threads(threads)
    check_losses(kind, pretrained(kind))


@pytest.mark.parametrize("threads", [1, 2])
def test_fine_tuning_begins_with_these_losses(pretrained, tmp_path, threads):
    torch.set_num_threads(threads)
    recipe = {
        "out": tmp_path / "asr",
        "checkpoint": pretrained("masked_prediction"),
        "data": {"manifests": [tmp_path / "corpus/manifest.tsv"]},
        "ctc": {"mask": MASK, "channel_mask": CHANNELS, "dropout": 0.1, "freeze_steps": 2},
        "layer_drop": LAYER_DROP,
        "batch": {"seconds": 3.0, "min_s": 0.1, "max_crop_s": None},
        "optim": {**OPTIM, "schedule": "tri_stage", "hold": 0.2},
        "train": TRAIN,
    }
    run = speechssl.finetune(from_dict(recipe, speechssl.FinetuneConfig, where="ctc")).parent
    check_losses("ctc", run)


def check_losses(task: str, run: Path) -> None:
    """Compare the loss of each step with what is pinned, and show the row to put in its place."""
    found = [float(f"{json.loads(line)['loss']:.7g}") for line in (run / "log.jsonl").read_text().splitlines()]
    assert found == pytest.approx(PINNED[task], rel=TOLERANCE), f"the losses moved: {found} is not {PINNED[task]}"
