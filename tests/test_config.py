"""Strict loading of configurations from recipes and overrides."""

import dataclasses
from pathlib import Path

import pytest

from speechssl.config import as_yaml, describe, flatten, from_dict, load, to_dict, to_stored
from speechssl.data.batching import BatchConfig
from speechssl.errors import ConfigError
from speechssl.model.encoder import EncoderConfig
from speechssl.model.masking import MaskConfig
from speechssl.stages.cluster import ClusterConfig
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.pretrain import PretrainConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.train.learner import TrainConfig
from speechssl.train.optim import OptimConfig

PRETRAIN = "out: run\ndata: {manifests: [train.tsv]}\n"
FINETUNE = PRETRAIN + "checkpoint: pretrained\n"


@pytest.fixture
def recipe(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_values_of_the_recipe_are_taken_and_the_rest_are_defaults(recipe):
    config = load(recipe(PRETRAIN + "seed: 3\nencoder: {conv_bias: true}\n"), PretrainConfig)
    assert config == PretrainConfig(
        out=Path("run"),
        data=DataConfig(manifests=(Path("train.tsv"),)),
        seed=3,
        encoder=EncoderConfig(conv_bias=True),
    )


@pytest.mark.parametrize(
    ("line", "key", "close"),
    [
        ("sead: 1", "sead", "seed"),
        ("batch: {second: 4}", "batch.second", "batch.seconds"),
        ("encoder: {transformer: {num_layer: 2}}", "encoder.transformer.num_layer", "encoder.transformer.num_layers"),
        ("objective: {kind: masked_prediction, mask: {prob: 0.1}}", "objective.mask.prob", "objective.mask.start_prob"),
        ("objective: {kind: contrastive, mask: {prob: 0.1}}", "objective.mask.prob", "objective.mask.start_prob"),
        ("objective: {kind: contrastive, negative: 5}", "objective.negative", "objective.negatives"),
        (
            "objective: {kind: contrastive, quantizer: {groop: 5}}",
            "objective.quantizer.groop",
            "objective.quantizer.groups",
        ),
    ],
)
def test_an_unknown_key_names_the_file_the_key_and_the_closest_known_one(recipe, line, key, close):
    path = recipe(PRETRAIN + line)
    with pytest.raises(ConfigError) as error:
        load(path, PretrainConfig)
    assert str(error.value) == f"{path}: unknown key {key}; did you mean {close}?"


def test_an_unknown_key_that_resembles_nothing_is_named_alone(recipe):
    path = recipe(PRETRAIN + "zzzzzz: 1")
    with pytest.raises(ConfigError) as error:
        load(path, PretrainConfig)
    assert str(error.value) == f"{path}: unknown key zzzzzz"


def test_every_wrong_key_is_reported_at_once(recipe):
    with pytest.raises(ConfigError, match=r"(?s)unknown key train\.step;.*unknown key sead;"):
        load(recipe(PRETRAIN + "sead: 1\ntrain: {step: 4}"), PretrainConfig)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed: many", r"recipe\.yaml: seed: .*integer.*found 'many'"),
        ("train: {steps: 1.5}", r"train\.steps: .*integer.*found 1\.5"),
        ("train: 5", r"train has the keys accumulate, .*found 5; give these, or \{\} for their defaults"),
        ("encoder: {transformer: x}", r"encoder\.transformer has the keys activation_dropout, .*found 'x'"),
        ("optim: {schedule: cosine}", r"optim\.schedule: .*'polynomial' or 'tri_stage', found 'cosine'"),
        ("optim: {lr: .nan}", r"optim\.lr: .*finite"),
        ("encoder: {conv: [[8, 10]]}", r"encoder\.conv\.1\.3 is required"),
        ("objective: {kind: contrastive, negatives: few}", r"recipe\.yaml: objective\.negatives: .*found 'few'"),
    ],
)
def test_a_value_of_the_wrong_type_names_its_key_and_what_was_found(recipe, line, message):
    with pytest.raises(ConfigError, match=message):
        load(recipe(PRETRAIN + line), PretrainConfig)


@pytest.mark.parametrize(
    ("text", "key"), [("out: run", "data"), ("out: run\ndata: {}", "data.manifests"), (PRETRAIN[9:], "out")]
)
def test_a_missing_key_is_named(recipe, text, key):
    path = recipe(text)
    with pytest.raises(ConfigError) as error:
        load(path, PretrainConfig)
    assert str(error.value) == f"{path}: {key} is required and has no default; add it"


