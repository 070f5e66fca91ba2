"""The monitor of a run: speechssl.train.monitor."""

import copy
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from speechssl.config import describe
from speechssl.errors import ConfigError
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.pretrain import PretrainConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.contrastive_health import contrastive_health
from speechssl.tasks.ctc_health import ctc_health
from speechssl.tasks.health import Band, Health
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.masked_prediction_health import masked_prediction_health
from speechssl.tasks.random_projection import RandomProjectionConfig
from speechssl.tasks.random_projection_health import random_projection_health
from speechssl.tasks.teacher import TeacherConfig
from speechssl.tasks.teacher_health import teacher_health
from speechssl.train.monitor import Alarm, HealthConfig, Monitor

CONTRASTIVE = contrastive_health(100)
UNITS = masked_prediction_health((100,))
TWO_STREAMS = masked_prediction_health((100, 500))
REGRESSION, CODEBOOKS = teacher_health(None), teacher_health(128)
CTC = ctc_health(0)
RANDOM = random_projection_health(1, 256)
HEALTHS = (CONTRASTIVE, UNITS, RANDOM, CODEBOOKS, CTC)
BANDS = [*{band.name: band for health in HEALTHS for band in health.bands}.values()]

# Reports of real runs of the small model, every so many of their steps: (step, figures).
DEMO_CONTRASTIVE = [  # recipes/demo/wav2vec2.yaml on festvox-ru, seed 0
    (step, {"contrastive_loss": loss, "code_perplexity_0": codes / 2, "grad_norm": norm})
    for step, loss, codes, norm in [
        (100, 4.51, 27.0, 1.4), (200, 4.05, 18.0, 3.9), (300, 3.77, 12.5, 8.6), (400, 3.59, 13.8, 7.0),
        (700, 3.27, 16.8, 11.1), (1300, 2.75, 18.9, 10.3), (1900, 2.52, 20.6, 8.7), (2500, 2.32, 22.3, 16.7),
    ]
]  # fmt: skip
COLLAPSED = [  # transformers' recipe with the same trunk
    (step, {"contrastive_loss": loss, "code_perplexity_0": codes / 2, "grad_norm": norm})
    for step, loss, codes, norm in [
        (50, 4.52, 92.6, 1.26), (100, 3.69, 14.5, 2.99), (150, 0.40, 2.09, 0.60), (200, 0.0, 2.0, 1.9e-14),
        (250, 0.0, 2.0, 1.6e-14), (300, 0.0, 2.0, 3.8e-12),
    ]
]  # fmt: skip
NO_DIVERSITY = [  # recipes/demo/wav2vec2.yaml with objective.diversity_weight=0, averages of 10 steps
    (step, {"contrastive_loss": loss, "code_perplexity_0": first, "code_perplexity_1": second})
    for step, first, second, loss in [
        (100, 3.17, 3.47, 3.68), (150, 3.55, 2.10, 3.46), (180, 1.77, 2.59, 3.21), (190, 2.06, 1.91, 2.17),
        (200, 1.61, 1.79, 3.23),
    ]
]  # fmt: skip
STUCK = [(step, {"contrastive_loss": 4.61, "code_perplexity_0": 55.0, "grad_norm": 0.3}) for step in range(50, 901, 50)]
DIVERGED = [  # a warm-up of 48 steps to 2e-3
    (50, {"contrastive_loss": 4.59}), (100, {"contrastive_loss": 4.33}), (150, {"contrastive_loss": 4.54}),
    (200, {"contrastive_loss": 4.51}), (350, {"contrastive_loss": 4.54}),
]  # fmt: skip
DEMO_UNITS = [
    (step, {"masked_loss": loss, "labels_perplexity": 80.0, "predicted_perplexity": predicted, "feature_cosine": 0.4})
    for step, loss, predicted in [(100, 4.42, 20.0), (200, 4.14, 40.0), (400, 3.82, 50.0), (1200, 3.30, 60.0)]
]
DEMO_TEACHER = [  # recipes/registry_pool/teacher.yaml on festvox-ru, seed 0
    (step, {"masked_loss_over_guessing": loss, "codes_perplexity": used, "target_rank": rank, "teacher_cosine": cosine})
    for step, loss, used, rank, cosine in [
        (20, 1.40, 16.0, 51.8, 0.19), (60, 1.03, 99.1, 21.3, 0.32), (100, 1.03, 95.4, 13.8, 0.11),
        (160, 0.99, 101.0, 16.0, 0.05),
    ]
]  # fmt: skip
ALIKE = [  # a teacher that gives every frame the same
    (step, {"masked_loss_over_guessing": 0.9, "codes_perplexity": 1.0, "target_rank": 1.0, "teacher_cosine": 1.0})
    for step in (10, 20, 30)
]
MEAN_ONLY = [
    (step, {"masked_loss_over_guessing": 1.0, "masked_target_var": 0.5, "masked_prediction_var": 0.001})
    for step in (400, 500)
]
PLATEAU = [(step, {"blank_share": 1.0, "ctc_loss": 3.1}) for step in range(50, 601, 50)]
LEARNT = [
    (step, {"blank_share": blank, "ctc_loss": loss})
    for step, blank, loss in [(50, 0.78, 3.8), (100, 0.97, 3.2), (200, 0.69, 2.2), (350, 0.57, 0.85), (600, 0.54, 0.4)]
]


