"""Every recipe can be read by the stage it is for, and its script is sound."""

import re
import subprocess
from pathlib import Path

import pytest

from speechssl.config import load, to_dict
from speechssl.model.encoder import EncoderConfig
from speechssl.stages.cluster import ClusterConfig
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.hubert import HubertConfig
from speechssl.stages.pretrain import PretrainConfig

RECIPES = Path(__file__).parents[1] / "recipes"
STAGE_OF = {
    "units": ClusterConfig,
    "hubert": PretrainConfig,
    "wav2vec2": PretrainConfig,
    "iteration": PretrainConfig,
    "pretrain.": PretrainConfig,
    "small.": HubertConfig,
    "base.": HubertConfig,
}


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_recipe_is_read_by_its_stage(path):
    stage = next((config for prefix, config in STAGE_OF.items() if path.name.startswith(prefix)), FinetuneConfig)
    overrides = ["out=x", "data.manifests=[a.tsv]"]
    overrides += ["checkpoint=x"] if stage is not PretrainConfig else []
    assert load(path, stage, overrides).seed == 0


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("run.sh")), ids=lambda path: path.parent.name)
def test_a_script_parses_and_names_recipes_that_exist(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.stat().st_mode & 0o111, "not executable"
    script = path.read_text(encoding="utf-8")
    names = set(re.findall(r"\$recipe/(\w+)\.yaml", script))
    names |= {"hubert", "wav2vec2"} if "$recipe/$method.yaml" in script else set()
    names |= {"pretrained", "scratch"} if "recognise()" in script else set()
    assert names or path.parent.name in ("decode", "gpu"), "it configures nothing"
    assert all((path.parent / f"{name}.yaml").exists() for name in names)
    assert all((RECIPES.parent / name).exists() for name in re.findall(r"recipes/\w+/\w+\.yaml", script))


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_script_that_a_recipe_refers_to_exists(path):
    scripts = re.findall(r"recipes/\w+/\w+\.sh", path.read_text(encoding="utf-8"))
    assert all((RECIPES.parent / name).exists() for name in scripts)


def test_a_recipe_that_sets_one_key_keeps_the_stages_other_defaults(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("out: x\ncheckpoint: x\ndata: {manifests: [a]}\noptim: {lr: 0.5}\nctc: {mask: {span: 3}}\n")
    config = load(path, FinetuneConfig)
    assert (config.optim.lr, config.optim.schedule, config.optim.eps) == (0.5, "tri_stage", 1e-8)
    assert (config.ctc.mask.span, config.ctc.mask.start_prob) == (3, 0.065)
    path.write_text("out: x\ndata: {manifests: [a]}\nobjective: {kind: contrastive, mask: {span: 3}}\n")
    objective = load(path, PretrainConfig).objective
    assert (objective.kind, objective.mask.span, objective.mask.start_prob) == ("contrastive", 3, 0.065)
    path.write_text("out: x\ndata: {manifests: [a]}\nobjective: {mask: {span: 3}}\n")
    objective = load(path, PretrainConfig).objective
    assert (objective.kind, objective.mask.span, objective.mask.start_prob) == ("masked_prediction", 3, 0.08)


@pytest.mark.parametrize("name", ["hubert", "wav2vec2"])
def test_the_demo_trains_the_small_encoder(name):
    config = load(RECIPES / "demo" / f"{name}.yaml", PretrainConfig)
    assert config.encoder == EncoderConfig.small()


def test_the_control_has_the_budget_and_the_data_of_fine_tuning():
    overrides = ["out=x", "checkpoint=x", "data.manifests=[a]", "dev.manifests=[a]"]
    pretrained, scratch = (
        to_dict(load(RECIPES / "demo" / f"{name}.yaml", FinetuneConfig, overrides))
        for name in ("pretrained", "scratch")
    )
    assert (pretrained["random_weights"], scratch["random_weights"]) == (False, True)
    assert {key for key in pretrained if pretrained[key] != scratch[key]} <= {
        "random_weights",
        "ctc",
        "dropout",
        "optim",
    }
    assert pretrained["batch"] == scratch["batch"]
    assert pretrained["train"] == scratch["train"]
    assert {key for key in pretrained["optim"] if pretrained["optim"][key] != scratch["optim"][key]} <= {"lr", "warmup"}
    assert (pretrained["ctc"]["freeze_conv"], scratch["ctc"]["freeze_conv"]) == (True, False)