def test_an_empty_recipe_lacks_what_has_no_default(recipe):
    with pytest.raises(ConfigError, match="out is required"):
        load(recipe(""), PretrainConfig)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "objective: {mask: {start_prob: 1.5}}",
            r"recipe\.yaml: mask\.start_prob must lie between 0 and 1, found 1\.5",
        ),
        ("batch: {max_crop_s: 100}", r"recipe\.yaml: batch\.max_crop_s must lie between 0 and batch\.seconds"),
        ("optim: {warmup: 0.6, hold: 0.6}", r"recipe\.yaml: optim\.warmup and optim\.hold are shares"),
        ("encoder: {transformer: {dim: 100}}", r"recipe\.yaml: transformer\.dim is 100, expected a multiple"),
    ],
)
def test_a_value_that_its_class_refuses_is_reported_with_the_file(recipe, line, message):
    with pytest.raises(ConfigError, match=message):
        load(recipe(PRETRAIN + line), PretrainConfig)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read the recipe \(No such file or directory\); name an"):
        load(tmp_path / "none.yaml", PretrainConfig)


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\ta: 1", "a: !!python/object:os.system x"])
def test_invalid_yaml_is_reported_in_one_line(recipe, text):
    with pytest.raises(ConfigError, match=r"recipe\.yaml: not valid YAML") as error:
        load(recipe(text), PretrainConfig)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "kind"), [("- a", "list"), ("hello", "str"), ("3", "int")])
def test_a_recipe_that_is_no_mapping_is_refused(recipe, text, kind):
    with pytest.raises(ConfigError, match=f"expected keys and values, found {kind}"):
        load(recipe(text), PretrainConfig)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=4", "seed", 4),
        ("out=else/where", "out", Path("else/where")),
        ("train.steps=7", "train", TrainConfig(steps=7)),
        ("data.manifests=[a.tsv, b.tsv]", "data", DataConfig(manifests=(Path("a.tsv"), Path("b.tsv")))),
        ("optim.max_grad_norm=null", "optim", OptimConfig()),
        ("batch.max_crop_s=", "batch", BatchConfig(max_crop_s=None)),
        ("encoder.conv=[[8, 10, 5]]", "encoder", EncoderConfig(conv=((8, 10, 5),))),
        ("objective={kind: contrastive, dim: 8}", "objective", ContrastiveConfig(dim=8)),
    ],
)
def test_an_override_sets_a_dotted_key_to_a_yaml_value(recipe, override, key, value):
    config = load(recipe(PRETRAIN), PretrainConfig, [override])
    assert getattr(config, key) == value


def test_an_override_reaches_into_a_list_counted_from_one(recipe):
    config = load(recipe("out: run\ndata: {manifests: [a.tsv, b.tsv]}"), PretrainConfig, ["data.manifests.2=c.tsv"])
    assert config.data.manifests == (Path("a.tsv"), Path("c.tsv"))


def test_the_last_override_of_a_key_wins_over_the_recipe_and_earlier_ones(recipe):
    config = load(recipe(PRETRAIN + "train: {steps: 1, keep: 4}"), PretrainConfig, ["train.steps=2", "train.steps=3"])
    assert config.train == TrainConfig(steps=3, keep=4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", r"override 'seed': expected key=value, for example train\.steps=100"),
        ("=3", "override '=3': expected key=value"),
        ("seed.deep=1", r"override 'seed\.deep=1': deep cannot be set in a single value"),
        ("seed=[1", r"override 'seed=\[1': the value is not valid YAML"),
        ("data.manifests.2=b.tsv", r"expected a number from 1 to 1 in the recipe's list, found 2"),
        ("data.manifests.first=b.tsv", r"expected a number from 1 to 1 in the recipe's list, found first"),
        ("train.stepz=1", r"unknown key train\.stepz; did you mean train\.steps"),
    ],
)
def test_a_malformed_override_is_named(recipe, override, message):
    with pytest.raises(ConfigError, match=message):
        load(recipe(PRETRAIN + "seed: 1"), PretrainConfig, [override])


@pytest.mark.parametrize(
    ("kind", "expected"), [("contrastive", ContrastiveConfig), ("masked_prediction", MaskedPredictionConfig)]
)
def test_the_kind_chooses_the_class_of_the_objective(recipe, kind, expected):
    config = load(recipe(PRETRAIN + f"objective: {{kind: {kind}, temperature: 0.5}}"), PretrainConfig)
    assert config.objective == expected(temperature=0.5)


def test_an_unknown_kind_is_refused_with_the_known_ones(recipe):
    with pytest.raises(
        ConfigError, match=r"'best-rq'.*'contrastive', 'masked_pred.*random_projection is best-rq"
    ) as raised:
        load(recipe(PRETRAIN + "objective: {kind: best-rq}"), PretrainConfig)
    assert "recipe.yaml: objective: " in str(raised.value)


