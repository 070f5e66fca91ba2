"""A task of a third-party package, docs/examples/apc: found, trained, resumed, monitored, planned, converted."""

import dataclasses
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from speechssl.__main__ import main
from speechssl.config import from_dict, load, to_dict
from speechssl.errors import ConfigError, LabelError
from speechssl.hub.saved import SavedModel
from speechssl.hub.transformers import read_transformers
from speechssl.inference.load import load as load_model
from speechssl.model.context import StepContext
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.stages.convert import convert
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.registry import all_tasks, find_method, find_task
from speechssl.tasks.task import DataSizes
from speechssl.train import learner
from speechssl.train.learner import TrainConfig
from speechssl.train.monitor import HealthConfig, Monitor
from tests.model.tiny import noise
from tests.tasks.labelled import labelled

EXAMPLE = Path(__file__).parents[2] / "docs/examples/apc"
MASKED_TRUNK = {"encoder.mask_vector"}


def install(folder: Path, entry_points: dict[str, str]) -> None:
    """Make the files by which Python finds the entry points of an installed package."""
    info = folder / "speechssl_apc-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: speechssl-apc\nVersion: 0.1\n")
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[speechssl.tasks]", *lines, ""]))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the example, as its pyproject.toml says, for one test."""
    site = tmp_path / "site"
    described = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))
    install(site, described["project"]["entry-points"]["speechssl.tasks"])
    for module in described["tool"]["setuptools"]["py-modules"]:
        shutil.copy(EXAMPLE / f"{module}.py", site)
    monkeypatch.syspath_prepend(str(site))


@pytest.fixture
def recipe(
    tmp_path: Path, make_corpus: Callable[..., Path], tiny_encoder: EncoderConfig
) -> Callable[..., PretrainConfig]:
    """Return a function that reads a recipe with four steps."""
    manifest = make_corpus(tmp_path / "corpus")

    def read(name: str, **changes: object) -> PretrainConfig:
        values = {
            "out": str(tmp_path / name),
            "data": to_dict(DataConfig(manifests=(manifest,))),
            "encoder": to_dict(tiny_encoder),
            "objective": {"kind": "apc", "ahead": 2, "bands": 4},
            "batch": {"seconds": 3.0, "max_crop_s": 0.6, "min_s": 0.1},
            "optim": {"lr": 1e-2, "warmup": 0.0},
            "train": {"steps": 4, "log_every": 1, "save_every": 2, "log": {"tensorboard": False}},
        }
        return dataclasses.replace(from_dict(values, PretrainConfig, where="recipe"), **changes)

    return read


@pytest.mark.usefixtures("installed")
def test_it_is_a_choice_of_the_recipe_with_its_own_strict_keys(recipe) -> None:
    assert recipe("run").objective == find_task("apc").config_type(ahead=2, bands=4)
    assert [*all_tasks()][-1] == "apc"
    values = to_dict(recipe("run")) | {"objective": {"kind": "apc", "aheed": 2}}
    with pytest.raises(ConfigError, match=r"unknown key objective\.aheed; did you mean objective\.ahead\?"):
        from_dict(values, PretrainConfig, where="recipe")


def test_a_kind_that_nothing_has_is_named_with_those_that_are_there() -> None:
    with pytest.raises(
        ConfigError,
        match=r"no task is called 'apc', found contrastive, masked_prediction, random_projection, teacher, ctc;",
    ):
        find_task("apc")
    with pytest.raises(
        ConfigError, match=r"method 'apc' is not known, expected one of wav2vec2, hubert, best-rq, data2vec"
    ):
        find_method("apc")


@pytest.mark.usefixtures("installed")
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(recipe) -> None:
    straight = SavedModel.read(pretrain(recipe("straight")))
    seeded = learner.seeded_context

    def broken(seed: int, step: int, number: int) -> StepContext:
        if step == 3:
            raise RuntimeError("the lights went out")
        return seeded(seed, step, number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="the lights went out"):
        patch.setattr(learner, "seeded_context", broken)
        pretrain(recipe("halves"))
    assert [path.name for path in recipe("halves").out.glob("step_*")] == ["step_00000002"]
    resumed = SavedModel.read(pretrain(recipe("halves")))
    for name, tensor in straight.tensors.items():
        torch.testing.assert_close(resumed.tensors[name], tensor, rtol=0, atol=0)
    assert straight.description.method == "apc"
    assert {"objective.predict.weight", "objective.predict.bias"} < {*straight.tensors}


