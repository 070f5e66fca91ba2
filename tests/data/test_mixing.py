"""How much of an epoch each corpus fills."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.mixing import MixConfig, corpora
from speechssl.errors import ConfigError
from tests.oracles.batches import oracle_epoch

SIZES = {"ru": 400, "nl": 40, "cs": 4}  # utterances of 3 s


@pytest.fixture
def rows(make_utterances):
    listed = make_utterances([48_000] * sum(SIZES.values()))
    languages = [language for language, size in SIZES.items() for _ in range(size)]
    return [replace(row, language=lang, corpus=f"{lang}.tsv") for row, lang in zip(listed, languages, strict=True)]


def config_of(alpha: float, by: str = "manifest", **more) -> BatchConfig:
    return BatchConfig(seconds=20.0, max_crop_s=2.0, min_s=1.0, mix=MixConfig(alpha=alpha, by=by), **more)


def seen(rows, sampler: BatchSampler, epoch: int) -> Counter[int]:
    return Counter(crop.index for batch in sampler.epoch(epoch) for crop in batch)


@pytest.mark.parametrize("by", ["manifest", "language"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_a_corpus_fills_its_share_of_every_epoch(rows, alpha, by):
    weights = [size**alpha for size in SIZES.values()]
    shares = [444 * weight / sum(weights) for weight in weights]
    sampler = BatchSampler(rows, config_of(alpha, by), seed=0)
    for epoch in (0, 1, 5):
        counts = seen(rows, sampler, epoch)
        found = [sum(counts[i] for i, row in enumerate(rows) if row.language == name) for name in SIZES]
        assert found == [round(share) for share in shares]


def test_no_utterance_comes_twice_before_all_of_its_corpus_have_come_once(rows):
    sampler = BatchSampler(rows, config_of(0.5), seed=3)
    total: Counter[int] = Counter()
    for epoch in range(7):
        total += seen(rows, sampler, epoch)
        for name in SIZES:
            times = [total[i] for i, row in enumerate(rows) if row.language == name]
            assert max(times) - min(times) <= 1


def test_every_round_of_a_corpus_has_an_order_of_its_own(rows):
    sampler = BatchSampler(rows, config_of(0.0), seed=0)  # an epoch has 148 of the 400 in Russian
    halves = [{index for index in seen(rows, sampler, epoch) if index < 400} for epoch in (0, 100)]
    assert halves[0] != halves[1]  # both begin a round: 100 x 148 = 37 x 400
    assert {len(half) for half in halves} == {148}


def test_a_mixed_epoch_depends_on_seed_and_epoch_alone(rows):
    walked = BatchSampler(rows, config_of(0.3), seed=0)
    epochs = [walked.epoch(epoch) for epoch in range(4)]
    assert BatchSampler(rows, config_of(0.3), seed=0).epoch(3) == epochs[3]
    others = [*epochs, BatchSampler(rows, config_of(0.3), seed=1).epoch(0)]
    assert all(a != b for i, a in enumerate(others) for b in others[:i])


def test_an_utterance_that_comes_again_is_cropped_elsewhere(rows):
    sampler = BatchSampler(rows, config_of(0.0), seed=0)
    starts = {crop.start for batch in sampler.epoch(0) for crop in batch if crop.index == len(rows) - 1}
    assert len(starts) > 20


def test_alpha_one_leaves_batches_and_fingerprint_as_they_were(rows):
    sampler = BatchSampler(rows, config_of(1.0, "language"), seed=0)
    assert sampler.epoch(2) == oracle_epoch([48_000] * len(rows), config_of(1.0), seed=0, epoch=2)
    assert sampler.fingerprint == BatchSampler(rows, config_of(1.0), seed=0).fingerprint
    assert sampler.fingerprint != BatchSampler(rows, config_of(0.5), seed=0).fingerprint


def test_the_fingerprint_knows_which_corpus_an_utterance_is_of(rows):
    moved = [replace(rows[0], corpus="nl.tsv"), *rows[1:]]
    prints = {BatchSampler(listed, config_of(0.5), seed=0).fingerprint for listed in (rows, moved)}
    assert len(prints) == 2


@settings(max_examples=40, deadline=None)
@given(
    codes=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    alpha=st.floats(0, 1),
    epoch=st.integers(0, 20),
    length=st.integers(16_000, 200_000),
)
def test_any_mix_makes_an_epoch(make_utterances, codes, alpha, epoch, length):
    listed = [
        replace(row, corpus=str(code)) for row, code in zip(make_utterances([length] * len(codes)), codes, strict=True)
    ]
    sampler = BatchSampler(listed, config_of(alpha), seed=0)
    counts = seen(listed, sampler, epoch)
    assert abs(sum(counts.values()) - len(codes)) <= 4
    assert {codes[i] for i in counts} == set(codes)


def test_a_corpus_that_is_left_out_whole_takes_no_share(make_utterances):
    lengths = [48_000, 48_000, 100]
    listed = [replace(row, corpus=str(i)) for i, row in enumerate(make_utterances(lengths))]
    assert seen(listed, BatchSampler(listed, config_of(0.0), seed=0), 0) == {0: 1, 1: 1}


def test_corpora_are_numbered_as_they_come(rows):
    names, codes = corpora([rows[-1], replace(rows[0], language=None), rows[-1]], "language")
    assert (names, codes.tolist()) == (["cs", ""], [0, 1, 0])


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(
        ConfigError, match=r"batch\.mix\.alpha must lie between 0 \(corpora equal\) and 1 \(as they are\)"
    ):
        MixConfig(alpha=alpha)


def test_an_epoch_is_described_in_a_line(rows):
    mixed = BatchSampler(rows, config_of(0.0), seed=0).describe()
    assert mixed == (
        "data: ru.tsv 0.33 h x 0.37, nl.tsv 0.03 h x 3.7, cs.tsv 0.00 h x 37; "
        "an epoch: 45 batches, 0.25 h, 0.0% padding"
    )
    alone = [replace(row, corpus=None) for row in rows]
    plain = BatchSampler(alone, config_of(1.0), seed=0).describe()
    assert plain == "data: 0.37 h; an epoch: 45 batches, 0.25 h, 0.0% padding"


def test_less_jitter_is_less_padding(make_utterances):
    rows = make_utterances(range(20_000, 120_000, 100))
    shares = [
        BatchSampler(rows, BatchConfig(seconds=200.0, max_crop_s=None, jitter=jitter), seed=0).epoch(0).padding
        for jitter in (0.1, 0.05, 0.0)
    ]
    assert 0.07 > shares[0] > shares[1] > shares[2]
    with pytest.raises(ConfigError, match=r"batch\.jitter must lie between 0 and 1, found 1\.5"):
        BatchConfig(jitter=1.5)