def test_a_key_of_the_other_objective_is_refused(recipe):
    with pytest.raises(
        ConfigError, match=r"objective\.unmasked_weight is a key of objective\.kind=\w+, .* only; remove it"
    ):
        load(recipe(PRETRAIN + "objective: {kind: contrastive, unmasked_weight: 1}"), PretrainConfig)


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("optim.lr=0.001", "optim", {"schedule": "tri_stage", "hold": 0.4, "eps": 1e-8, "lr": 0.001}),
        ("batch.seconds=50", "batch", {"max_crop_s": None, "min_s": 0.1, "seconds": 50}),
        ("train.keep=2", "train", {"steps": 20_000, "keep": 2}),
    ],
)
def test_setting_one_key_of_a_section_keeps_the_stage_s_defaults_for_the_others(recipe, override, key, expected):
    section = getattr(load(recipe(FINETUNE), FinetuneConfig, [override]), key)
    assert {name: getattr(section, name) for name in expected} == expected


def test_setting_one_key_two_levels_down_keeps_the_defaults_of_the_class_above(recipe):
    config = load(recipe(FINETUNE), FinetuneConfig, ["ctc.channel_mask.span=32"])
    assert config.ctc.channel_mask == MaskConfig(start_prob=0.5 / 64, span=32, min_spans=0)


def test_setting_one_key_of_the_default_objective_keeps_its_kind_and_its_mask(recipe):
    config = load(recipe(PRETRAIN), PretrainConfig, ["objective.mask.span=5"])
    assert config.objective == MaskedPredictionConfig(mask=MaskConfig(start_prob=0.08, span=5))


def test_describe_stars_what_is_not_the_default(recipe):
    config = load(recipe(PRETRAIN), PretrainConfig, ["train.steps=5", "objective.mask.start_prob=0.2"])
    starred = {line.split()[0] for line in describe(config) if line.endswith("*")}
    assert starred == {"out", "data.manifests", "train.steps", "objective.mask.start_prob"}


def test_describe_takes_the_defaults_of_the_stage_not_of_its_sections(recipe):
    starred = {line.split()[0] for line in describe(load(recipe(FINETUNE), FinetuneConfig)) if line.endswith("*")}
    assert starred == {"out", "checkpoint", "data.manifests"}


def test_describe_stars_what_differs_from_the_stage_though_it_is_the_section_s_default(recipe):
    lines = describe(load(recipe(FINETUNE), FinetuneConfig, ["optim.schedule=polynomial"]))
    assert any(line.split() == ["optim.schedule", "polynomial", "*"] for line in lines)


def test_describe_lists_every_leaf_once_in_aligned_columns(recipe):
    lines = describe(load(recipe(PRETRAIN), PretrainConfig, ["encoder={}"]))
    keys = [line.split()[0] for line in lines]
    assert len(keys) == len(set(keys))
    assert {"seed", "encoder.transformer.dim", "objective.kind", "data.audio.channels"} <= set(keys)
    assert len({len(line) - len(line.split(maxsplit=1)[1]) for line in lines}) == 1


DATA = DataConfig(manifests=(Path("a.tsv"), Path("b.tsv")), root=Path("audio"), bad_audio="skip")
ROUND_TRIPS = [
    PretrainConfig(out=Path("run"), data=DATA, labels=(Path("x.labels"),)),
    PretrainConfig(out=Path("run"), data=DATA, objective=ContrastiveConfig(dim=8), encoder=EncoderConfig.small()),
    PretrainConfig(out=Path("run"), data=DATA, objective=MaskedPredictionConfig(mask=MaskConfig(span=3))),
    FinetuneConfig(out=Path("run"), data=DATA, checkpoint=Path("pre")),
    FinetuneConfig(
        out=Path("run"), data=DATA, dev=DATA, checkpoint=Path("pre"), optim=OptimConfig(), batch=BatchConfig()
    ),
    ClusterConfig(out=Path("run"), data=DATA, features="layer", checkpoint=Path("pre"), clusters=7),
]


@pytest.mark.parametrize("config", ROUND_TRIPS, ids=lambda config: type(config).__name__)
def test_a_configuration_survives_being_written_and_read(config):
    assert from_dict(to_dict(config), type(config), where="test") == config
    assert from_dict(to_stored(config), type(config), where="test") == config


def test_what_earlier_versions_lack_is_stored_only_if_it_is_not_the_default():
    later = {"encoder.input", "encoder.log_mel_bins", "encoder.transformer.hourglass"}
    later |= {f"objective.{key}" for key in ("loudness_neighbours", "targets")} | {"data.shift", "data.shift_seed"}
    sections = ("objective.log_mel.", "objective.copy.")
    config = PretrainConfig(out=Path("run"), data=DATA, encoder=EncoderConfig.small(), objective=ContrastiveConfig())
    every, stored = flatten(to_dict(config)), flatten(to_stored(config))
    assert every.keys() - stored.keys() == later | {key for key in every if key.startswith(sections)}
    assert stored.items() <= every.items()
    encoder = EncoderConfig(input="log_mel", conv=((8, 3, 2),))
    config = dataclasses.replace(config, encoder=encoder, objective=ContrastiveConfig(targets="log_mel"))
    assert later & flatten(to_stored(config)).keys() == {"encoder.input", "objective.targets"}
    units = PretrainConfig(out=Path("run"), data=DATA)
    assert to_dict(units)["objective"].keys() - to_stored(units)["objective"].keys() == {"visible"}