def alarms_of(
    reports: list[tuple[int, dict[str, float]]], health: Health, *, steps: int | None = None, **config
) -> list[tuple[int, str]]:
    monitor = Monitor(HealthConfig(**config), health)
    steps = steps or reports[-1][0]
    return [(alarm.step, alarm.name) for step, values in reports for alarm in monitor.check(step, steps, values)]


@pytest.mark.parametrize(
    ("reports", "health"),
    [(DEMO_CONTRASTIVE, CONTRASTIVE), (DEMO_UNITS, UNITS), (DEMO_TEACHER, CODEBOOKS), (LEARNT, CTC)],
    ids=["contrastive", "masked_prediction", "teacher", "ctc"],
)
def test_a_healthy_run_raises_no_alarm(reports, health) -> None:
    assert alarms_of(reports, health) == []


def test_a_teacher_that_encodes_all_frames_alike_is_caught_at_the_second_report() -> None:
    assert alarms_of(ALIKE, CODEBOOKS) == [(20, "equal_targets"), (20, "flat_targets"), (20, "few_codes")]
    assert alarms_of(ALIKE, REGRESSION) == [(20, "equal_targets"), (20, "flat_targets")]


def test_a_student_that_predicts_the_mean_of_the_targets_is_caught_after_the_grace() -> None:
    assert alarms_of(MEAN_ONLY, REGRESSION, steps=1000) == [(500, "no_learning"), (500, "flat_predictions")]


@pytest.mark.parametrize(
    ("reports", "health", "steps", "expected"),
    [
        (COLLAPSED, CONTRASTIVE, 468, [(200, "codebook_collapse"), (200, "too_easy"), (250, "no_gradient")]),
        (NO_DIVERSITY, CONTRASTIVE, 2500, [(190, "codebook_collapse")]),
        (STUCK, CONTRASTIVE, 900, [(400, "no_learning")]),
        (DIVERGED, CONTRASTIVE, 600, [(200, "lost_ground")]),
        (PLATEAU, CTC, 600, [(400, "all_blank")]),
    ],
    ids=["collapsed", "no_diversity", "stuck", "diverged", "plateau"],
)
def test_a_real_failure_is_named_when_it_has_lasted_two_reports(reports, health, steps, expected) -> None:
    assert [found for found in alarms_of(reports, health, steps=steps) if found in expected] == expected


