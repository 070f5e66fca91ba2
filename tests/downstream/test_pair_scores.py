"""Scores of pairs of embeddings."""

import numpy as np
import pytest

from speechssl.downstream.pair_scores import Terms, adaptive_s_norm, cosine_terms, score_pairs
from speechssl.errors import ManifestError

POINTS = np.random.default_rng(0).normal(size=(7, 5))
FIRST, SECOND = np.triu_indices(7, 1)


def test_cosine_is_the_product_over_the_lengths():
    found = score_pairs(cosine_terms(POINTS), FIRST, SECOND)
    for score, i, j in zip(found, FIRST, SECOND, strict=True):
        wanted = POINTS[i] @ POINTS[j] / np.sqrt((POINTS[i] @ POINTS[i]) * (POINTS[j] @ POINTS[j]))
        assert score == pytest.approx(wanted)


def test_an_embedding_of_zeros_is_like_nothing():
    points = np.array([[0.0, 0.0], [1.0, 2.0]])
    assert score_pairs(cosine_terms(points), np.array([0]), np.array([1])) == [0]


def test_s_norm_takes_mean_and_deviation_of_the_highest_cohort_scores():
    cohort = np.random.default_rng(1).normal(size=(9, 5))
    terms, others = cosine_terms(POINTS), cosine_terms(cohort)
    scores = score_pairs(terms, FIRST, SECOND)
    found = adaptive_s_norm(scores, FIRST, SECOND, terms, others, top=4)
    against = [sorted((others.left @ row).tolist())[-4:] for row in terms.left]
    for pair, (i, j) in enumerate(zip(FIRST, SECOND, strict=True)):
        sides = [(scores[pair] - np.mean(against[k])) / np.std(against[k]) for k in (i, j)]
        assert found[pair] == pytest.approx(sum(sides) / 2)


def test_s_norm_with_fewer_in_the_cohort_takes_all():
    terms, others = cosine_terms(POINTS), cosine_terms(POINTS[:3] + 1)
    scores = score_pairs(terms, FIRST, SECOND)
    few, many = (adaptive_s_norm(scores, FIRST, SECOND, terms, others, top=top) for top in (3, 300))
    np.testing.assert_array_equal(few, many)


def test_a_cohort_of_one_is_refused():
    one = cosine_terms(POINTS[:1])
    with pytest.raises(ManifestError, match="found 1 equal ones"):
        adaptive_s_norm(np.zeros(1), np.array([0]), np.array([1]), cosine_terms(POINTS), one, top=5)


def test_own_terms_count_for_both_sides():
    terms = Terms(left=np.eye(2), right=np.eye(2), own=np.array([1.0, 10.0]))
    assert score_pairs(terms, np.array([0, 0]), np.array([1, 0])).tolist() == [11, 3]
