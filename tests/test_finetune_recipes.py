"""recipes/finetune holds the reference's figures, and its script runs: on made-up audio, with a small model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from speechssl.config import load, to_dict
from speechssl.hub.saved import Description, SavedModel, build_model
from speechssl.stages.finetune import FinetuneConfig
from speechssl.train.checkpoint import read_config, read_state
from speechssl.train.optim import OptimConfig, learning_rate
from tests.conftest import voice

RECIPES = Path(__file__).parents[1] / "recipes/finetune"
#       seconds, GPUs x update_freq, updates, lr, mask_prob, channel_prob, layerdrop, frozen updates
REFERENCE = {
    "ctc_10min": (200.0, 2 * 4, 13_000, 5e-5, 0.65, 0.25, 0.1, 10_000),
    "ctc_1h": (200.0, 2 * 4, 13_000, 5e-5, 0.65, 0.25, 0.1, 10_000),
    "ctc_10h": (200.0, 2 * 4, 20_000, 5e-5, 0.65, 0.5, 0.05, 10_000),
    "ctc_100h": (200.0, 2 * 4, 80_000, 3e-5, 0.65, 0.5, 0.1, 0),
    "ctc_10h_hubert": (200.0, 1, 25_000, 2e-5, 0.75, 0.5, 0.1, 10_000),
}


def test_there_is_a_recipe_for_each_published_setting():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*REFERENCE}


@pytest.mark.parametrize("name", REFERENCE)
def test_a_recipe_has_the_figures_of_the_reference(name):
    config = load(RECIPES / f"{name}.yaml", FinetuneConfig)
    ctc = config.ctc
    assert (
        config.batch.seconds,
        config.train.accumulate,
        config.train.steps,
        config.optim.lr,
        pytest.approx(ctc.mask.start_prob * ctc.mask.span),
        pytest.approx(ctc.channel_mask.start_prob * ctc.channel_mask.span),
        config.layer_drop,
        ctc.freeze_steps,
    ) == REFERENCE[name]
    assert (ctc.mask.span, ctc.mask.min_spans, ctc.channel_mask.span, ctc.channel_mask.min_spans) == (10, 2, 64, 0)
    assert (config.dropout, config.attention_dropout, config.activation_dropout, ctc.dropout) == (0.0, 0.0, 0.1, 0.0)
    assert (config.feature_dropout, ctc.freeze_conv, config.optim.max_grad_norm) == (0.0, True, None)
    optim = config.optim
    assert (optim.betas, optim.eps, optim.weight_decay, optim.schedule) == ((0.9, 0.98), 1e-8, 0.0, "tri_stage")
    assert optim.init_scale == 0.01
    assert optim.eps_before_correction
    for mask in (ctc.mask, ctc.channel_mask):
        assert (mask.last_frame, mask.same_count) == (False, True)
    assert (ctc.lora, ctc.freeze_below, config.reset_layers, optim.layer_decay) == (None, 0, 0, 1.0)


@pytest.mark.parametrize("name", [name for name in REFERENCE if name != "ctc_10h_hubert"])
def test_the_rate_rises_for_a_tenth_and_falls_for_half_of_a_run(name):
    optim = load(RECIPES / f"{name}.yaml", FinetuneConfig).optim
    assert (optim.warmup, optim.hold, optim.final_scale) == (0.1, 0.4, 0.05)


@pytest.mark.parametrize("step", [0, 4000, 8000, 8001, 12_345, 24_999])
def test_the_rate_of_hubert_is_the_start_of_a_schedule_of_80_000_steps(step):
    ours = load(RECIPES / "ctc_10h_hubert.yaml", FinetuneConfig).optim
    theirs = OptimConfig(lr=2e-5, schedule="tri_stage", warmup=0.1, hold=0.0, init_scale=0.01, final_scale=0.05)
    assert learning_rate(step, 25_000, ours) == pytest.approx(learning_rate(step, 80_000, theirs), rel=1e-4)


def test_a_recipe_sets_no_more_than_its_own_keys():
    keys = {name: to_dict(load(RECIPES / f"{name}.yaml", FinetuneConfig)) for name in REFERENCE}
    assert all(values["seed"] == 0 and values["text"] == keys["ctc_1h"]["text"] for values in keys.values())
    assert all("fairseq's examples/" in (RECIPES / f"{name}.yaml").read_text() for name in REFERENCE)


@pytest.fixture
def published(tmp_path):
    """Make up a little of LibriSpeech and of Libri-Light's limited sets, in their layouts."""

    def add(subset: Path, speaker: int) -> None:
        folder = subset / str(speaker) / "7"
        folder.mkdir(parents=True)
        names = [f"{speaker}-7-{number:04}" for number in range(3)]
        for seed, name in enumerate(names):
            soundfile.write(str(folder / f"{name}.flac"), voice(16_000, seed=seed), 16_000)
        (folder / f"{speaker}-7.trans.txt").write_text("".join(f"{name} ONE TWO\n" for name in names))

    speech, light = tmp_path / "LibriSpeech", tmp_path / "librispeech_finetuning"
    for number, subset in enumerate(("dev-other", "test-clean", "test-other", "train-clean-100")):
        add(speech / subset, number + 1)
    for number, part in enumerate(("1h/0/clean", "1h/1/other", "9h/clean")):
        add(light / part, number + 11)
    return {"LIBRISPEECH": str(speech), "LIBRI_LIGHT": str(light)}


def rehearse(tmp_path: Path, published: dict[str, str], model: Path, *arguments: str, **variables: str):
    """Run the script as a user does, with `speechssl` on the path."""
    command = tmp_path / "bin/speechssl"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m speechssl "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"MODEL": str(model), "OUT": str(tmp_path / "out"), "PATH": path, **published, **variables}
    script = [str(RECIPES / "run.sh"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPES.parents[1]), **variables}
    return subprocess.run(script, capture_output=True, text=True, timeout=500, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["10min", "10h_hubert"])
def test_the_script_goes_from_the_published_folders_to_a_score(pretrained_tiny, published, tmp_path, chosen):
    smaller = ("train.steps=2", "train.bfloat16=false", "batch.seconds=20")
    done = rehearse(tmp_path, published, pretrained_tiny, chosen, *smaller)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "out" / chosen
    assert read_state(run / "step_00000002").is_finished
    assert read_config(run)["train"]["accumulate"] == REFERENCE[f"ctc_{chosen}"][1]
    assert set("".join(SavedModel.read(run).description.vocabulary[2:])) == set("onetw")
    assert all((run / f"{test}.json").exists() for test in ("test-clean", "test-other"))


@pytest.fixture
def pretrained_tiny(tmp_path, make_corpus, tiny_encoder):
    """Give a folder of a pretrained model, small."""
    description = Description(encoder=tiny_encoder)
    torch.manual_seed(0)
    tensors = dict(build_model(description).state_dict())
    SavedModel(description=description, tensors=tensors, name="tiny").write(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    ("arguments", "gpus", "said"),
    [
        (["5h"], "1", "no such set: 5h"),
        (["1h"], "3", "1h takes 8 batches a step: GPUS must divide it, found 3"),
        ([], "1", "say which set"),
    ],
)
def test_the_script_says_what_it_cannot_do(tmp_path, arguments, gpus, said):
    done = rehearse(tmp_path, {}, tmp_path, *arguments, GPUS=gpus)
    assert done.returncode != 0
    assert said in done.stderr
