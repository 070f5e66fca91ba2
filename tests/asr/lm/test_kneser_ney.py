"""Modified Kneser-Ney smoothing: speechssl.asr.lm.kneser_ney, ARPA files and the model read from them."""

import gzip
import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest

from speechssl.asr.lm.arpa import read_arpa, write_arpa
from speechssl.asr.lm.kneser_ney import NGramConfig, estimate, number_words
from speechssl.asr.lm.ngram_model import NGramModel, perplexity
from speechssl.config import from_dict
from speechssl.errors import ConfigError, VocabularyError
from tests.oracles.ngrams import OracleKneserNey


def made_up(count: int, seed: int = 0, words: str = "abcdefgh") -> list[list[str]]:
    """Return sentences of frequent and rare words, in which some words follow others."""
    draw = random.Random(seed)
    weights = [1 / (place + 1) for place in range(len(words))]
    sentences = []
    for _ in range(count):
        sentence = draw.choices(words, weights, k=draw.randint(1, 6))
        sentences.append([word for word in sentence for word in ([word, "z"] if word == "c" else [word])])
    return sentences


def built(sentences: list[list[str]], path: Path, **settings: object) -> NGramModel:
    write_arpa(path, estimate(sentences, NGramConfig(**settings)))  # type: ignore[arg-type]
    return read_arpa(path)


def probability(model: NGramModel, word: str, history: tuple[str, ...]) -> float:
    """Return P(word | history), the history walked from nothing or the begin of a sentence."""
    node = np.array([0])
    for known in history:
        node = np.array([model.begin]) if known == "<s>" else model.score(node, np.array(model.numbers([known])))[1]
    return float(10 ** model.score(node, np.array(model.numbers([word])))[0][0])


@pytest.mark.parametrize(
    ("order", "prune"), [(1, (0,)), (2, (0,)), (3, (0,)), (3, (0, 0, 1)), (3, (0, 1, 2)), (4, (0, 1)), (5, (0,))]
)
def test_probabilities_are_those_of_the_formulas(order, prune, tmp_path):
    sentences = made_up(60)
    model = built(sentences, tmp_path / "lm.arpa", order=order, prune=prune)
    oracle = OracleKneserNey(sentences, order, prune)
    words = sorted({word for sentence in sentences for word in sentence})
    histories = [(), ("<s>",), *itertools.product(words, repeat=1), *itertools.product(words[:4], repeat=2)]
    histories += [("<s>", "a", "b"), ("a", "a", "a", "b"), ("<s>", "c", "z", "a")]
    for history in histories:
        end = history[-order + 1 :] if order > 1 else ()
        for word in ("a", "d", "z", "</s>", "<unk>"):
            expected = oracle.probability(word, end)
            assert probability(model, word, history) == pytest.approx(expected, rel=1e-5), (word, history)


@pytest.mark.parametrize(("order", "prune", "vocabulary"), [(3, (0,), None), (4, (0, 1, 2), None), (3, (0, 1), 4)])
def test_probabilities_after_every_history_sum_to_one(order, prune, vocabulary, tmp_path):
    model = built(made_up(80), tmp_path / "lm.arpa", order=order, prune=prune, vocabulary=vocabulary)
    predicted = np.array([number for word, number in model.ids.items() if word != "<s>"])
    for history in range(model.num_contexts):
        scores, _ = model.score(np.full(len(predicted), history), predicted)
        assert (10.0**scores).sum() == pytest.approx(1, abs=1e-5)


