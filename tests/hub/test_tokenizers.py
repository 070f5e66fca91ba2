"""What a model of transformers decodes, and what the same model decodes here: `speechssl.hub.tokenizers`."""

import json
import random
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer

from speechssl.errors import CheckpointError
from speechssl.hub.saved import Description
from speechssl.hub.tokenizers import decode_transformers, read_tokenizer, their_tokenizer
from speechssl.tasks.ctc import CTCConfig
from speechssl.text.policy import TextConfig
from speechssl.text.vocabulary import Vocabulary
from speechssl.text.writing import WritingConfig
from tests.model.tiny import BASE_LIKE

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABNST", "'", ".", ",", "ʃ"]
PHONES = ["<pad>", "<s>", "</s>", "<unk>", "t", "ʃ", "tʃ", "aɪ", "a", "."]
OF_PHONES = {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer", "do_phonemize": False}
LAST = [*"abn", "_", "[UNK]", "[PAD]"]
OF_LAST = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "word_delimiter_token": "_",
    "bos_token": None,
    "eos_token": None,
}


def folder_of(path: Path, tokens: Any, settings: dict[str, Any], **others: Any) -> Path:
    path.mkdir()
    ids = tokens if isinstance(tokens, dict) else {token: index for index, token in enumerate(tokens)}
    for name, content in {"vocab": ids, "tokenizer_config": settings, **others}.items():
        (path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return path


def read(path: Path, **config: Any) -> tuple[Vocabulary, tuple[int, ...]]:
    size = config.get("vocab_size") or len(json.loads((path / "vocab.json").read_text(encoding="utf-8")))
    found = read_tokenizer(path, {"pad_token_id": 0, **config, "vocab_size": size})
    return Vocabulary(found.tokens, found.written_in, found.text, writing=found.writing), found.order


def expect_equal_texts(path: Path, vocabulary: Vocabulary, order: tuple[int, ...]) -> None:
    settings = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    kind = Wav2Vec2PhonemeCTCTokenizer if "Phoneme" in str(settings.get("tokenizer_class")) else Wav2Vec2CTCTokenizer
    theirs = kind.from_pretrained(path, do_phonemize=False)
    if kind is Wav2Vec2CTCTokenizer and isinstance(settings.get("word_delimiter_token"), str):
        theirs._word_delimiter_token = settings["word_delimiter_token"]  # version 5 forgets any but |
    draw = random.Random(0)
    seen = set()
    for _ in range(60):
        frames = [index for index in draw.choices(range(len(order)), k=12) for _ in range(draw.choice([1, 1, 2]))]
        (text,) = theirs.batch_decode([[order[index] for index in frames]])
        ours = vocabulary.decode([index for index, _ in groupby(frames) if index != 0])
        assert ours == " ".join(text.split())
        seen.add(ours)
    assert len(seen) > 50


SETTINGS: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (LETTERS, {}, {}),
    (LETTERS, {"do_lower_case": True}, {}),
    (LETTERS, {"clean_up_tokenization_spaces": True}, {}),
    (LETTERS, {"clean_up_tokenization_spaces": True, "do_lower_case": True}, {}),
    (LETTERS, {"replace_word_delimiter_char": "-"}, {}),
    (LETTERS, {"replace_word_delimiter_char": ""}, {}),
    (LETTERS, {"word_delimiter_token": None}, {}),
    (LETTERS, {"word_delimiter_token": "'", "replace_word_delimiter_char": "~"}, {"without": "|"}),
    (LETTERS, {"word_delimiter_token": {"__type": "AddedToken", "content": "|", "lstrip": False}}, {}),
    (
        LETTERS,
        {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "unk_token": None,
            "pad_token": {"__type": "AddedToken", "content": "<pad>"},
        },
        {},
    ),
    (LETTERS, {"pad_token": "ʃ"}, {}),
    ({"x": {"a": 0, "<pad>": 1}, "eng": {t: i for i, t in enumerate(LETTERS)}}, {"target_lang": "eng"}, {}),
    (LAST, OF_LAST, {"pad_token_id": 5}),
    (LAST, OF_LAST, {"pad_token_id": 0}),
    (LAST, {**OF_LAST, "word_delimiter_token": " "}, {}),
    (LAST[:4], {**OF_LAST, "word_delimiter_token": "_", "unk_token": None}, {"vocab_size": 5}),
    (PHONES, OF_PHONES, {}),
    (PHONES, {**OF_PHONES, "clean_up_tokenization_spaces": True}, {}),
    ([*PHONES, "|"], OF_PHONES, {}),
    ([*PHONES, "|"], {**OF_PHONES, "word_delimiter_token": "|"}, {}),
    ([*PHONES, "#"], {**OF_PHONES, "word_delimiter_token": "#", "phone_delimiter_token": "-"}, {}),
]


@pytest.mark.parametrize(("tokens", "settings", "config"), SETTINGS)
def test_texts_are_those_of_transformers(tmp_path, tokens, settings, config):
    config = dict(config)
    tokens = [token for token in tokens if token != config.get("without")] if isinstance(tokens, list) else tokens
    config.pop("without", None)
    if isinstance(tokens, dict):
        config["vocab_size"] = len(tokens["eng"])
    path = folder_of(tmp_path / "theirs", tokens, settings)
    expect_equal_texts(path, *read(path, **config))


