"""Scores of heads against scikit-learn and scipy, and against counting by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from speechssl.downstream.bootstrap import draws
from speechssl.downstream.frame_errors import edit_distance, merged
from speechssl.downstream.head_scores import ClassScorer, FrameScorer, ValueScorer, intervals_of, mean_scores
from tests.oracles.edit_distance import oracle_edit_distance

CLASSES = 5


def class_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    size = int(random.integers(1, 40))
    answers, predicted = random.integers(0, random.integers(1, CLASSES + 1), (2, size))
    return answers, np.where(random.random(size) < 0.5, answers, (predicted + random.integers(0, 3)) % CLASSES)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize("seed", range(40))
def test_class_scores_are_those_of_scikit_learn(seed):
    answers, predicted = class_case(seed)
    scores = ClassScorer(answers, predicted, CLASSES).scores()
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(answers, predicted))
    assert scores["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(answers, predicted))
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(answers, predicted, average="macro"))
    counts = metrics.confusion_matrix(answers, predicted, labels=range(CLASSES))
    assert ClassScorer(answers, predicted, CLASSES).counts().tolist() == counts.tolist()


@pytest.mark.parametrize("seed", range(40))
def test_value_scores_are_those_of_scikit_learn_and_scipy(seed):
    random = np.random.default_rng(seed)
    answers = random.normal(50, 20, int(random.integers(3, 40))).round(int(random.integers(-1, 3)))  # with ties
    predicted = (answers + random.normal(0, 15, len(answers))).round(int(random.integers(-1, 3)))
    scores = ValueScorer(answers, predicted).scores()
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(answers, predicted))
    if np.ptp(answers) and np.ptp(predicted):
        assert scores["r2"] == pytest.approx(metrics.r2_score(answers, predicted))
        assert scores["pearson"] == pytest.approx(stats.pearsonr(answers, predicted)[0])
        assert scores["spearman"] == pytest.approx(stats.spearmanr(answers, predicted)[0])


def test_correlations_with_a_constant_are_not_defined():
    scores = ValueScorer(np.array([1.0, 2.0]), np.array([3.0, 3.0])).scores()
    assert np.isnan([scores["pearson"], scores["spearman"]]).all()
    assert np.isnan(ValueScorer(np.array([2.0, 2.0]), np.array([1.0, 3.0])).scores()["r2"])


@pytest.mark.parametrize("seed", range(60))
def test_the_edit_distance_is_that_of_the_plain_table(seed):
    random = np.random.default_rng(seed)
    one, other = (random.integers(0, 4, int(random.integers(0, 7))) for _ in range(2))
    assert edit_distance(one, other) == oracle_edit_distance(one.tolist(), other.tolist())


def test_runs_of_frames_are_merged():
    assert merged(np.array([3, 3, 1, 1, 1, 3])).tolist() == [3, 1, 3]
    assert merged(np.array([], np.int64)).tolist() == []


def test_frames_without_an_answer_count_neither_as_frames_nor_in_sequences():
    answers = [np.array([0, 0, -100, 1, 1]), np.array([2, 2, 2, 2])]
    predicted = [np.array([0, 1, 2, 1, 1]), np.array([2, 0, 0, 2])]
    scores = FrameScorer(answers, predicted, 3).scores()
    assert scores["accuracy"] == 5 / 8
    assert scores["error_rate"] == 2 / 3  # 0 1 against 0 1, and 2 against 2 0 2


def frame_case(seed: int, utterances: int = 6) -> tuple[list[np.ndarray], list[np.ndarray]]:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 12, utterances)
    return [random.integers(-1, CLASSES, n) for n in lengths], [random.integers(0, CLASSES, n) for n in lengths]


@pytest.mark.parametrize("seed", range(10))
def test_utterances_that_are_drawn_twice_count_twice(seed):
    answers, predicted = frame_case(seed)
    values = np.random.default_rng(seed).normal(size=(2, len(answers)))
    classes = [np.array([abs(int(each[0])) for each in both]) for both in (answers, predicted)]
    indices = next(draws([str(n) for n in range(len(answers))], samples=1, seed=seed))
    pairs = [
        (FrameScorer(answers, predicted, CLASSES), [answers, predicted], lambda a, b: FrameScorer(a, b, CLASSES)),
        (ValueScorer(*values), list(values), ValueScorer),
        (ClassScorer(*classes, CLASSES), classes, lambda a, b: ClassScorer(a, b, CLASSES)),
    ]
    for scorer, both, make in pairs:
        repeated = [[each[i] for i in indices] if isinstance(each, list) else each[indices] for each in both]
        assert scorer.scores(indices) == pytest.approx(make(*repeated).scores(), nan_ok=True)


def test_the_interval_is_of_the_mean_over_seeds():
    answers = np.arange(40) % 2
    good, bad = answers.copy(), 1 - answers
    good[:10] = 0
    scorers = [ClassScorer(answers, each, 2) for each in (good, bad)]
    assert mean_scores(scorers)["accuracy"] == pytest.approx((35 / 40 + 0) / 2)
    blocks = [str(number) for number in range(40)]
    found = intervals_of(scorers, blocks, samples=300)["accuracy"]
    each = [mean_scores(scorers, indices)["accuracy"] for indices in draws(blocks, samples=300, seed=0)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(each, [0.025, 0.975])))
    assert found.low < 35 / 80 < found.high


def test_speakers_who_differ_make_a_wider_interval_than_their_utterances():
    answers, predicted = np.zeros(60, int), np.repeat([0, 1, 0, 1], 15)
    scorer = ClassScorer(answers, predicted, 2)
    spans = [intervals_of([scorer], [str(n // size) for n in range(60)], samples=400)["accuracy"] for size in (1, 15)]
    assert spans[1].high - spans[1].low > 2 * (spans[0].high - spans[0].low)