def test_kenlm_gives_every_word_the_same_score(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    sentences = made_up(300)
    for order, prune in ((2, (0,)), (4, (0, 0, 1))):
        path = tmp_path / f"{order}.arpa.gz"
        model = built(sentences, path, order=order, prune=prune)
        theirs = kenlm.Model(str(path))
        for sentence in [*made_up(20, seed=1, words="abcdefxy"), ["nowhere"], ["a"] * 9]:
            expected = [score for score, _, _ in theirs.full_scores(" ".join(sentence))]
            assert model.score_sentence(sentence) == pytest.approx(expected, abs=2e-6)


def test_a_pruned_ngram_is_not_in_the_file_and_its_mass_goes_to_the_order_below(tmp_path):
    sentences = made_up(60)
    full = built(sentences, tmp_path / "full.arpa", order=3)
    pruned = built(sentences, tmp_path / "pruned.arpa", order=3, prune=(0, 0, 1))
    assert len(pruned.keys) < len(full.keys)
    assert full.num_contexts == pruned.num_contexts
    assert pruned.score_sentence(["a", "a"]) != pytest.approx(full.score_sentence(["a", "a"]), abs=1e-3)


def test_rare_words_become_the_unknown_word_when_the_vocabulary_is_limited(tmp_path):
    sentences = [["a", "b"], ["a", "c"], ["a", "b"], ["d"]]
    corpus = number_words(sentences, vocabulary=2)
    assert corpus.words == ("<unk>", "<s>", "</s>", "a", "b")
    limited, full = (built(sentences, tmp_path / "lm", order=1, vocabulary=count) for count in (2, None))
    assert probability(limited, "c", ()) == probability(limited, "nowhere", ()) > probability(full, "nowhere", ())


def test_too_little_text_for_its_discounts_is_marked(tmp_path):
    orders = estimate([["a", "b"]], NGramConfig(order=2)).orders
    assert [order.discounts.is_fallback for order in orders] == [True, True]
    assert [order.discounts.is_fallback for order in estimate(made_up(400), NGramConfig()).orders][1:] == [
        False,
        False,
    ]


def test_perplexity_is_that_of_the_words_one_by_one(tmp_path):
    model = built(made_up(60), tmp_path / "lm.arpa", order=3)
    texts = [*made_up(9, seed=2), ["nowhere", "a"]]
    found = perplexity(model, texts)
    scores = [score for words in texts for score in model.score_sentence(words)]
    assert (found.sentences, found.words, found.unknown) == (10, sum(map(len, texts)), 1)
    assert found.perplexity == pytest.approx(10 ** (-sum(scores) / len(scores)))
    lost = float(model.score_sentence(["nowhere", "a"])[0])
    assert found.perplexity_known == pytest.approx(10 ** (-(sum(scores) - lost) / (len(scores) - 1)))


def test_the_same_text_gives_the_same_bytes(tmp_path):
    for name in ("a.arpa.gz", "b.arpa.gz"):
        built(made_up(30), tmp_path / name, order=3)
    assert (tmp_path / "a.arpa.gz").read_bytes() == (tmp_path / "b.arpa.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.arpa.gz").read_bytes()).startswith(b"\\data\\\nngram 1=")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", r"no line \\data\\"),
        ("\\data\\\nngram 1=1\n", "cut short"),
        ("\\data\\\nngram 2=1\n\\1-grams:\n", "expected `ngram 1=COUNT`"),
        ("\\data\\\nngram 1=2\n\n\\1-grams:\n-1\ta\n\n\\end\\\n", "expected 2 1-grams, found 1"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\nx\ta\n", "lm.arpa:5: expected one of 1 lines"),
        ("\\data\\\nngram 1=2\n\n\\1-grams:\n-1\ta\n-1\ta\n\n\\end\\\n", "a word occurs twice"),
        ("\\data\\\nngram 1=1\nngram 2=1\n\n\\1-grams:\n-1\ta\n\n\\2-grams:\n-1\ta b\n", "lm.arpa:9: .* found '-1"),
        (
            "\\data\\\nngram 1=1\nngram 2=0\nngram 3=1\n\n\\1-grams:\n-1\ta\n\n\\2-grams:\n\n\\3-grams:\n-1\ta a a\n",
            "'a a a' occurs twice, or its first words",
        ),
    ],
)
def test_a_broken_arpa_file_is_refused_by_line_or_ngram(text, message, tmp_path):
    (tmp_path / "lm.arpa").write_text(text)
    with pytest.raises(VocabularyError, match=message):
        read_arpa(tmp_path / "lm.arpa")


def test_a_model_that_lacks_an_end_of_an_ngram_backs_off_to_a_shorter_one(tmp_path):
    # as other tools' pruning leaves it: `b c` is not there, `a b c` is
    text = (
        "\\data\\\nngram 1=5\nngram 2=1\nngram 3=1\n\n"
        "\\1-grams:\n-1\ta\n-1.5\tb\t-0.1\n-2\tc\t-0.2\n-1\t<s>\n-1\t</s>\n"
        "\n\\2-grams:\n-0.5\ta b\t-0.3\n\n\\3-grams:\n-0.25\ta b c\n\n\\end\\\n"
    )
    (tmp_path / "lm.arpa").write_text(text)
    model = read_arpa(tmp_path / "lm.arpa")
    assert math.log10(probability(model, "c", ("a", "b"))) == pytest.approx(-0.25)
    assert math.log10(probability(model, "a", ("a", "b", "c"))) == pytest.approx(-0.2 - 1)
    assert math.log10(probability(model, "a", ("a", "b"))) == pytest.approx(-0.3 - 0.1 - 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 7}, "order must lie between 1 and 6, found 7"),
        ({"prune": (1, 1)}, "prune: expected 0 for single words"),
        ({"prune": (0, 2, 1)}, "found 0 2 1"),
        ({"vocabulary": 0}, "vocabulary must be at least 1"),
    ],
)
def test_settings_that_make_no_model_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(settings, NGramConfig, where="lm build")
