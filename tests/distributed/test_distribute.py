"""Two processes learn the same as one, with DDP and FSDP2, and resume from each other's checkpoints."""

import dataclasses
import functools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from speechssl.config import to_dict
from speechssl.data.batching import BatchConfig
from speechssl.data.labels import write_labels
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.hub.saved import SavedModel
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.train.checkpoint import read_parameters, verify
from speechssl.train.distributed import ParallelConfig
from speechssl.train.learner import TrainConfig
from speechssl.train.sharded import has_shares
from tests.distributed.launching import torchrun
from tests.distributed.training import ALONE, CASES, EXCHANGES, MASK, STEPS, Case, Training

SLOW = [name for name in CASES if name.endswith("compiled")]
FAST = [name for name in CASES if name not in SLOW]
MODES = ("ddp", "fsdp")


@dataclass(frozen=True, kw_only=True)
class Seen:
    losses: list[float]
    norms: list[float]
    evaluated: float
    weights: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "Seen":
        return cls(**json.loads(path.with_suffix(".json").read_text()), weights=load_file(f"{path}.safetensors"))


def see(training: Training) -> Seen:
    return Seen(losses=training.losses, norms=training.norms, evaluated=training.evaluate(), weights=training.weights())


@functools.cache
def alone(case: Case, steps: int = STEPS) -> Seen:
    return see(Training(case, ALONE).step(steps))


def assert_alike(found: Seen, expected: Seen) -> None:
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.norms == pytest.approx(expected.norms, rel=1e-5)
    assert found.evaluated == pytest.approx(expected.evaluated, rel=1e-5)
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=1e-5)


def launch(out: Path, *names: str) -> None:
    done = torchrun(Path(__file__).with_name("training.py"), out, *names)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, make_corpus, random_labels, tiny_encoder) -> PretrainConfig:
    """Return a run with all options: a sharded model, recomputed layers, scores on dev audio."""
    folder = tmp_path_factory.mktemp("recipe")
    manifest = make_corpus(folder / "corpus")
    write_labels(folder / "labels.tsv", random_labels(read_manifest(manifest)))
    rows = read_manifest(manifest).utterances
    for name, part in (("train", rows[:6]), ("valid", rows[6:])):
        write_manifest(folder / f"corpus/{name}.tsv", part)
    parallel = ParallelConfig(mode="fsdp", activation_checkpointing=True, sharded_checkpoints=True)
    config = PretrainConfig(
        out=folder / "together",
        data=DataConfig(manifests=(folder / "corpus/train.tsv",)),
        dev=DataConfig(manifests=(folder / "corpus/valid.tsv",)),
        labels=(folder / "labels.tsv",),
        encoder=tiny_encoder,
        objective=MaskedPredictionConfig(mask=MASK, dim=8),
        batch=BatchConfig(seconds=2.0, max_crop_s=1.0, min_s=0.1),
        train=TrainConfig(steps=3, log_every=1, save_every=1, eval_every=1, keep=9, parallel=parallel),
    )
    (folder / "together.yaml").write_text(yaml.safe_dump(to_dict(config)))
    return config


@pytest.fixture(scope="module")
def together(tmp_path_factory, recipe: PretrainConfig) -> Path:
    """Return the folder with the results of two processes, and `alone`, the checkpoint of one process after a step."""
    out = tmp_path_factory.mktemp("together")
    Training(CASES["ddp-early_epsilon"].alone(), ALONE).step().save(out / "alone", in_shares=False)
    launch(out, *FAST, "exchanges", "checkpoints", str(recipe.out.with_suffix(".yaml")))
    return out


@pytest.mark.parametrize("name", FAST)
def test_two_processes_learn_what_one_learns(together: Path, name: str) -> None:
    assert_alike(Seen.read(together / name), alone(CASES[name].alone()))


def test_the_runs_compared_above_move_their_weights_and_drop_layers() -> None:
    start, end = Training(CASES["ddp-hubert"], ALONE), alone(CASES["ddp-hubert"].alone())
    moved = [name for name, tensor in start.weights().items() if (tensor - end.weights[name]).abs().max() > 1e-4]
    assert len(moved) > len(end.weights) / 2
    kept = {tuple(start.model.train().encoder.transformer.draw_kept_layers(seed)) for seed in range(9)}
    assert len(kept) > 2
    assert end.losses != alone(CASES["ddp-static"].alone()).losses


@pytest.mark.parametrize(("name", "collective"), EXCHANGES.items())
def test_accumulated_batches_exchange_their_gradients_once(together: Path, name: str, collective: str) -> None:
    one, two = (seen[collective] for seen in json.loads((together / "exchanges.json").read_text())[name])
    assert one == two > 1


@pytest.mark.parametrize("kind", ["whole", "shares"])
def test_a_run_of_shares_goes_on_bit_for_bit(together: Path, kind: str) -> None:
    straight, resumed = (Seen.read(together / name) for name in ("fsdp-straight", f"fsdp-resumed-{kind}"))
    assert resumed.losses == straight.losses[1:]
    assert all(torch.equal(tensor, resumed.weights[name]) for name, tensor in straight.weights.items())