OUTSIDE = {  # a figure just outside each band, and one just inside
    "codebook_collapse": (
        CONTRASTIVE,
        {"code_perplexity_0": 9.0, "code_perplexity_1": 1.9},
        {"code_perplexity_1": 2.1},
    ),
    "too_easy": (CONTRASTIVE, {"contrastive_loss": 0.09 * math.log(101)}, {"contrastive_loss": 0.11 * math.log(101)}),
    "equal_negatives": (CONTRASTIVE, {"negative_spread": 9e-5}, {"negative_spread": 1.1e-4}),
    "one_label": (UNITS, {"labels_perplexity": 19.0}, {"labels_perplexity": 21.0}),
    "no_learning": (
        CONTRASTIVE,
        {"contrastive_loss": 0.99 * math.log(101)},
        {"contrastive_loss": 0.98 * math.log(101)},
    ),
    "one_answer": (
        UNITS,
        {"predicted_perplexity": 4.9, "labels_perplexity": 50.0},
        {"predicted_perplexity": 5.1, "labels_perplexity": 50.0},
    ),
    "lost_ground": (CTC, {"ctc_loss": 2.81}, {"ctc_loss": 2.79}),  # after 4 and 1
    "same_features": (UNITS, {"feature_cosine": 0.985}, {"feature_cosine": 0.975}),
    "flat_features": (UNITS, {"feature_rank": 1.2}, {"feature_rank": 1.4}),
    "no_gradient": (CTC, {"grad_norm": 1e-7}, {"grad_norm": 1e-5}),
    "one_code": (RANDOM, {"codes_perplexity": 2.9}, {"codes_perplexity": 3.1}),
    "equal_targets": (CODEBOOKS, {"teacher_cosine": 0.985}, {"teacher_cosine": 0.975}),
    "flat_targets": (CODEBOOKS, {"target_rank": 2.4}, {"target_rank": 2.6}),
    "few_codes": (CODEBOOKS, {"codes_perplexity": 6.0}, {"codes_perplexity": 7.0}),
    "flat_predictions": (
        REGRESSION,
        {"masked_prediction_var": 0.019, "masked_target_var": 1.0},
        {"masked_prediction_var": 0.021, "masked_target_var": 1.0},
    ),
    "all_blank": (CTC, {"blank_share": 0.985}, {"blank_share": 0.975}),
    "empty_transcripts": (CTC, {"empty_share": 0.51}, {"empty_share": 0.49}),
    "nothing_read": (CTC, {"dev_per": 0.79, "dev_others": 0.8}, {"dev_cer": 0.76, "dev_others": 0.8}),
    "more_than_said": (CTC, {"dev_wer": 1.16}, {"dev_wer": 1.14}),
    "not_finite": (CTC, {"skipped_steps": 1.0}, {"skipped_steps": 0.0}),
}


def monitor_of(name: str, **config) -> tuple[Monitor, dict[str, float], dict[str, float]]:
    health, bad, good = OUTSIDE[name]
    state = {"first": 4.0, "best": 1.0} if name == "lost_ground" else None
    return Monitor(HealthConfig(**{"grace_steps": 0, **config}), health, state), bad, good


def test_every_band_is_tried_here() -> None:
    assert {band.name for band in BANDS} == {*OUTSIDE}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("patience", [1, 3])
def test_an_alarm_comes_after_so_many_reports_outside_the_band_and_once(name: str, patience: int) -> None:
    monitor, bad, _ = monitor_of(name, patience=patience)
    found = [[alarm.name for alarm in monitor.check(step, 100, bad)] for step in range(1, 7)]
    assert found == [[name] if step == patience else [] for step in range(1, 7)]