@pytest.mark.parametrize("config", ROUND_TRIPS, ids=lambda config: type(config).__name__)
def test_a_configuration_cannot_be_changed(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.out = Path("elsewhere")


def test_a_layer_to_cluster_needs_a_checkpoint(recipe):
    with pytest.raises(ConfigError, match="features=layer needs checkpoint"):
        load(recipe(PRETRAIN + "features: layer"), ClusterConfig)


def test_the_rule_for_short_utterances_is_stop_or_skip_and_nothing_else(recipe):
    with pytest.raises(ConfigError, match=r"bad_length: .*'stop' or 'skip', found 'stopp'"):
        load(recipe(FINETUNE), FinetuneConfig, ["bad_length=stopp"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=1", r"^command line: unknown key train\.stepz; did you mean"),
        ("trian.steps=1", r"^command line: unknown key trian; did you mean train\?$"),
        ("train.steps=many", r"^command line: train\.steps: .*found 'many'$"),
        ("encoder={dimm: 3}", r"^command line: unknown key encoder\.dimm"),
        ("encoder={dim:3}", r"unknown key encoder\.dim:3; YAML wants a space after a colon"),
        ("optim.warmup=2", r"recipe\.yaml with optim\.warmup=2: optim\.warmup and optim\.hold are shares"),
    ],
)
def test_a_slip_on_the_command_line_is_not_blamed_on_the_recipe(recipe, override, message):
    with pytest.raises(ConfigError, match=message):
        load(recipe(PRETRAIN), PretrainConfig, ["seed=1", override])


def test_a_slip_in_the_recipe_is_not_blamed_on_the_command_line(recipe):
    path = recipe(PRETRAIN + "sead: 1\n")
    with pytest.raises(ConfigError) as caught:
        load(path, PretrainConfig, ["seed=1", "train.stepz=2"])
    assert sorted(line.partition(": unknown")[0] for line in str(caught.value).splitlines()) == [
        str(path),
        "command line",
    ]


OLD_NAMES = {
    "objective": {"kind": "contrastive", "distractors": 7, "cross_distractors": 2},
    "valid": {"manifests": ["dev.tsv"]},
}


def test_keys_that_had_other_names_are_read_and_their_present_names_told(recipe, capsys) -> None:
    values = {"out": "run", "data": {"manifests": ["a.tsv"]}, **OLD_NAMES}
    config = load(recipe(as_yaml(values)), PretrainConfig, ["valid.bad_audio=skip"])
    assert (config.objective.negatives, config.objective.cross_negatives) == (7, 2)
    assert (config.dev.manifests, config.dev.bad_audio) == ((Path("dev.tsv"),), "skip")
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 1)[1] for line in said] == [
        "valid is called dev now; the old name is still read",
        "objective.distractors is called objective.negatives now; the old name is still read",
        "objective.cross_distractors is called objective.cross_negatives now; the old name is still read",
    ]
    assert from_dict(values, PretrainConfig, where="config.json").objective == config.objective
    assert capsys.readouterr().err == ""  # who reads a run of an earlier version need not be told


@pytest.mark.parametrize(("value", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_the_flag_of_16_bits_is_read_as_a_precision(recipe, capsys, value: bool, precision: str) -> None:
    values = {"out": "run", "data": {"manifests": ["a.tsv"]}, "layer": 1, "extract": {"bfloat16": value}}
    assert load(recipe(as_yaml(values)), ClusterConfig).extract.precision == precision
    assert "extract.bfloat16 is called extract.precision now" in capsys.readouterr().err
    values["extract"] = {"precision": "int4"}
    with pytest.raises(ConfigError, match=r"extract\.precision"):
        load(recipe(as_yaml(values)), ClusterConfig)


def test_a_key_under_both_its_names_is_refused(recipe) -> None:
    values = {"out": "run", "data": {"manifests": ["a.tsv"]}, "dev": {"manifests": ["b.tsv"]}, **OLD_NAMES}
    with pytest.raises(ConfigError, match="valid and dev are one key, dev its present name; remove valid"):
        load(recipe(as_yaml(values)), PretrainConfig)


def test_a_recipe_of_fine_tuning_is_read_with_the_names_it_was_written_with(recipe) -> None:
    config = load(recipe(FINETUNE), FinetuneConfig, ["unfit=skip", "too_short=skip"])
    assert (config.bad_text, config.bad_length) == ("skip", "skip")
