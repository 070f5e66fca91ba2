"""Recipes of HuBERT iterations: what becomes of the stages' configurations, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from speechssl.config import describe, load, to_dict
from speechssl.errors import ConfigError
from speechssl.model.encoder import EncoderConfig
from speechssl.stages.cluster import ClusterConfig
from speechssl.stages.hubert_recipe import HubertConfig, resolve

TWO = [
    {"units": {"clusters": 5}},
    {"units": {"layer": 2, "clusters": 4}, "pretrain": {"train": {"steps": 4}}},
]
SWEPT = [TWO[0], {**TWO[1], "units": {"layer": "auto", "clusters": 4}}]


@pytest.fixture
def make(tmp_path: Path, tiny_encoder: EncoderConfig) -> Callable[..., HubertConfig]:
    """Give a function that reads a recipe of two iterations; nothing it names is there."""
    pretrain = {
        "encoder": to_dict(tiny_encoder),
        "objective": {"dim": 8, "mask": {"start_prob": 0.1, "span": 3}},
        "train": {"steps": 3, "log_every": 1},
    }
    recipe = {"out": str(tmp_path / "run"), "data": {"manifests": ["a.tsv"]}, "iterations": TWO}
    recipe |= {"units": {"iterations": 5}, "pretrain": pretrain}

    def read(**changes: object) -> HubertConfig:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe | changes), encoding="utf-8")
        return load(path, HubertConfig)

    return read


def test_sections_are_laid_over_the_shared_ones(make, tiny_encoder):
    first, second = resolve(make())
    assert (first.pretrain.train.steps, second.pretrain.train.steps) == (3, 4)
    assert second.pretrain.train.log_every == 1
    assert first.pretrain.encoder == second.pretrain.encoder == tiny_encoder
    assert (first.pretrain.objective.mask.span, first.pretrain.objective.feature_penalty) == (3, 10.0)
    assert isinstance(first.units, ClusterConfig)
    assert first.units.iterations == second.units.iterations == 5
    assert (first.units.features, second.units.features) == ("mfcc", "layer")
    assert first.sweep is None


def test_the_whole_plan_is_shown_before_anything_runs(make):
    config = make(phones="p.tsv", sweep={"clusters": [4]}, iterations=SWEPT)
    lines = {line.split()[0]: line.split()[1:] for line in describe(config)}
    assert lines["plan.iteration_1.units.clusters"] == ["5", "*"]
    assert lines["plan.iteration_2.units.layer"] == ["auto", "*"]
    assert lines["plan.iteration_2.units.fit_hours"] == ["10.0"]
    assert lines["plan.iteration_2.sweep.checkpoint"] == [str(config.out / "1-pretrain"), "*"]
    assert lines["plan.iteration_2.pretrain.train.steps"] == ["4", "*"]
    assert resolve(config)[1].units.layer != "auto"  # only shown
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": [{"unitz": {}}]}, r"unknown key iterations\.1\.unitz; did you mean iterations\.units"),
        ({"iterations": [{"units": {"clustres": 3}}]}, r"iterations\.1\.units: unknown key clustres; did you mean clu"),
        (
            {"iterations": [{}, {"units": {"layer": 1}, "pretrain": {"train": {"stpes": 3}}}]},
            r"iterations\.2\.pretrain: unknown key train\.stpes; did you mean train\.steps",
        ),
        ({"units": {"itrations": 3}}, "yaml: units: unknown key itrations; did you mean iterations"),
        ({"sweep": {"cluster": [3]}}, "yaml: sweep: unknown key cluster; did you mean clusters"),
        ({"iterations": []}, "iterations is empty; list at least one"),
        ({"plan": {"iterations": []}}, "yaml: unknown key plan; did you mean pretrain"),  # shown, never set
        ({"iterations": [{}, {}]}, r"iterations\.2\.units\.layer is missing; name one$"),
        ({"iterations": [{"units": {"features": "layer", "layer": 1}}]}, r"iterations\.1\..* no previous model"),
        ({"iterations": [{"start": "continue"}]}, r"iterations\.1\.start=continue: there is no previous model"),
        ({"iterations": [{"units": {"clusters": "auto"}}]}, r"iterations\.1\.units\.clusters=auto needs phones"),
        ({"iterations": [{"units": {"layer": "auto"}}], "phones": "p"}, r"layer=auto: mfcc has no layers"),
        (
            {"iterations": [{}, {"units": {"layer": "auto", "clusters": 7}}], "phones": "p"},
            r"iterations\.2\.units\.layer=auto: the sweep measures \[50, 100, 200, 500\] units, expected 7 among them",
        ),
        ({"iterations": [{"units": {"seed": 3}}]}, r"iterations\.1\.units\.seed is set by the chain"),
        (
            {"pretrain": {"objective": {"kind": "contrastive"}}},
            r"iterations\.1\.pretrain\.objective\.kind=contrastive: expected masked_prediction",
        ),
        ({"pretrain": {"labels": ["x"]}}, r"yaml: pretrain\.labels is set by the chain"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused_before_it_starts(make, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_a_model_that_goes_on_has_its_own_encoder(make):
    config = make(iterations=[TWO[0], {**TWO[1], "start": "continue"}])
    second = resolve(config)[1].pretrain
    assert (second.encoder, second.checkpoint, second.fresh_head) == (None, config.out / "1-pretrain", True)


def test_a_model_from_elsewhere_may_come_before_the_first_iteration(make):
    (first,) = resolve(make(checkpoint="theirs", iterations=[TWO[1]]))
    assert (first.units.features, first.units.checkpoint, first.pretrain.checkpoint) == ("layer", Path("theirs"), None)


def test_held_out_speech_has_the_centroids_of_the_rest(make):
    config = make(dev={"manifests": ["dev.tsv"]})
    _, second = resolve(config)
    assert second.dev_units.kmeans == config.out / "2-units/kmeans.safetensors"
    assert (second.dev_units.layer, second.dev_units.data) == (2, config.dev)
    names = ("2-units", "2-dev-units")
    assert second.pretrain.labels == (tuple(config.out / name / "labels.tsv" for name in names),)


def test_the_sweep_reads_features_as_the_units_will(make):
    units = {"standardise": True, "extract": {"window_s": 20.0, "overlap_s": 5.0}}
    config = make(
        units=units, phones="p.tsv", sweep={"clusters": [4], "data": {"manifests": ["dev.tsv"]}}, iterations=SWEPT
    )
    first, second = resolve(config)
    assert first.sweep is None
    assert (second.sweep.standardise, second.sweep.extract) == (True, second.units.extract)
    assert second.sweep.data.manifests == (Path("dev.tsv"),)
    assert second.sweep.checkpoint == second.units.checkpoint


def test_the_number_of_units_of_mfcc_may_be_swept_too(make):
    iterations = [{"units": {"features": "mfcc", "clusters": "auto"}}]
    (first,) = resolve(make(phones="p.tsv", sweep={"random_weights": True, "layers": [3]}, iterations=iterations))
    assert (first.sweep.baselines, first.sweep.checkpoint, first.sweep.layers) == (("mfcc",), None, ())
