"""Phones and pieces to ids and back; what a model keeps to read and write them. Letters: test_vocabulary."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.audio.reading import AudioConfig
from speechssl.config import from_dict, to_dict
from speechssl.errors import CheckpointError, ConfigError, VocabularyError
from speechssl.hub.saved import Description
from speechssl.model.encoder import EncoderConfig
from speechssl.tasks.ctc import CTCConfig
from speechssl.text.phones import read_pronunciations
from speechssl.text.pieces import segment, train_pieces
from speechssl.text.policy import TextConfig
from speechssl.text.vocabulary import Phones, Pieces, Vocabulary

TEXTS = [
    "the cat sat on the mat", "the hat of the cat", "a cat that sat", "that is that", "on the mat sat the cat",
    "the rat ran to the hat", "then the cats ran",
]  # fmt: skip


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text(";;; a comment\nHello\th ə l oʊ\nworld\tw ɜː l d\nworld(2)\tw ɝ l d\nunused  ʒ\n", encoding="utf-8")
    return path


def test_phones_have_the_word_boundary_and_only_those_of_the_training_words(lexicon):
    vocabulary = Vocabulary.from_texts(["hello"], Phones(lexicon=lexicon), TextConfig(case="lower"))
    assert vocabulary.tokens == ("<blank>", "|", "h", "l", "oʊ", "ə")


def test_phones_of_a_text_come_back_with_their_words(lexicon):
    vocabulary = Vocabulary.from_texts(["Hello world"], Phones(lexicon=lexicon), TextConfig(case="lower"))
    ids = vocabulary.encode("hello  World", where="u1")
    assert vocabulary.decode([1, 0, *ids, 1]) == "h ə l oʊ | w ɜː l d" == vocabulary.reference("Hello world")
    assert vocabulary.write(["w", "ɜː"]) == "w.ɜː"
    assert vocabulary.tokens[ids[4]] == "|"


def test_a_comment_behind_the_phones_of_cmudict_is_none_of_them(tmp_path):
    (tmp_path / "cmudict").write_text("aalto AA1 L T OW2 # name, finnish\nb\tB #\n")
    vocabulary = Vocabulary.from_texts(["aalto b"], Phones(lexicon=tmp_path / "cmudict"))
    assert vocabulary.tokens[2:] == ("#", "AA1", "B", "L", "OW2", "T"), "with a tab # may be a phone"


MFA = "fox\t1.0\t0.14\t1.2\t0.95\tf ɑ k s\nthe\t0.88\t0.02\t0.97\t1.0\tð ə\n"
FOX, THE = ("f", "ɑ", "k", "s"), ("ð", "ə")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("mfa.dict", MFA, [FOX, THE]),
        ("mfa.dict", MFA.replace("0.88", "1").replace("0.97\t1.0", "1\t1").replace("0.95", "1"), [FOX, THE]),
        ("mfa.dict", MFA.replace("\t", " "), [FOX, THE]),
        ("one.dict", "fox\t0.9\tf ɑ k s\nthe\t1e-05\tð ə\n", [FOX, THE]),
        ("one.dict", "red fox\t0.9\tf ɑ k s\nthe\t1\tð ə\n", [FOX, THE]),
        ("whole.dict", "fox\t1\tf ɑ k s\nthe\t1\tð ə\n", [FOX, THE]),
        ("some.dict", "fox 0.9 f ɑ k s\nthe ð ə\n", [FOX, THE]),
        ("prepare_lang", "fox 1.0\tf ɑ k s\nthe 1.0\tð ə\n", [FOX, THE]),
        ("lexiconp", "fox  1  f ɑ k s\nthe\t.5 ð\tə\n", [FOX, THE]),
        ("lexiconp.txt", "fox 1 f ɑ k s\nthe 1 ð ə\n", [FOX, THE]),
        ("lexiconp_silprob.txt", "fox 1 0.2 1 1 f ɑ k s\nthe 1 1 1 1 ð ə\n", [FOX, THE]),
        ("htk", "fox [fox] f ɑ k s\nthe [] 0.9 ð ə\n", [FOX, THE]),
        ("sampa", "a 2 9\nb 1 { @\n", [("2", "9"), ("1", "{", "@")]),
        ("sampa", "a\t2\nb\t9 6\n", [("2",), ("9", "6")]),
        ("sampa", "a\t2\t9\nb\t1\t6\n", [("2", "9"), ("1", "6")]),
        ("sampa", "a 0.9 2 9\nb 1 2\n", [("2", "9"), ("2",)]),
        ("tones", "a 1.0 5\nb 1.0 5 4\n", [("5",), ("5", "4")]),
        ("words", "1.5\tf\n2 3\tə\n", [("f",), ("ə",)]),
        ("ones", "fox 1 f ɑ k s\n" * 10, [FOX] * 10),
        ("ones", "fox 1 1 1 1 f ɑ k s\n" * 10, [FOX] * 10),
        ("few", "fox 1 f ɑ k s\n" * 9, [("1", *FOX)] * 9),
        ("sampa", "fox 1 f ɑ k s\n" * 10 + "y 1 2\n", [("1", *FOX)] * 10 + [("1", "2")]),
        ("sampa", "fox 1 f ɑ k s\n" * 10 + "y 2 f\n", [("1", *FOX)] * 10 + [("2", "f")]),
        ("sampa", "fox 1 f ɑ k s\n" * 10 + "y 1\n", [("1", *FOX)] * 10 + [("1",)]),
    ],
)
def test_numbers_that_the_format_says_are_probabilities_are_no_phones(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content, encoding="utf-8")
    found, notes = read_pronunciations(tmp_path / name)
    assert [each.phones for each in found] == expected
    assert bool(notes) == (len(content.split()) > sum(len(each.word.split()) + len(each.phones) for each in found))


def test_what_was_left_out_of_a_lexicon_is_said_once(tmp_path):
    (tmp_path / "mfa.dict").write_text(MFA, encoding="utf-8")
    vocabulary = Vocabulary.from_texts(["the fox"], Phones(lexicon=tmp_path / "mfa.dict"))
    assert vocabulary.tokens[2:] == tuple(sorted(FOX + THE))
    (note,) = vocabulary.notes
    assert note.endswith("on 2 of 2 lines, are probabilities and not taken: line 1 is fox: f ɑ k s")


def test_a_whole_number_that_may_be_either_is_refused(tmp_path):
    (tmp_path / "lexicon").write_text("a 0.9 x\nb y\nc 1 z\n")
    with pytest.raises(VocabularyError, match=r":3: '1' may be a probability or a phone, .*write them with a point"):
        read_pronunciations(tmp_path / "lexicon")


def test_words_and_phones_are_cut_at_blanks_and_tabs_alone(tmp_path):
    (tmp_path / "lexicon").write_bytes("a\u2028b\tx\u00a0y z\u3000\r\nc\x85d x\x0b \x1c".encode())
    found = [(each.word, each.phones) for each in read_pronunciations(tmp_path / "lexicon")[0]]
    assert found == [("a\u2028b", ("x\u00a0y", "z\u3000")), ("c\x85d", ("x\x0b", "\x1c"))]


def test_words_without_phones_are_named(lexicon):
    vocabulary = Vocabulary.from_texts(["world"], Phones(lexicon=lexicon))
    with pytest.raises(VocabularyError, match=r"u7: the text holds 'new' 'york', which the lexicon lacks; add them"):
        vocabulary.encode("world new york", where="u7")
    with pytest.raises(VocabularyError, match="'new', which the lexicon lacks"):
        vocabulary.reference("new world")


def test_phones_outside_the_training_texts_are_unknown(lexicon):
    vocabulary = Vocabulary.from_texts(["world"], Phones(lexicon=lexicon))
    with pytest.raises(VocabularyError, match=r"u7: the text holds 'ʒ', which the vocabulary lacks"):
        vocabulary.encode("unused", where="u7")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("word\n", r":1: expected a word and its phones, found 'word'"),
        ("# nothing\n", "holds no words; expected lines of a word, a tab and its phones"),
        ("other\to\n", "has none of the words of the training texts"),
        ("word\tw |\n", r"has a phone '\|', which marks word boundaries"),
    ],
)
def test_a_lexicon_that_cannot_be_used_is_refused_with_the_reason(tmp_path, content, message):
    (tmp_path / "lexicon").write_text(content)
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_texts(["word"], Phones(lexicon=tmp_path / "lexicon"))


def test_a_lexicon_that_is_not_there_is_named(tmp_path):
    with pytest.raises(VocabularyError, match=r"none\.txt: cannot be read"):
        Vocabulary.from_texts(["word"], Phones(lexicon=tmp_path / "none.txt"))


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS,
        ["мама мыла раму", "мама мыла окно"],
        ["नमस्ते दुनिया", "नमस्ते"],
        ["مرحبا بالعالم", "مرحبا"],
        ["学校 学生", "学校"],
    ],
)
def test_pieces_spell_the_training_texts_of_any_script_and_come_back(texts):
    pytest.importorskip("sentencepiece")
    vocabulary = Vocabulary.from_texts(texts, Pieces(size=30))
    for text in texts:
        ids = vocabulary.encode(text, where="u1")
        assert vocabulary.decode(ids) == text
        assert len(ids) <= len(text) + 1


def test_frequent_words_are_pieces_and_the_same_texts_give_the_same_pieces():
    pytest.importorskip("sentencepiece")
    first = Vocabulary.from_texts(TEXTS, Pieces(size=26))
    assert first == Vocabulary.from_texts(TEXTS, Pieces(size=26))
    assert len(first.tokens) <= 27
    assert "▁the" in first.tokens
    assert len(first.encode("the the", where="u1")) == 2
    assert first.begins_word(first.tokens.index("▁the"))


def test_texts_are_segmented_as_sentencepiece_does():
    """Its own encoder on its own model is the oracle; letters that it lacks are not in these texts."""
    sentencepiece = pytest.importorskip("sentencepiece")
    import io

    written = io.BytesIO()
    texts = TEXTS * 3
    options = {"vocab_size": 31, "model_type": "unigram", "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, character_coverage=1.0, num_threads=1, unk_id=0,
        bos_id=-1, eos_id=-1, pad_id=-1, normalization_rule_name="identity", **options,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    ours = train_pieces(texts, 30)
    for text in [*TEXTS, "rats that rent hens", "the theatre"]:
        assert segment(text, ours) == theirs.encode(text, out_type=str)


@given(st.text("abc ", max_size=12))
def test_the_pieces_chosen_are_the_most_probable_of_all_ways_to_spell(text):
    scores = {"▁": -3.0, "a": -2.0, "b": -2.5, "c": -4.0, "ab": -3.1, "▁a": -4.2, "bc": -5.0, "▁abc": -9.0, "ca": -5.9}

    def best(rest: str) -> float:
        if not rest:
            return 0.0
        found = [scores[rest[:n]] + best(rest[n:]) for n in range(1, len(rest) + 1) if rest[:n] in scores]
        return max(found)

    pieces = segment(text, scores)
    assert "".join(pieces) == "".join(f"▁{word}" for word in text.split())
    assert sum(scores[piece] for piece in pieces) == pytest.approx(sum(best(f"▁{word}") for word in text.split()))


def test_letters_that_no_piece_spells_are_named():
    pytest.importorskip("sentencepiece")
    with pytest.raises(VocabularyError, match=r"u3: the text holds 'z' 'ё', which the vocabulary lacks"):
        Vocabulary.from_texts(TEXTS, Pieces(size=30)).encode("the zoo ё z", where="u3")


def test_too_few_pieces_for_the_letters_are_refused_with_the_least_number():
    with pytest.raises(
        VocabularyError, match=r"units\.size=5 is too small: .* hold 12 letters.*raise it to 14 or more"
    ):
        train_pieces(TEXTS, 5)


def test_without_sentencepiece_pieces_name_the_extra_and_nothing_else_needs_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ConfigError, match=r"pip install 'speechssl\[pieces\]'"):
        Vocabulary.from_texts(TEXTS, Pieces(size=30))
    kept = Vocabulary(("<blank>", *PIECES.scores), "pieces", scores=PIECES.scores)
    assert kept.decode(kept.encode("ab b", where="u1")) == "ab b"


SCORES = {"▁": -3.0, "▁a": -1.0, "a": -2.0, "b": -2.5}
PIECES = Vocabulary(("<blank>", *SCORES), "pieces", TextConfig(case="lower"), scores=SCORES)
PHONES = Vocabulary(("<blank>", "|", "æ", "b"), "phones", lexicon={"ab": ("æ", "b"), "b": ("b",)})


@pytest.mark.parametrize("vocabulary", [PIECES, PHONES, Vocabulary(("<blank>", "|", "a", "b"))])
def test_a_model_keeps_all_that_its_texts_need(vocabulary):
    described = Description.of_recogniser(
        EncoderConfig.small(), CTCConfig(), vocabulary, audio=AudioConfig(), family=None
    )
    read = from_dict(to_dict(described), Description, where="model.json").speller()
    assert read == vocabulary
    assert read.encode("ab b", where="u1") == vocabulary.encode("ab b", where="u1")


def test_a_description_of_before_reads_as_letters_as_they_are():
    described = Description.of_recogniser(
        EncoderConfig.small(), CTCConfig(), Vocabulary(("<blank>", "|", "a")), audio=AudioConfig(), family=None
    )
    values = to_dict(described)
    for name in ("written_in", "text", "lexicon", "piece_scores"):
        del values[name]
    assert from_dict(values, Description, where="model.json") == described


def test_pieces_without_their_scores_are_refused():
    with pytest.raises(CheckpointError, match="expected a score for each of 4 pieces, found 2"):
        dataclasses.replace(
            Description.of_recogniser(EncoderConfig.small(), CTCConfig(), PIECES, audio=AudioConfig(), family=None),
            piece_scores=(-1.0, -2.0),
        )
