"""Every recipe can be read by the stage it is for, and its script is sound."""

import subprocess
from pathlib import Path

import pytest

from speechssl.config import load
from speechssl.stages.cluster import ClusterConfig
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.pretrain import PretrainConfig

RECIPES = Path(__file__).parents[1] / "recipes"
STAGE_OF = {"units": ClusterConfig, "hubert": PretrainConfig, "wav2vec2": PretrainConfig, "iteration": PretrainConfig}


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