@pytest.mark.parametrize(
    ("tokens", "settings", "config"),
    [each for each in SETTINGS if isinstance(each[0], list) and not {"without", "vocab_size"} & each[2].keys()],
)
def test_what_is_written_back_gives_the_same_texts(tmp_path, tokens, settings, config):
    vocabulary, _ = read(folder_of(tmp_path / "theirs", tokens, settings), **config)
    described = Description(
        encoder=BASE_LIKE,
        ctc=CTCConfig(),
        vocabulary=vocabulary.tokens,
        written_in=vocabulary.written_in,
        writing=vocabulary.writing,
    )
    again = folder_of(tmp_path / "again", [*vocabulary.tokens], their_tokenizer(described))
    expect_equal_texts(again, vocabulary, tuple(range(len(vocabulary))))


def test_what_transformers_saved_is_read_with_its_added_tokens(tmp_path):
    path = folder_of(tmp_path / "bare", [*"ab|", "[UNK]", "[PAD]"], {})
    tokenizer = Wav2Vec2CTCTokenizer(str(path / "vocab.json"), unk_token="[UNK]", pad_token="[PAD]")
    tokenizer.add_tokens(["ch"])
    tokenizer.save_pretrained(tmp_path / "saved")
    assert len(tokenizer) == 8
    vocabulary, order = read(tmp_path / "saved", pad_token_id=4, vocab_size=8)
    assert vocabulary.tokens == ("[PAD]", "a", "b", "|", "[UNK]", "<s>", "</s>", "ch")
    expect_equal_texts(tmp_path / "saved", vocabulary, order)


def test_texts_of_a_lower_case_model_are_lowered_before_they_are_learned(tmp_path):
    vocabulary, _ = read(folder_of(tmp_path / "theirs", LETTERS, {"do_lower_case": True}))
    assert vocabulary.text == TextConfig(case="lower")
    assert vocabulary.decode(vocabulary.encode("Ab NAB", where="here")) == "ab nab"


def test_phones_without_a_lexicon_are_their_own_texts(tmp_path):
    vocabulary, _ = read(folder_of(tmp_path / "theirs", PHONES, OF_PHONES))
    assert vocabulary.decode(vocabulary.encode("t ʃ tʃ", where="here")) == vocabulary.reference("t ʃ tʃ") == "t ʃ tʃ"
    assert vocabulary.unknown_letters("t x") == ["x"]


def test_words_with_times_are_those_of_the_text():
    vocabulary = Vocabulary(("<pad>", "|", *"its',"), writing=WritingConfig(tidy=True))
    ids = [vocabulary.tokens.index(token) for token in "it|'s|||,|it"]
    assert vocabulary.decode(ids) == "it's , it"
    assert [[vocabulary.tokens[ids[place]] for place in word] for word in vocabulary.words(ids)] == [
        [*"it's"],
        [","],
        [*"it"],
    ]


@pytest.mark.parametrize(
    ("tokens", "settings", "message"),
    [
        (LETTERS, {"tokenizer_class": "GPT2Tokenizer"}, "of class GPT2Tokenizer, expected Wav2Vec2CTCTokenizer or"),
        (LETTERS, {"word_delimiter_token": "'"}, "a token '|' beside the word_delimiter_token \"'\""),
        ([*LETTERS, "a"], {"do_lower_case": True}, "do_lower_case makes 'a' of two tokens"),
        ([*LETTERS, "Σ"], {"do_lower_case": True}, "do_lower_case makes 'σ'"),
        ({"eng": {"a": 0}, "fra": {"b": 0}}, {}, "one for each of 2 languages, and target_lang='None'"),
        (LETTERS, {"added_tokens_decoder": {"5": {"content": "Q"}}}, "id 5 is 'A', among the added tokens 'Q'"),
    ],
)
def test_settings_that_write_what_is_not_written_here_are_refused(tmp_path, tokens, settings, message):
    path = folder_of(tmp_path / "theirs", tokens, settings)
    with pytest.raises(CheckpointError) as error:
        read(path)
    assert message in str(error.value)


def test_a_tokenizer_of_another_kind_is_named(tmp_path):
    (path := tmp_path / "theirs").mkdir()
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"vocab.json: no such file, found tokenizer.json; expected the vocab"):
        read_tokenizer(path, {"vocab_size": 5, "pad_token_id": 0})


def test_two_blanks_are_told(tmp_path):
    path = folder_of(tmp_path / "theirs", LAST, OF_LAST)
    found = read_tokenizer(path, {"pad_token_id": 0, "vocab_size": 6})
    assert found.tokens[0] == "[PAD]"
    assert found.added == {
        "vocabulary, blank": "config.json says pad_token_id=0, the tokenizer, which writes the texts there, '[PAD]': 5"
    }


@pytest.mark.parametrize("settings", [{}, {"word_delimiter_token": None}, {"do_lower_case": True}])
def test_transformers_is_asked_for_a_text(tmp_path, settings):
    path = folder_of(tmp_path / "theirs", LETTERS, settings, config={})
    assert decode_transformers(path, [5, 4, 6]) == read(path)[0].decode([5, 4, 6])
