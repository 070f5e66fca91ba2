"""Decoders by configuration: speechssl.asr.decoding.decoders, .beam, .greedy, .flashlight, .hypothesis."""

import itertools
from pathlib import Path

import pytest
import torch

from speechssl.asr.decoding import hypothesis
from speechssl.asr.decoding.decoders import Beam, Flashlight, Greedy, WithLexicon, build_decoder
from speechssl.asr.decoding.grammar import Weights
from speechssl.asr.decoding.hypothesis import place_tokens
from speechssl.asr.decoding.search import SearchConfig
from speechssl.asr.lm.arpa import write_arpa
from speechssl.asr.lm.kneser_ney import NGramConfig, estimate
from speechssl.asr.lm.lexicon import Lexicon
from speechssl.asr.lm.sentences import as_letters
from speechssl.asr.transcripts.timed import words_of
from speechssl.config import from_dict
from speechssl.errors import ConfigError, VocabularyError
from speechssl.text.vocabulary import Vocabulary
from tests.oracles.ctc import oracle_collapse

VOCABULARY = Vocabulary(("<blank>", "|", "a", "b", "c"))
TEXTS = [["a", "cab"], ["cab", "a", "bc"], ["a"], ["bc", "ab"], ["a", "abba", "bc"], ["cab"], ["aa", "a"]]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A lexicon, whose words the model does not know all, and a model of words."""
    write_arpa(tmp_path / "lm.arpa", estimate(TEXTS, NGramConfig(order=3)))
    words = [*sorted({word for words in TEXTS for word in words}), "acc", "b"]
    (tmp_path / "lexicon.txt").write_text("".join(f"{word}\t{' '.join(word)} |\n" for word in words))
    return tmp_path / "lexicon.txt", tmp_path / "lm.arpa"


def random_log_probs(frames: int, seed: int) -> torch.Tensor:
    """Return (1, frames, vocab) of the kind that trained models make: blanks, and peaks between them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.5 * torch.randn(1, frames, len(VOCABULARY), generator=generator)
    logits[..., 0] += 1.5
    return logits.log_softmax(-1)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("has_model", [True, False])
@pytest.mark.parametrize(("beam", "tokens"), [(400, None), (20, None), (100, 3)])
def test_flashlight_and_our_own_search_rank_alike(add, has_model, beam, tokens, files):
    pytest.importorskip("flashlight.lib.text")
    values = {
        "lexicon": files[0],
        "lm": files[1] if has_model else None,
        "weights": Weights(lm_weight=1.3, word_score=0.4),
        "search": SearchConfig(beam=beam, threshold=30.0, tokens=tokens, add_paths=add),
        "nbest": 8,
    }
    ours, theirs = (build_decoder(kind(**values), VOCABULARY) for kind in (WithLexicon, Flashlight))
    for seed in range(6):
        log_probs, counts = random_log_probs(24, seed), torch.tensor([24])
        found, expected = ours.decode(log_probs, counts)[0], theirs.decode(log_probs, counts)[0]
        assert [one.text for one in found] == [one.text for one in expected]
        assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-4)
        assert found[0].tokens == expected[0].tokens


@pytest.mark.parametrize("add", [False, True])
def test_flashlight_and_our_own_search_agree_where_no_word_can_end(add, tmp_path):
    pytest.importorskip("flashlight.lib.text")
    (tmp_path / "lexicon.txt").write_text("a\ta |\nbcbcbcbc\tb c b c b c b c |\ncbcbcbcb\tc b c b c b c b |\n")
    log_probs = torch.log(torch.eye(5)[[2, 1, 3, 4, 3]] * 0.9 + 0.02)[None]  # "a bcb", and more is to come
    for beam in (12, 1):
        values = {"lexicon": tmp_path / "lexicon.txt", "search": SearchConfig(beam=beam, add_paths=add), "nbest": 3}
        ours, theirs = (build_decoder(kind(**values), VOCABULARY) for kind in (WithLexicon, Flashlight))
        found, expected = (decoder.decode(log_probs, torch.tensor([5]))[0] for decoder in (ours, theirs))
        assert [one.text for one in found] == [one.text for one in expected]
        assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-3)
    assert [one.text for one in found] == ["a"]
    assert -5 < found[0].score < 0


