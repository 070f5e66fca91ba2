"""Every recipe can be read by the stage it is for, and its script is sound."""

import re
import subprocess
from pathlib import Path

import pytest

from speechssl.config import load, to_dict
from speechssl.corpus.fetch import corpora_named
from speechssl.stages.cluster import ClusterConfig
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.hubert_chain import HubertConfig
from speechssl.stages.hubert_recipe import resolve
from speechssl.stages.pretrain import PretrainConfig
from speechssl.stages.probe_config import ProbeConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.selftrain import SelftrainConfig

RECIPES = Path(__file__).parents[1] / "recipes"
LISTS = RECIPES.parent / "manifests"
STAGE_OF = {
    "units": ClusterConfig,
    "hubert": PretrainConfig,
    "wav2vec2": PretrainConfig,
    "best_rq": PretrainConfig,
    "iteration": PretrainConfig,
    "pretrain.": PretrainConfig,
    "small.": HubertConfig,
    "teacher.": PretrainConfig,
    "base.": HubertConfig,
    "language": ProbeConfig,
    "speaker.": ProbeConfig,
    "phones.": ProbeConfig,
    "keywords.": ProbeConfig,
    "selftrain.": SelftrainConfig,
}


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_recipe_is_read_by_its_stage(path):
    stage = next((config for prefix, config in STAGE_OF.items() if path.name.startswith(prefix)), FinetuneConfig)
    sets = ("labelled", "pool", "dev") if stage is SelftrainConfig else ("data",)
    overrides = ["out=x", *(f"{name}.manifests=[{name}.tsv]" for name in sets)]
    overrides += ["checkpoint=x"] if stage is not PretrainConfig else []
    assert load(path, stage, overrides).seed == 0


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("run.sh")), ids=lambda path: path.parent.name)
def test_a_script_parses_and_names_recipes_that_exist(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.stat().st_mode & 0o111, "not executable"
    script = path.read_text(encoding="utf-8")
    names = set(re.findall(r"\$recipe/(\w+)\.yaml", script))
    names |= {"hubert", "wav2vec2"} if "$recipe/$method.yaml" in script else set()
    names |= {"best_rq"} if "or best_rq)" in script else set()
    names |= {"pretrained", "scratch"} if "recognise()" in script else set()
    assert names or path.parent.name in ("decode", "gpu"), "it configures nothing"
    assert all((path.parent / f"{name}.yaml").exists() for name in names)
    assert all((RECIPES.parent / name).exists() for name in re.findall(r"recipes/\w+/\w+\.yaml", script))


@pytest.mark.parametrize("name", ["librispeech", *sorted(path.name for path in LISTS.iterdir() if path.is_dir())])
def test_a_script_finds_a_corpus_by_its_name(name, monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    command = ["bash", "-euc", '. recipes/which_corpus.sh; which_corpus "$1"', "bash", name]
    which = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert [corpus.name for corpus in corpora_named(which)] == [name]


def test_a_script_that_fetches_a_corpus_names_one_that_there_are_lists_of():
    names = set()
    for path in sorted(RECIPES.rglob("run.sh")):
        script = path.read_text(encoding="utf-8")
        if "--splits" in script:
            names |= set(" ".join(re.findall(r"for corpus in (.+?); do|CORPUS:-([\w-]+)", script)[0]).split())
            assert ". recipes/which_corpus.sh" in script
    assert {"festvox-ru", "asterisk"} <= names <= {path.name for path in LISTS.iterdir()}


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


@pytest.mark.parametrize("name", ["demo/hubert", "demo/wav2vec2", "registry_pool/best_rq"])
def test_the_demo_trains_the_encoder_that_learns_most_in_an_hour_on_the_pool(name):
    best = load(RECIPES / "registry_pool" / "hubert_log_mel.yaml", PretrainConfig)
    assert load(RECIPES / f"{name}.yaml", PretrainConfig).encoder == best.encoder


@pytest.mark.parametrize(
    ("name", "max_grad_norm", "shared"),
    [
        ("hubert_base/iteration1", 10.0, False),
        ("hubert_base/iteration2", 10.0, False),
        ("wav2vec2_base/pretrain", None, True),
    ],
)
def test_a_recipe_with_a_paper_s_name_draws_and_updates_as_its_code_does(name, max_grad_norm, shared):
    config = load(RECIPES / f"{name}.yaml", PretrainConfig)
    mask, optim = config.objective.mask, config.optim
    assert (mask.last_frame, mask.same_count, mask.shared_rounding) == (False, True, shared)
    assert (optim.max_grad_norm, optim.eps_before_correction, optim.warmup_from_zero) == (max_grad_norm, True, True)


def test_both_iterations_of_hubert_s_recipe_are_the_two_recipes():
    config = load(RECIPES / "hubert_iterations/base.yaml", HubertConfig)
    for number, iteration in enumerate(resolve(config), start=1):
        alone = load(RECIPES / f"hubert_base/iteration{number}.yaml", PretrainConfig)
        assert (iteration.pretrain.objective, iteration.pretrain.optim) == (alone.objective, alone.optim)


def test_the_default_of_pretraining_is_hubert_base_and_that_of_the_reference():
    default = PretrainConfig(out="x", data=DataConfig(manifests=()))
    # examples/hubert/config/pretrain/hubert_base_librispeech.yaml: optimization and optimizer
    optim = {"lr": 5e-4, "max_grad_norm": 10.0, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01, "warmup": 0.08}
    assert {key: getattr(default.optim, key) for key in optim} == optim


MEASURED = {  # fine-tuning whose figures recipes/README.md holds: dropouts as when they were measured
    "demo/pretrained": (0.0, None),
    "demo/pretrained_frozen": (0.1, None),
    "demo/scratch": (0.0, None),
    "registry_pool/pretrained": (0.1, None),
    "registry_pool/augmented": (0.1, None),
    "registry_pool/scratch": (0.0, None),
    "quality_per_compute/trained": (0.0, 0.0),
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_measured_recipe_keeps_the_dropouts_it_was_measured_with(name):
    config = load(RECIPES / f"{name}.yaml", FinetuneConfig, ["out=x", "checkpoint=x", "data.manifests=[a]"])
    assert (config.dropout, config.layer_drop) == MEASURED[name]
    assert (config.attention_dropout, config.activation_dropout, config.feature_dropout) == (None, None, None)


def test_the_control_has_the_budget_and_the_data_of_fine_tuning():
    overrides = ["out=x", "checkpoint=x", "data.manifests=[a]", "dev.manifests=[a]"]
    pretrained, scratch = (
        to_dict(load(RECIPES / "demo" / f"{name}.yaml", FinetuneConfig, overrides))
        for name in ("pretrained", "scratch")
    )
    assert (pretrained["random_weights"], scratch["random_weights"]) == (False, True)
    assert {key for key in pretrained if pretrained[key] != scratch[key]} == {"random_weights", "optim"}
    assert {key for key in pretrained["optim"] if pretrained["optim"][key] != scratch["optim"][key]} == {"lr"}