@pytest.mark.usefixtures("installed")
def test_it_learns_and_its_own_band_tells_when_it_does_not(tiny_encoder: EncoderConfig) -> None:
    task, config = find_task("apc"), find_task("apc").config_type(ahead=2, bands=4)
    torch.manual_seed(0)
    model = task.build(config, SpeechEncoder(tiny_encoder), DataSizes())
    monitor = Monitor(HealthConfig(patience=1, grace_steps=0), model.health())
    assert [alarm.name for alarm in monitor.check(1, 9, {"apc_loss": 0.8, "spectrum_size": 0.8})] == ["no_prediction"]
    assert monitor.check(2, 9, {"apc_loss": 0.7, "spectrum_size": 0.8}) == []
    tone = torch.sin(torch.arange(4000) * torch.linspace(0.01, 0.4, 4000)).repeat(4, 1) + noise(4, 4000) / 100
    batch = dataclasses.replace(labelled(), waveforms=tone, num_samples=torch.tensor([4000, 4000, 3000, 2000]))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        loss = model(batch, StepContext(step=step, generator=torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        (loss.value / loss.count).backward()
        optimizer.step()
        losses.append(float(loss.parts["apc_loss"]))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.usefixtures("installed")
def test_nothing_of_the_hidden_frames_is_heard(tiny_encoder: EncoderConfig) -> None:
    model = find_task("apc").build(
        find_task("apc").config_type(ahead=2, bands=4), SpeechEncoder(tiny_encoder), DataSizes()
    )
    waveforms = noise(1, 4000)
    changed = waveforms.clone()
    changed[:, 3000:] = 0
    counts, samples = model.encoder.count_frames(torch.tensor([4000])), torch.tensor([4000])
    is_masked = torch.arange(int(counts)) >= int(model.encoder.count_frames(torch.tensor([3000]))) - 1
    outputs = [model.eval().encoder(x, samples, is_masked[None]).last[0, is_masked] for x in (waveforms, changed)]
    if tiny_encoder.conv_norm == "layer":  # a group norm's statistics are of the whole waveform
        torch.testing.assert_close(*outputs)


@pytest.mark.usefixtures("installed")
def test_it_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "plan.yaml"
    arguments = ["--hours", "10", "--days", "1", "--method", "apc", "--size", "small", "--out", str(recipe)]
    assert main(["plan", *arguments]) == 0
    said = capsys.readouterr().out
    assert "M parameters, apc" in said
    assert "lr          0.0005 at its peak, that of the task" in said
    planned = load(recipe, PretrainConfig)
    assert planned.objective == find_task("apc").config_type(ahead=3)
    assert (planned.optim.max_grad_norm, planned.optim.lr) == (1.0, 5e-4)
    assert main(["plan", "--hours", "1000", "--days", "100", "--method", "apc", "--size", "base"]) == 0


@pytest.mark.usefixtures("installed")
def test_its_trunk_is_heard_and_converted_without_the_head(recipe, tmp_path: Path) -> None:
    run = pretrain(recipe("run", train=TrainConfig(steps=1)))
    model = load_model(run)
    assert model.features(noise(8_000), 16_000).values.shape[1] == model.dim
    converted = convert(run, tmp_path / "theirs", "transformers")
    head = {name: reason for name, reason in converted.dropped.items() if name.startswith("objective.")}
    assert {*head} == {"objective.predict.weight", "objective.predict.bias"}
    assert "no other toolkit knows objective.kind=apc" in head["objective.predict.bias"]
    again = read_transformers(tmp_path / "theirs").model
    for name in {*SavedModel.read(run).without_head().tensors} - MASKED_TRUNK:
        torch.testing.assert_close(again.tensors[name], SavedModel.read(run).tensors[name])


def test_a_model_of_a_package_that_is_gone_says_what_to_install(recipe, tmp_path: Path, installed, monkeypatch) -> None:
    run = pretrain(recipe("run", train=TrainConfig(steps=1)))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"objective: Input tag 'apc' .*; install the package that adds another"):
        SavedModel.read(run)


@pytest.mark.usefixtures("installed")
def test_labels_are_refused_by_a_task_that_needs_none(tiny_encoder: EncoderConfig) -> None:
    task = find_task("apc")
    with pytest.raises(LabelError, match=r"objective\.kind=apc takes no labels; remove the key labels"):
        task.build(task.config_type(), SpeechEncoder(tiny_encoder), DataSizes(clusters=(5,)))


BROKEN = """
from dataclasses import dataclass
from typing import ClassVar, Literal
from speechssl.config import configuration
from speechssl.tasks.task import Task

@configuration
class WithoutKind:
    size: int = 1

@configuration
class Config:
    kind: Literal["{kind}"] = "{kind}"

class Broken(Task):
    kind = "{kind}"
    {rest}

TASK = Broken()
"""
COMPLETE = 'method = "mine"; title = "mine"; config_type = Config'


@pytest.mark.parametrize(
    ("name", "rest", "said"),
    [
        ("untyped", 'method = "m"; title = "t"', "found no config_type"),
        ("untitled", 'method = "m"; config_type = Config', "found no title"),
        (
            "kindless",
            'method = "m"; title = "t"; config_type = WithoutKind',
            "expected the configuration to have",
        ),
        ("taken", 'method = "hubert"; title = "t"; config_type = Config', "the method hubert is taken"),
        (
            "needy",
            f'{COMPLETE}; needs = frozenset({{"colours"}})',
            "expected needs among labels",
        ),
        ("whole", COMPLETE, ""),
    ],
)
def test_an_incomplete_task_is_named_and_breaks_nothing_else(
    tmp_path, monkeypatch, capsys, recipe, name, rest, said
) -> None:
    site = tmp_path / "site"
    install(site, {name: f"broken_{name}:TASK"})
    (site / f"broken_{name}.py").write_text(BROKEN.format(kind=name, rest=rest))
    monkeypatch.syspath_prepend(str(site))
    values = {"out": "run", "data": {"manifests": ["a.tsv"]}, "objective": {"kind": "contrastive"}}
    assert from_dict(values, PretrainConfig, where="recipe").objective.kind == "contrastive"
    assert (name in all_tasks()) == (not said)
    err = capsys.readouterr().err
    assert err.count("left out: ") == (1 if said else 0)  # not once a recipe
    assert said in err


@pytest.mark.usefixtures("installed")
def test_a_recogniser_on_its_trunk_is_converted(recipe, tmp_path: Path) -> None:
    trunk = SavedModel.read(pretrain(recipe("run", train=TrainConfig(steps=1)))).without_head()
    assert trunk.description.family == "apc"
    trunk.write(tmp_path / "trunk")
    converted = convert(tmp_path / "trunk", tmp_path / "theirs", "transformers")
    assert "no other toolkit knows the method apc" in converted.dropped["family"]


def test_a_package_whose_task_cannot_be_imported_is_named_and_left_out(tmp_path: Path, monkeypatch, capsys) -> None:
    install(tmp_path / "site", {"broken": "no_such_module:TASK", "wrong": "pathlib:Path", "ctc": "mine:TASK"})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert "broken" not in all_tasks() and "wrong" not in all_tasks()
    said = capsys.readouterr().err
    assert "left out: the task broken of speechssl-apc cannot be imported (No module named 'no_such_module')" in said
    assert "left out: the task wrong of speechssl-apc: expected an instance of Task, found type" in said
    assert "left out: the task ctc = mine:TASK: the kind is taken; give it another name" in said
    with pytest.raises(ConfigError, match="cannot be imported"):
        find_task("broken")