@pytest.mark.parametrize("add", [False, True])
def test_the_best_of_flashlight_is_the_first_of_several(add, files):
    pytest.importorskip("flashlight.lib.text")
    values = {"lexicon": files[0], "lm": files[1], "search": SearchConfig(beam=30, add_paths=add)}
    alone, several = (build_decoder(Flashlight(**values, nbest=nbest), VOCABULARY) for nbest in (1, 4))
    for seed in range(6):
        log_probs, counts = random_log_probs(24, seed), torch.tensor([24])
        (one,), (first, *others) = (decoder.decode(log_probs, counts)[0] for decoder in (alone, several))
        assert others and all(other.score <= first.score for other in others)
        assert (one.text, one.tokens) == (first.text, first.tokens)
        assert add or one.score == pytest.approx(first.score)  # with paths added up several have more to add


@pytest.mark.parametrize("kind", [Beam, WithLexicon, Flashlight])
def test_tokens_are_placed_when_they_are_asked_for_and_once(kind, files, monkeypatch):
    if kind is Flashlight:
        pytest.importorskip("flashlight.lib.text")
    placed = []
    path = hypothesis._best_path
    monkeypatch.setattr(hypothesis, "_best_path", lambda values, ids: placed.append(len(ids)) or path(values, ids))
    values = {"lm": files[1]} if kind is Beam else {"lexicon": files[0], "lm": files[1]}
    found = build_decoder(kind(**values, nbest=3), VOCABULARY).decode(random_log_probs(24, 0), torch.tensor([24]))[0]
    assert len(found) == 3 and placed == []
    assert found[0].tokens == found[0].tokens
    assert placed == [len(found[0].tokens)]


