"""Plans against figures worked out by hand, and against what models really keep in memory."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from speechssl.__main__ import main
from speechssl.config import load
from speechssl.data.batching import Batch
from speechssl.errors import ConfigError
from speechssl.model.context import StepContext
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.frames import frame_count
from speechssl.plan import planner as planning
from speechssl.plan.costs import (
    LEAST_SEEN,
    SIZES,
    error_band,
    interpolate,
    labelled_errors,
    memory_gb,
    peak_lr,
    ten_minutes_error,
)
from speechssl.plan.plan_text import describe_plan, planned_recipe, write_recipe
from speechssl.plan.planner import MOST_STEPS, PlanRequest, Throughput, make_plan, measured_plan
from speechssl.stages.pretrain import PretrainConfig
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.registry import build_objective
from speechssl.tasks.wav2vec2 import Wav2Vec2Task

RECIPES = Path(__file__).parents[2] / "recipes"


def plan_for(**given: object):
    return make_plan(PlanRequest(**{"hours": 960.0, "days": 10.0, "device": "h100", **given}))


def test_learning_rates_are_those_of_the_batch_size_study():
    base = SIZES["base"]
    found = [peak_lr(base, "wav2vec2", seconds) for seconds in (150, 300, 600, 1200, 2400, 4800, 5600)]
    assert found == pytest.approx([7.91e-5, 1.12e-4, 1.58e-4, 2.24e-4, 5e-4, 5e-4, 5e-4])
    assert peak_lr(base, "wav2vec2", (150 * 600) ** 0.5) == pytest.approx((7.91e-5 * 1.58e-4) ** 0.5, rel=0.01)


def test_large_takes_its_published_rate_and_less_by_the_square_root():
    large = SIZES["large"]
    assert peak_lr(large, "wav2vec2", 9600) == 3e-4
    assert peak_lr(large, "wav2vec2", 2400) == pytest.approx(1.5e-4)
    assert peak_lr(large, "hubert", 9600) == 1.5e-3


def test_the_band_holds_the_published_rows_and_lies_between_them_elsewhere():
    assert error_band(33_300) == ((10.94, 12.46), (27.53, 31.49))
    (low, high), (other_low, other_high) = error_band(45_000)
    assert 10.21 < low < 10.94
    assert 10.47 < high < 12.46
    assert 25.99 < other_low < 27.53
    assert 26.55 < other_high < 31.49
    assert error_band(4_000) is None
    assert error_band(10**7) == ((6.1, 6.1), (13.3, 13.3))


def test_bands_and_labelled_tables_fall_with_hours_seen():
    tables = [labelled_errors(hours) for hours in (20_000, 40_000, 80_000, 160_000, 267_000)]
    for labels in ("10 min", "1 h", "10 h", "960 h"):
        assert [table[labels][1] for table in tables] == sorted((table[labels][1] for table in tables), reverse=True)
    assert labelled_errors(133_000)["10 h"] == pytest.approx((13.3, 23.8))
    assert labelled_errors(10_000) == {}


def test_between_points_curves_are_straight_on_logarithmic_axes():
    assert interpolate([1, 100], [2, 8], 10) == pytest.approx(4.0)
    assert [interpolate([1, 100], [2, 8], x) for x in (0.1, 1000)] == [2, 8]


def test_an_unmeasured_pace_is_the_stated_share_of_the_spec_sheet():
    # BASE asks for 44.6 GFLOP a second of audio: 98.9 TFLOP/s are 2,217 of them
    found = plan_for().throughput
    assert found.audio_s == pytest.approx(98.9e12 / 44.62e9, rel=1e-3)
    assert "ASSUMED, measured by nobody: 10% of 989 TFLOP/s" in found.source
    assert plan_for(utilisation=0.2).throughput.audio_s == pytest.approx(2 * found.audio_s)


def test_hours_seen_updates_and_epochs_are_worked_out_from_the_rate():
    # 1,000 audio-seconds a second for 10 days are 240,000 h; 2,400 s an update: 360,000 updates; 250 epochs
    plan = plan_for(rate=1000.0, batch_s=2400.0)
    assert (plan.size.name, plan.steps, plan.lr) == ("base", 360_000, 5e-4)
    assert plan.hours_seen == pytest.approx(240_000)
    assert plan.epochs == pytest.approx(250)
    assert plan.seconds * plan.accumulate == pytest.approx(2400)
    assert plan.warnings == ()


def test_several_devices_share_a_batch_and_lose_a_tenth():
    # 8 x 1,000 x 0.9 for 1 day: 172,800 h, 259,200 updates of 2,400 s: 300 s on each device
    plan = plan_for(rate=1000.0, batch_s=2400.0, devices=8, days=1.0)
    assert (plan.steps, plan.accumulate, plan.seconds) == (259_200, 1, 300.0)


@pytest.mark.parametrize(
    ("hours_seen", "expected"),
    [(4_200, 150), (9_000, 300), (20_000, 600), (40_000, 1200), (100_000, 2400), (300_000, 5600)],
)
def test_the_batch_is_the_longest_published_one_that_leaves_a_hundred_thousand_updates(hours_seen, expected):
    plan = plan_for(rate=hours_seen / 240, size="base")
    assert plan.batch_s == pytest.approx(expected)
    assert plan.steps >= 100_000


def test_the_second_iteration_of_hubert_gets_its_share_of_the_time():
    # 10 days: 6.15 for the second iteration, 400 of 650 updates; its 147,692 h at 2,400 s an update
    plan = plan_for(rate=1000.0, method="hubert", batch_s=2400.0)
    assert plan.steps == pytest.approx(221_538, abs=1)
    assert plan.days == pytest.approx(6.154, abs=1e-3)
    assert plan.first_steps == pytest.approx(138_461, abs=1)


def test_time_for_more_updates_than_anybody_published_is_not_used():
    plan = plan_for(rate=5000.0, size="base")
    assert plan.steps == MOST_STEPS
    assert plan.days == pytest.approx(MOST_STEPS * 5600 / 5000 / 86_400)
    assert any("the time is enough for 771,428 updates" in text for text in plan.warnings)


@pytest.mark.parametrize(("hours_seen", "error"), [(2099, None), (2100, 103), (8330, 89), (1e6, 44)])
def test_ten_labelled_minutes_follow_the_published_curve(hours_seen, error):
    assert ten_minutes_error(hours_seen) == error


def test_the_text_says_what_ten_labelled_minutes_give_before_the_table_of_labels_begins():
    text = " ".join(describe_plan(plan_for(rate=8330 / 240, size="base")))
    assert "on ten labelled minutes, test-clean: 89 %" in " ".join(text.split())


@pytest.mark.parametrize(("hours_seen", "is_warned"), [(4169.0, True), (4170.0, False)])
def test_wav2vec2_is_warned_below_the_hours_of_the_shortest_published_run(hours_seen, is_warned):
    plans = Wav2Vec2Task.planning
    assert plans.needs_seen_h == LEAST_SEEN
    warning = plans.too_few_hours(hours_seen, is_small=True)
    assert warning.startswith("4,169 h seen: wav2vec 2.0 needs more") == is_warned
    assert ("no better than random weights after 60 to 190 h" in warning) == is_warned
    assert "smaller" not in plans.too_few_hours(hours_seen, is_small=False)


@pytest.mark.parametrize("hours_seen", [1000.0, 5000.0])
def test_hubert_is_not_warned_of_wav2vec2_s_curve(hours_seen):
    found = plan_for(rate=hours_seen / 240, method="hubert").warnings
    assert not [text for text in found if "labelled minutes" in text]


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"rate": 20.0}, "base"),  # 4,800 h: the published table begins at 4,170
        ({"rate": 17.0}, "small"),
        ({"rate": 2600.0}, "large"),  # 624,000 h
        ({"rate": 2600.0, "hours": 500.0}, "base"),  # LARGE is not published on so little
        ({"rate": 2600.0, "memory_gb": 8.0}, "base"),  # nor does it fit
    ],
)
def test_the_size_is_the_largest_that_published_runs_speak_for(given, size):
    assert plan_for(**given).size.name == size


def test_small_models_keep_the_batch_of_our_recipes_until_the_updates_are_too_many():
    assert plan_for(size="small", rate=100.0, days=1.0).batch_s == 32  # 75,000 updates
    plan = plan_for(size="small", rate=1000.0, days=1.0)  # 2.7 million at 32 s
    assert plan.batch_s == 32 * 7
    assert (plan.lr, plan.steps <= MOST_STEPS) == (2e-3, True)


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        ({"batch_s": 87.5, "size": "base"}, "hardly anything at 87.5 s"),
        ({"rate": 5.0, "size": "base"}, r"1,200 h seen: published tables begin at 4,170 h"),
        ({"rate": 5.0, "size": "base"}, r"wav2vec 2\.0 needs more .*103 % after 2,100 h .*methods hubert and best-rq"),
        ({"rate": 5.0, "size": "small"}, "no curve of a smaller model is published"),
        ({"rate": 1000.0, "hours": 100.0}, "2,400 epochs of 100 h"),
        ({"rate": 1000.0, "size": "large", "hours": 100.0}, "LARGE is published on 960 h"),
        ({"rate": 1000.0, "size": "large"}, "LARGE is published from 600,000 h seen on"),
        ({"rate": 10.0, "devices": 1024, "batch_s": 2400.0}, "16,?000 s an update, more than the 2400 s wanted"),
    ],
)
def test_what_is_known_to_fail_is_a_warning(given, warning):
    found = plan_for(**given).warnings
    assert [text for text in found if re.search(warning, text)], found


def test_a_sound_plan_has_no_warning():
    assert plan_for(rate=1000.0).warnings == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hours": 0.0}, r"--hours must be more than 0, found 0.0"),
        ({"days": float("nan")}, r"--days must be more than 0"),
        ({"devices": 0}, r"--devices must be more than 0"),
        ({"rate": -1.0}, r"--rate must be more than 0"),
        ({"utilisation": 1.5}, r"at most 1, found 1.5"),
        ({"device": "abacus"}, r"device 'abacus' is not known, only cpu, a100, .* pass --rate"),
        ({"device": "abacus", "rate": 10.0}, r"the memory of 'abacus' is not known; pass --memory"),
        (
            {"memory_gb": 3.0, "size": "large"},
            r"large needs 1\d\.\d GB for one utterance of 15.625 s, 3.0 GB are there",
        ),
        ({"days": 1e-9}, r"1e-09 days are less than one update of 32 s of audio with small"),
    ],
)
def test_an_impossible_plan_is_one_clear_error(given, message):
    with pytest.raises(ConfigError, match=message):
        plan_for(**given)


def test_memory_is_weights_gradients_moments_and_what_is_kept():
    base = SIZES["base"]
    parameters = base.parameters("wav2vec2")
    assert parameters == 95_044_608
    on_cpu = memory_gb(base, "wav2vec2", 20.0, bfloat16=False, on_cpu=True)
    assert on_cpu == pytest.approx((16 * parameters + 1.25 * 92.2e6 * 20) / 1e9 + 0.5)
    frozen = base.parameters("data2vec", learns=False)  # projection and Transformer
    assert 0.9 * parameters < frozen < parameters
    with_teacher = memory_gb(base, "data2vec", 20.0, bfloat16=False, on_cpu=True)
    assert with_teacher - on_cpu == pytest.approx((16 * (base.parameters("data2vec") - parameters) + 4 * frozen) / 1e9)
    on_gpu = memory_gb(base, "wav2vec2", 20.0, bfloat16=True, on_cpu=False)
    assert on_gpu == pytest.approx((18 * parameters + 1.25 * 29.7e6 * 20) / 1e9 + 2.0)


def test_micro_batches_fit_into_nine_tenths_of_the_memory():
    for memory in (6.0, 8.0, 16.0, 24.0):
        plan = plan_for(rate=1000.0, memory_gb=memory, size="base")
        assert plan.memory_gb <= 0.9 * memory
        assert plan.seconds * plan.accumulate == pytest.approx(5600)


def kept_mb(size, method: str, *, bfloat16: bool, crops: int) -> float:
    """Return MB a second of audio that autograd keeps for the backward pass, weights and their copies apart."""
    encoder = size.encoder
    still = {"layer_drop": 0.0} | (
        {"attention_dropout": 0.0} if bfloat16 else {}
    )  # then it keeps no weights, as on GPU
    encoder = dataclasses.replace(encoder, transformer=dataclasses.replace(encoder.transformer, **still))
    dim, conv_dim, units = encoder.transformer.dim, encoder.conv[-1][0], size.planned(method).clusters
    model = PretrainModel(
        SpeechEncoder(encoder), build_objective(size.planned(method).config, dim=dim, conv_dim=conv_dim, clusters=units)
    )
    shapes = {tuple(sorted(parameter.shape)) for parameter in model.parameters()}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tuple(sorted(tensor.shape)) not in shapes:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    time = int(size.crop_s * 16_000)
    frames = frame_count(time, encoder.conv)
    batch = Batch(
        ids=("a",) * crops,
        waveforms=0.1 * torch.randn(crops, time),
        num_samples=torch.full((crops,), time),
        labels=torch.zeros((len(units), crops, frames), dtype=torch.long) if units else None,
    )
    saved = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with saved, torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        model.train()(batch, StepContext(step=0, generator=torch.Generator().manual_seed(0)))
    return sum(found.values()) / 1e6 / (crops * size.crop_s)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_table_of_what_is_kept_is_what_autograd_keeps(bfloat16):
    small = SIZES["small"]
    expected = small.kept_mb["bfloat16" if bfloat16 else "float32"]
    assert kept_mb(small, "wav2vec2", bfloat16=bfloat16, crops=2) == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bfloat16"), [("base", False), ("base", True), ("large", True)])
def test_the_table_of_what_large_models_keep_is_what_autograd_keeps(name, bfloat16):
    size = SIZES[name]
    expected = size.kept_mb["bfloat16" if bfloat16 else "float32"]
    assert kept_mb(size, "wav2vec2", bfloat16=bfloat16, crops=1) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("method", ["wav2vec2", "hubert", "data2vec"])
@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_recipe_written_is_the_plan(tmp_path, size, method):
    plan = plan_for(rate=1000.0, size=size, method=method)
    write_recipe(tmp_path / "plan.yaml", plan)
    config = load(tmp_path / "plan.yaml", PretrainConfig)
    labels = [Path("runs/plan/units/labels.tsv")] if method == "hubert" else []
    out, manifests = Path("runs/plan/pretrain"), [Path("pool.tsv")]
    assert config == planned_recipe(plan, out=out, manifests=manifests, labels=labels)
    assert (config.encoder or SIZES["base"].encoder) == SIZES[size].encoder
    assert (config.train.steps, config.train.accumulate, config.train.bfloat16) == (plan.steps, plan.accumulate, True)
    assert config.optim.lr == pytest.approx(plan.lr, rel=0.01)
    assert config.data.audio.normalize is (True if size == "large" else None)


@pytest.mark.parametrize("method", ["wav2vec2", "hubert", "data2vec"])
def test_small_is_planned_as_our_recipes_train_it(method):
    plan = plan_for(rate=50.0, size="small", device="cpu", memory_gb=8.0, method=method, days=1.0)
    config = planned_recipe(plan, out=Path("x"), manifests=[Path("a")])
    name = "teacher" if method == "data2vec" else method
    recipe = load(RECIPES / "registry_pool" / f"{name}.yaml", PretrainConfig)
    assert (config.encoder, config.objective, config.batch, config.optim) == (
        recipe.encoder,
        recipe.objective,
        recipe.batch,
        recipe.optim,
    )


def test_the_text_names_sources_assumptions_and_the_band():
    text = " ".join(" ".join(describe_plan(plan_for(days=2.0))).split())
    for part in ("ASSUMED, measured by nobody", "arXiv:2402.13723", "no language model", "fine-tuned on 100 h"):
        assert part in text
    assert all(len(line) <= 110 for line in describe_plan(plan_for(method="hubert", size="large", days=90.0)))


def test_a_measured_pace_replaces_the_table(monkeypatch):
    asked = {}

    def measure(encoder, objective, clusters, **how):
        asked.update(how, encoder=encoder, objective=objective)
        return 123.0

    monkeypatch.setattr(planning, "measure_throughput", measure)
    plan = measured_plan(PlanRequest(hours=10.0, days=1.0, memory_gb=8.0))
    assert plan.throughput == Throughput(audio_s=123.0, source=plan.throughput.source)
    assert "measured here" in plan.throughput.source
    assert (asked["encoder"], asked["seconds"], asked["bfloat16"]) == (SIZES["small"].encoder, 16.0, False)
    assert plan.hours_seen == pytest.approx(123 * 24, rel=0.01)


def test_measuring_an_accelerator_where_there_is_none_says_so(monkeypatch):
    monkeypatch.setattr("speechssl.plan.throughput.pick_device", lambda: torch.device("cpu"))
    with pytest.raises(ConfigError, match="no accelerator to measure h100 on"):
        measured_plan(PlanRequest(hours=10.0, days=1.0, device="h100"))


@pytest.mark.parametrize("method", ["wav2vec2", "hubert", "data2vec"])
def test_updates_of_the_small_model_are_really_taken_and_timed(method, monkeypatch):
    monkeypatch.setattr("speechssl.plan.throughput._UPDATES", 1)
    size = SIZES["small"]
    throughput = planning.measure_throughput(
        size.encoder,
        size.planned(method).config,
        size.planned(method).clusters,
        seconds=4.0,
        crop_s=4.0,
        bfloat16=False,
        device=torch.device("cpu"),
        at_least_s=0.0,
    )
    assert 0.1 < throughput < 10_000


def test_the_command_plans_and_its_recipe_is_accepted_by_pretrain(tmp_path, capsys):
    out = tmp_path / "plan.yaml"
    arguments = ["--hours", "960", "--days", "7", "--device", "a100", "--devices", "8", "--method", "hubert"]
    assert main(["plan", *arguments, "--out", str(out)]) == 0
    assert "8 x a100 (80 GB)" in capsys.readouterr().out
    assert "iteration 1: MFCC labels" in out.read_text(encoding="utf-8")
    assert main(["pretrain", str(out), "--dry-run"]) == 0
    assert "objective.kind" in capsys.readouterr().out


def test_a_plan_that_cannot_be_made_is_one_line(capsys):
    assert main(["plan", "--hours", "10", "--days", "1", "--device", "cray"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("speechssl: device 'cray' is not known")
    assert error.count("\n") == 1
