"""PLDA against the densities it is the ratio of, on data drawn from it."""

import numpy as np
import pytest

from speechssl.downstream.error_rates import SortedTrials, equal_error_rate
from speechssl.downstream.pair_scores import cosine_terms, score_pairs
from speechssl.downstream.plda import Plda, lda_projection, shrunk_covariance
from speechssl.errors import ManifestError


def covariance(dim, scale, generator):
    root = generator.normal(size=(dim, dim))
    return scale * (root @ root.T / dim + 0.1 * np.eye(dim))


def truth(dim, *, seed, within=1.0):
    generator = np.random.default_rng(seed)
    between = covariance(dim, 1.0, generator)
    return Plda(mean=generator.normal(size=dim), between=between, within=covariance(dim, within, generator))


def draw(model, speakers, most, *, seed):
    """Draw one to `most` utterances of each speaker."""
    generator = np.random.default_rng(seed)
    dim = len(model.mean)
    voices = generator.multivariate_normal(model.mean, model.between, size=speakers)
    numbers = np.repeat(np.arange(speakers), generator.integers(1, most + 1, size=speakers))
    numbers[:2] = 0  # a speaker with two
    noise = generator.multivariate_normal(np.zeros(dim), model.within, size=len(numbers))
    return voices[numbers] + noise, [f"s{number}" for number in numbers]


def log_density(point, mean, cov):
    gap = point - mean
    return -0.5 * (gap @ np.linalg.solve(cov, gap) + np.linalg.slogdet(2 * np.pi * cov)[1])


def slow_ratio(model, one, other):
    both, total = np.concatenate([one, other]), model.between + model.within
    joint = np.block([[total, model.between], [model.between, total]])
    return (
        log_density(both, np.tile(model.mean, 2), joint)
        - log_density(one, model.mean, total)
        - log_density(other, model.mean, total)
    )


def all_pairs(number):
    return np.triu_indices(number, 1)


def test_log_ratios_are_those_of_the_densities():
    model = truth(4, seed=0)
    points, _ = draw(model, 6, 3, seed=1)
    first, second = all_pairs(len(points))
    found = score_pairs(model.terms(points), first, second)
    wanted = [slow_ratio(model, points[i], points[j]) for i, j in zip(first, second, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_a_fitted_model_gives_the_ratios_of_the_true_one():
    model = truth(3, seed=2)
    fitted = Plda.fit(*draw(model, 4000, 6, seed=3))
    points, _ = draw(model, 40, 3, seed=4)
    pairs = all_pairs(len(points))
    found, wanted = (score_pairs(each.terms(points), *pairs) for each in (fitted, model))
    assert np.corrcoef(found, wanted)[0, 1] > 0.999
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def log_likelihood(model, points, speakers):
    """Add the log densities of whole speakers, whose utterances share B."""
    total = 0.0
    for name in set(speakers):
        own = points[np.array(speakers) == name]
        cov = np.kron(np.ones((len(own), len(own))), model.between) + np.kron(np.eye(len(own)), model.within)
        total += log_density(own.ravel(), np.tile(model.mean, len(own)), cov)
    return total


def test_every_iteration_raises_the_likelihood():
    points, speakers = draw(truth(3, seed=5), 30, 4, seed=6)
    found = [log_likelihood(Plda.fit(points, speakers, iterations=i), points, speakers) for i in range(6)]
    assert np.all(np.diff(found) > 0)


def test_speakers_are_told_apart_where_cosine_is_lost_in_the_covariance_within_them():
    model = truth(8, seed=7)
    loud = model.within + 50 * np.outer(np.ones(8), np.ones(8))
    model = Plda(mean=model.mean, between=model.between, within=loud)
    fitted = Plda.fit(*draw(model, 200, 5, seed=8))
    points, speakers = draw(model, 40, 4, seed=9)
    first, second = all_pairs(len(points))
    is_target = np.array(speakers)[first] == np.array(speakers)[second]
    by_plda, by_cosine = (
        equal_error_rate(SortedTrials(score_pairs(terms, first, second), is_target).curve())
        for terms in (fitted.terms(points), cosine_terms(points - model.mean))
    )
    assert by_plda < by_cosine - 0.1


def test_the_projection_whitens_and_keeps_what_tells_speakers_apart():
    model = truth(5, seed=10)
    points, speakers = draw(model, 500, 6, seed=11)
    projection = lda_projection(points, speakers, 3)
    assert projection.shape == (5, 3)
    np.testing.assert_allclose(projection.T @ model.within @ projection, np.eye(3), atol=0.25)
    wanted = np.sort(np.linalg.eigvals(np.linalg.solve(model.within, model.between)).real)[::-1][:3]
    found = np.diag(projection.T @ model.between @ projection)
    np.testing.assert_allclose(found, wanted, rtol=0.2)


def test_more_dimensions_than_utterances():
    generator = np.random.default_rng(12)
    points = generator.normal(size=(12, 50))
    speakers = ["a", "b", "c", "d"] * 3
    projection = lda_projection(points, speakers, 100)
    assert projection.shape == (50, 3)
    projected = points @ projection
    assert np.isfinite(score_pairs(Plda.fit(projected, speakers).terms(projected), *all_pairs(12))).all()


def test_the_shrunk_covariance_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.covariance")
    points = np.random.default_rng(13).normal(size=(20, 6)) * [1, 2, 3, 4, 5, 6]
    wanted, _ = sklearn.ledoit_wolf(points, assume_centered=True)
    np.testing.assert_allclose(shrunk_covariance(points), wanted, rtol=1e-9)


@pytest.mark.parametrize("speakers", [["a"] * 4, ["a", "b", "c", "d"]])
def test_too_few_speakers_or_utterances_are_refused(speakers):
    with pytest.raises(ManifestError, match="expected two speakers or more to train on"):
        Plda.fit(np.zeros((4, 2)), speakers)