def test_a_run_of_replicas_goes_on_bit_for_bit(together: Path) -> None:
    straight, resumed = (Seen.read(together / name) for name in ("ddp-straight", "ddp-resumed-whole"))
    assert resumed.losses == straight.losses[1:]
    assert all(torch.equal(tensor, resumed.weights[name]) for name, tensor in straight.weights.items())


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_go_on_from_the_checkpoint_of_one(together: Path, mode: str) -> None:
    straight, resumed = (Seen.read(together / name) for name in (f"{mode}-straight", f"{mode}-resumed-alone"))
    assert resumed.losses == pytest.approx(straight.losses[1:], rel=1e-5)
    torch.testing.assert_close(resumed.weights, straight.weights, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ddp-whole", "fsdp-whole", "fsdp-shares"])
def test_one_process_goes_on_from_the_checkpoint_of_two(together: Path, name: str) -> None:
    straight = alone(CASES["ddp-early_epsilon"].alone(), 2)
    resumed = see(Training(CASES["ddp-early_epsilon"].alone(), ALONE).load(together / name / "step_00000001").step())
    assert resumed.losses == pytest.approx(straight.losses[1:], rel=1e-5)
    torch.testing.assert_close(resumed.weights, straight.weights, rtol=0, atol=1e-5)


def test_shares_hold_what_the_whole_checkpoint_holds(together: Path) -> None:
    shares, whole = (together / f"fsdp-{kind}/step_00000001" for kind in ("shares", "whole"))
    assert has_shares(shares) and not has_shares(whole)
    found, expected = read_parameters(shares), read_parameters(whole)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_each_process_writes_about_half_and_nothing_is_a_pickle(together: Path) -> None:
    folder = together / "fsdp-shares/step_00000001"
    verify(folder)
    sizes = [sum(path.stat().st_size for path in folder.glob(f"shard-0000{rank}-*")) for rank in (1, 2)]
    assert 0.5 < sizes[0] / sizes[1] < 2
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_a_process_that_dies_while_saving_leaves_the_checkpoint_before(together: Path, tmp_path: Path) -> None:
    shutil.copytree(together / "fsdp-shares", tmp_path / "run")
    (tmp_path / "run/.step_00000002.tmp").mkdir()
    (tmp_path / "run/.step_00000002.tmp/shard-00001-model-00001-of-00002.safetensors").write_bytes(b"half")
    again = Training(CASES["ddp-early_epsilon"].alone(), ALONE).load(tmp_path / "run/step_00000001")
    again.step().save(tmp_path / "run", in_shares=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["step_00000001", "step_00000002"]


def in_one_process(recipe: PretrainConfig, name: str) -> PretrainConfig:
    """Return the run for one process: with as many batches per step, in another folder."""
    return dataclasses.replace(
        recipe, out=recipe.out.with_name(name), train=dataclasses.replace(recipe.train, accumulate=2)
    )


def log(run: Path, name: str = "log.jsonl") -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{key: line[key] for key in ("step", "loss", "grad_norm", "dev_loss") if key in line} for line in lines]


def assert_same_run(run: Path, other: Path) -> None:
    assert log(run) == [pytest.approx(line, rel=1e-5) for line in log(other)]
    ours, theirs = (SavedModel.read(path / "step_00000003").tensors for path in (run, other))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)  # a fifth of Adam's first steps


def test_a_recipe_on_two_processes_is_the_run_of_one(together: Path, recipe: PretrainConfig) -> None:
    pretrain(in_one_process(recipe, "one"))
    assert has_shares(recipe.out / "step_00000003") and not has_shares(recipe.out.with_name("one") / "step_00000003")
    assert [line["step"] for line in log(recipe.out) if "dev_loss" in line] == [1, 2, 3]
    assert_same_run(recipe.out, recipe.out.with_name("one"))


def test_two_processes_that_go_on_repeat_the_step_of_the_uninterrupted_run(together: Path, recipe: PretrainConfig):
    superseded = log(recipe.out, "log.superseded.jsonl")
    assert [line["step"] for line in superseded] == [3, 3]  # one line of training, one of evaluation
    assert log(recipe.out)[-2:] == superseded


def test_one_process_goes_on_with_a_run_of_shares(together: Path, recipe: PretrainConfig) -> None:
    config = in_one_process(recipe, "taken_up")
    shutil.copytree(recipe.out, config.out)
    for step in (2, 3):
        shutil.rmtree(config.out / f"step_{step:08d}")
    pretrain(config)
    assert_same_run(config.out, recipe.out)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on CPU")
def test_compiled_layers_learn_the_same(tmp_path: Path) -> None:
    launch(tmp_path, *SLOW)
    for name in SLOW:
        assert_alike(Seen.read(tmp_path / name), alone(CASES[name].alone()))