@pytest.mark.parametrize("name", OUTSIDE)
def test_there_is_no_alarm_just_inside_the_band(name: str) -> None:
    monitor, _, good = monitor_of(name, patience=1)
    assert monitor.check(1, 100, good) == []


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_report_inside_the_band_starts_the_count_anew(name: str) -> None:
    monitor, bad, good = monitor_of(name, patience=2)
    found = [
        len(monitor.check(step, 100, values)) for step, values in enumerate([bad, good, bad, bad, bad, good, bad, bad])
    ]
    assert found == [0, 0, 0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize("band", BANDS, ids=lambda band: band.name)
def test_only_what_a_run_must_have_learnt_has_to_wait_for_the_grace(band) -> None:
    monitor, bad, _ = monitor_of(band.name, patience=1, grace_steps=10)
    assert [alarm.name for alarm in monitor.check(10, 100, bad)] == ([band.name] if band.is_early else [])
    assert [alarm.name for alarm in monitor.check(11, 100, bad)] == ([] if band.is_early else [band.name])


@pytest.mark.parametrize(
    ("health", "steps", "expected"),
    [
        (CONTRASTIVE, 1_000, 300),
        (UNITS, 400_000, 32_000),
        (CTC, 600, 300),
        (CTC, 20_000, 5_000),
        (ctc_health(10_000), 20_000, 10_000),
        (ctc_health(10_000), 10_000, 2_500),  # frozen for ever: it must not wait for ever
    ],
)
def test_the_grace_is_a_share_of_the_run_and_at_least_300_steps(health: Health, steps: int, expected: int) -> None:
    assert Monitor(HealthConfig(), health).grace(steps) == expected


def test_what_dev_must_have_shown_by_half_of_the_run_is_looked_at_then() -> None:
    reports = [(step, {"dev_cer": 0.9, "dev_others": 0.9}) for step in range(100, 1201, 100)]
    assert alarms_of(reports, CTC) == [(800, "nothing_read")]
    assert alarms_of(reports, CTC, grace_steps=100) == [(300, "nothing_read")]


def test_an_alarm_that_another_has_said_already_is_kept_back_while_that_one_lasts() -> None:
    blank = {"blank_share": 1.0, "empty_share": 1.0, "dev_cer": 1.0, "dev_others": 1.0}
    assert alarms_of([(step, blank) for step in range(100, 1201, 100)], CTC) == [(500, "all_blank")]
    partly = [(step, {**blank, "blank_share": 0.9}) for step in range(1300, 1501, 100)]
    found = alarms_of([*((step, blank) for step in range(100, 1201, 100)), *partly], CTC)
    assert found == [(500, "all_blank"), (1400, "empty_transcripts"), (1400, "nothing_read")]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_report_that_lacks_a_sign_does_not_count_for_its_band(share) -> None:
    """Reports and evaluations alternate, with different signs."""
    monitor = Monitor(HealthConfig(grace_steps=0), CTC)
    turns = [{"blank_share": share, "ctc_loss": 2.0}, {"dev_wer": 2.0}] * 2
    assert [[alarm.name for alarm in monitor.check(1 + turn, 100, values)] for turn, values in enumerate(turns)] == [
        [], [], [], ["more_than_said"],
    ]  # fmt: skip


def test_nothing_is_checked_when_switched_off() -> None:
    assert alarms_of(COLLAPSED, CONTRASTIVE, enabled=False) == []


def test_missing_and_non_finite_figures_are_passed_over() -> None:
    monitor = Monitor(HealthConfig(patience=1, grace_steps=0), CONTRASTIVE)
    assert monitor.check(1, 10, {}) == []
    assert (
        monitor.check(2, 10, {"contrastive_loss": math.nan, "grad_norm": math.nan, "code_perplexity_0": math.inf}) == []
    )
    assert monitor.check(3, 10, {"contrastive_loss": 4.0}) == []
    assert [alarm.name for alarm in monitor.check(4, 10, {"contrastive_loss": 4.6})] == ["no_learning", "lost_ground"]


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_resumed_guard_alarms_like_one_that_was_not_interrupted(stop: int) -> None:
    before = Monitor(HealthConfig(), CONTRASTIVE)
    found = [alarm for step, values in COLLAPSED[:stop] for alarm in before.check(step, 468, values)]
    after = Monitor(HealthConfig(), CONTRASTIVE, json.loads(json.dumps(before.state)))
    found += [alarm for step, values in COLLAPSED[stop:] for alarm in after.check(step, 468, values)]
    straight = Monitor(HealthConfig(), CONTRASTIVE)
    assert found == [alarm for step, values in COLLAPSED for alarm in straight.check(step, 468, values)]
    assert found


def test_a_guard_does_not_change_the_state_it_is_given() -> None:
    state = {"outside": {"too_easy": 1}, "first": 4.0, "best": 3.0}
    kept = copy.deepcopy(state)
    Monitor(HealthConfig(), CONTRASTIVE, state).check(1, 10, {"contrastive_loss": 0.1})
    assert state == kept


def test_of_several_streams_the_one_that_is_worst_off_counts() -> None:
    good = {"masked_loss_0": 3.0, "masked_loss_1": 4.0, "labels_0_perplexity": 80.0, "labels_1_perplexity": 400.0}
    for bad, name in [
        ({"labels_1_perplexity": 40.0}, "one_label"),
        ({"masked_loss_0": 0.995 * math.log(80)}, "no_learning"),
        ({"predicted_1_perplexity": 20.0}, "one_answer"),
    ]:
        monitor = Monitor(HealthConfig(patience=1, grace_steps=0), TWO_STREAMS)
        assert monitor.check(1, 10, good) == []
        assert name in [alarm.name for alarm in monitor.check(2, 10, good | bad)]


@pytest.mark.parametrize(("loss", "alarms"), [(3.0, {"no_learning"}), (2.5, set()), (0.2, {"too_easy"})])
def test_where_many_negatives_equal_the_target_the_loss_of_guessing_is_the_measured_one(loss, alarms):
    monitor = Monitor(HealthConfig(grace_steps=100), contrastive_health(None))
    found = [
        alarm.name
        for step in range(150, 400, 50)
        for alarm in monitor.check(step, 400, {"contrastive_loss": loss, "guessing_loss": 3.0})
    ]
    assert {*found} == alarms
    assert contrastive_health(None).guessing_loss is None


def test_units_that_are_not_used_alike_are_not_guessed_at_the_loss_of_all_units() -> None:
    """With 50 of 100 units in use, a loss of 3.9 nats is that of guessing by frequency."""
    values = {"masked_loss": 3.9, "labels_perplexity": 50.0}
    assert alarms_of([(1, values)], UNITS, patience=1, grace_steps=0) == [(1, "no_learning")]
    assert alarms_of([(1, values | {"labels_perplexity": 90.0})], UNITS, patience=1, grace_steps=0) == []


def test_an_alarm_says_what_was_seen_what_was_expected_and_what_to_change() -> None:
    monitor, bad, _ = monitor_of("codebook_collapse", patience=1)
    (alarm,) = monitor.check(7, 100, bad)
    assert alarm == Alarm(name="codebook_collapse", step=7, message=alarm.message)
    assert alarm.message.startswith("perplexity of the least used codebook is 1.9, expected at least 2 (seen: ")
    assert "Likely: the quantizer maps every frame to the same entries" in alarm.message
    assert "To change: lower optim.lr" in alarm.message


def judged() -> Iterator[tuple[PretrainConfig | FinetuneConfig, Band]]:
    """Yield every band of every task, with the configuration of a run of the task."""
    data, out = {"manifests": ()}, Path("run")
    objectives = [
        (ContrastiveConfig(), CONTRASTIVE),
        (MaskedPredictionConfig(), UNITS),
        (RandomProjectionConfig(), RANDOM),
        (TeacherConfig(), CODEBOOKS),
    ]
    runs = [(PretrainConfig(out=out, data=data, objective=each), health) for each, health in objectives]
    runs.append((FinetuneConfig(out=out, checkpoint=out, data=data), CTC))
    for config, health in runs:
        for band in health.bands:
            yield config, band


@pytest.mark.parametrize(("config", "band"), [*judged()], ids=lambda value: getattr(value, "name", ""))
def test_the_settings_that_an_alarm_names_exist_in_the_task(config, band) -> None:
    known = {line.split()[0] for line in describe(config)} | {"data.manifests"}
    named = re.findall(
        r"\b(?:optim|objective|train|batch|data|ctc)\.[a-z_0-9.]*[a-z_0-9]", f"{band.change} {band.likely}"
    )
    assert named
    assert {*named} <= known
    assert band.seen and band.shown


@pytest.mark.parametrize("bad", [{"patience": 0}, {"probe_every": -1}, {"probe_minutes": 0.0}, {"probe_minutes": 61.0}])
def test_impossible_settings_are_refused(bad) -> None:
    with pytest.raises(ConfigError, match=r"health\.patience must be 1 or more.*found"):
        HealthConfig(**bad)


def test_what_is_healthy_is_asked_of_the_model(models) -> None:
    found = [model.health() for model in models.values()]
    assert [health.guessing_loss for health in found] == [math.log(10), math.log(15), 1.0, None]
    assert [health.frozen_steps for health in found] == [0, 0, 0, 17]
    losses = ["contrastive_loss", "masked_loss", "masked_loss_over_guessing", "ctc_loss"]
    assert [health.loss for health in found] == losses


def test_a_model_of_another_kind_is_not_judged() -> None:
    assert Monitor(HealthConfig(patience=1), None).check(1, 10, {"grad_norm": 0.0}) == []