def test_flashlight_that_is_not_installed_names_the_extra_and_the_way_without(files, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchaudio.models.decoder", None)
    with pytest.raises(ConfigError, match=r"speechssl\[decode\].*kind=lexicon"):
        build_decoder(Flashlight(lexicon=files[0]), VOCABULARY)


def test_a_batch_is_its_rows_without_their_padding(files):
    log_probs = torch.cat([random_log_probs(20, 0), random_log_probs(20, 1)])
    counts = torch.tensor([20, 13])
    for config in (Greedy(), Beam(nbest=3), Beam(lm=files[1]), WithLexicon(lexicon=files[0], lm=files[1])):
        decoder = build_decoder(config, VOCABULARY)
        rows = [decoder.decode(log_probs[i : i + 1, :count], counts[i : i + 1]) for i, count in ((0, 20), (1, 13))]
        found = decoder.decode(log_probs, counts)
        assert found == [rows[0][0], rows[1][0]]
        assert [[one.tokens for one in row] for row in found] == [[one.tokens for one in row[0]] for row in rows]


def test_greedy_decoding_takes_the_likeliest_token_of_each_frame():
    log_probs = torch.log(torch.eye(5)[[2, 2, 0, 1, 3]] * 0.9 + 0.02)[None]
    (found,) = build_decoder(Greedy(), VOCABULARY).decode(log_probs, torch.tensor([5]))[0]
    assert found.text == "a b"
    assert found.score == pytest.approx(float(log_probs.max(-1).values.sum()))
    assert [(token.id, token.start, token.end) for token in found.tokens] == [(2, 0, 2), (1, 3, 4), (3, 4, 5)]


def test_a_language_model_moves_the_text_and_words_get_their_times(files):
    path = [0, 2, 2, 0, 1, 4, 2, 0, 2, 3, 0]
    log_probs = torch.log(torch.eye(5)[path] * 0.8 + 0.04)[None]
    plain, led = (
        build_decoder(config, VOCABULARY).decode(log_probs, torch.tensor([11]))[0][0]
        for config in (Beam(), Beam(lm=files[1], weights=Weights(lm_weight=4.0)))
    )
    assert (plain.text, led.text) == ("a caab", "a cab")
    words, _ = words_of(led.tokens, VOCABULARY, hop=320, window=400)
    assert [(word.text, round(word.start_s / 0.02), round(word.end_s / 0.02)) for word in words] == [
        ("a", 1, 3),
        ("cab", 5, 10),
    ]


def test_hot_words_are_added_to_the_lexicon_and_preferred(files):
    log_probs = torch.log(torch.eye(5)[[3, 3, 0, 4, 4]] * 0.5 + 0.1)[None].log_softmax(-1)
    log_probs[0, 1, 2] = log_probs[0, 1].max() - 0.5
    texts = [
        build_decoder(config, VOCABULARY).decode(log_probs, torch.tensor([5]))[0][0].text
        for config in (
            WithLexicon(lexicon=files[0]),
            WithLexicon(lexicon=files[0], hot_words=("bac",), hot_weight=6.0),
            Beam(hot_words=("bac",), hot_weight=6.0),
        )
    ]
    assert texts == ["bc", "bac", "bac"]


def test_tokens_are_placed_on_their_likeliest_path():
    log_probs = random_log_probs(6, 7)[0]
    for ids in ([2, 3], [2, 2], [4], [2, 1, 3]):
        paths = [path for path in itertools.product(range(5), repeat=6) if oracle_collapse(path) == ids]
        best = max(paths, key=lambda path: sum(float(log_probs[frame, token]) for frame, token in enumerate(path)))
        placed = [0] * 6
        for token in place_tokens(log_probs, ids):
            placed[token.start : token.end] = [token.id] * (token.end - token.start)
            assert token.probability == pytest.approx(float(log_probs[token.start : token.end, token.id].max().exp()))
        assert placed == list(best)
    assert place_tokens(log_probs, []) == ()
    with pytest.raises(ValueError, match="4 tokens need 7 frames, found 6"):
        place_tokens(log_probs, [2, 2, 2, 2])


def test_what_does_not_fit_the_model_is_refused(files, tmp_path):
    (tmp_path / "foreign.arpa").write_text("\\data\\\nngram 1=1\n\n\\1-grams:\n-1\txyz\n\n\\end\\\n")
    for config, message in (
        (Beam(lm=tmp_path / "foreign.arpa"), "none of its 4 words can be spelled"),
        (Beam(hot_words=("ax",)), "hot word 'ax' cannot be spelled in the model's letters"),
        (Beam(hot_words=("a b",)), "give single words"),
    ):
        with pytest.raises(VocabularyError, match=message):
            build_decoder(config, VOCABULARY)
    with pytest.raises(ConfigError, match="has no word boundary"):
        build_decoder(Beam(), Vocabulary(("<blank>", "▁a", "b")))
    with pytest.raises(ConfigError, match="nbest must be at least 1"):
        build_decoder(Beam(nbest=0), VOCABULARY)
    with pytest.raises(ConfigError, match=r"unknown key lexikon; did you mean lexicon"):
        from_dict({"lexikon": "x", "lexicon": "y"}, WithLexicon, where="test")


def test_a_model_of_letters_leads_the_search(tmp_path):
    write_arpa(tmp_path / "letters.arpa", estimate([as_letters(words) for words in TEXTS], NGramConfig(order=4)))
    log_probs = torch.log(torch.eye(5)[[4, 2, 2, 4]] * 0.8 + 0.04)[None]
    log_probs[0, 3] = torch.tensor([0.04, 0.04, 0.04, 0.4, 0.48]).log()  # after "ca" b is almost as good as c
    texts = [
        build_decoder(Beam(lm=lm, weights=Weights(lm_weight=1.0)), VOCABULARY)
        .decode(log_probs, torch.tensor([4]))[0][0]
        .text
        for lm in (None, tmp_path / "letters.arpa")
    ]
    assert texts == ["cac", "cab"]


def test_a_model_of_phones_writes_the_words_of_its_lexicon(tmp_path):
    phones = Vocabulary(("<blank>", "|", "EY", "B", "IY"), "phones", lexicon={"a": ("EY",), "bee": ("B", "IY")})
    lexicon, refused = Lexicon.from_sentences([["a", "bee", "sea"]], phones)
    assert (lexicon.words, lexicon.spellings, refused) == (("a", "bee"), (("EY",), ("B", "IY")), ["sea"])
    lexicon.write(tmp_path / "lexicon.txt")
    log_probs = torch.log(torch.eye(5)[[2, 1, 3, 4]] * 0.8 + 0.04)[None]
    decoder = build_decoder(WithLexicon(lexicon=tmp_path / "lexicon.txt"), phones)
    assert decoder.decode(log_probs, torch.tensor([4]))[0][0].text == "a bee"
