"""Settings of transformers' CTC tokenizers: the tokens by id, and how they are joined to texts.

    vocab.json               ids by token, or a mapping from languages to such vocabularies
    tokenizer_config.json    the tokenizer's class and settings
    added_tokens.json, special_tokens_map.json    of version 4, if tokenizer_config.json has no `added_tokens_decoder`

Two classes are read, of letters and of phones. Texts equal those of `batch_decode` of versions 4 and 5, except that
runs of spaces become one space. A saved word_delimiter_token, which version 5 forgets, is respected as in version 4.
Reading and writing need no transformers; `decode_transformers` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechssl.errors import CheckpointError
from speechssl.hub.pickled import read_json
from speechssl.hub.saved import Description
from speechssl.text.policy import TextConfig
from speechssl.text.vocabulary import WORD_BOUNDARY
from speechssl.text.writing import WritingConfig

__all__ = ["Tokenizer", "decode_transformers", "read_tokenizer", "their_tokenizer"]

LETTERS, PHONES = "Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer"
_CLASSES: dict[str, Literal["letters", "phones"]] = {
    LETTERS: "letters",
    "Wav2Vec2Tokenizer": "letters",
    PHONES: "phones",
}
_SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}  # in their order


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Content of the files of a tokenizer, in our terms."""

    tokens: tuple[str, ...]  # tokens, the blank first
    order: tuple[int, ...]  # their id of each token
    written_in: Literal["letters", "phones"]
    text: TextConfig
    writing: WritingConfig
    added: dict[str, str]  # reason by name, for what was assumed
    dropped: dict[str, str]  # reason by name, for what is not used


def read_tokenizer(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Read the tokenizer of a CTC model.

    Args:
        path: model folder.
        config: the content of its config.json.

    Raises:
        CheckpointError: a file is missing or broken, the tokenizer has another class, or its texts cannot be
            reproduced.
    """
    settings = _settings(path)
    written_in = _kind(path, settings, config)
    ids = _ids(path, settings, written_in, size=config["vocab_size"])
    blank, added = _blank(path, settings, ids, config)
    tokens, boundary = _with_boundary(path, settings, ids, written_in)
    text = TextConfig()
    if written_in == "letters" and settings.get("do_lower_case"):
        tokens, text = _lowered(path, tokens, blank), TextConfig(case="lower")
    order = (blank, *(index for index in range(config["vocab_size"]) if index != blank))
    dropped = {}
    if written_in == "phones" and settings.get("do_phonemize", True):
        dropped["do_phonemize"] = "phonemizer turns texts into phones there; texts for this model must be phones"
    if (path / "language_model").is_dir():
        dropped["language_model"] = "decoding uses one only if it is given, as an ARPA file"
    return Tokenizer(
        tokens=tuple(tokens[index] for index in order),
        order=order,
        written_in=written_in,
        text=text,
        writing=WritingConfig(boundary=boundary, tidy=bool(settings.get("clean_up_tokenization_spaces"))),
        added=added,
        dropped=dropped,
    )


def their_tokenizer(described: Description) -> dict[str, Any]:
    """Return the settings with which transformers joins a model's tokens as the model itself does."""
    writing = described.writing
    settings: dict[str, Any] = {f"{name}_token": None for name in ("bos", "eos", "unk")}
    settings |= {"pad_token": described.vocabulary[0], "clean_up_tokenization_spaces": writing.tidy}
    if described.written_in == "phones":
        return settings | {
            "tokenizer_class": PHONES,
            "phone_delimiter_token": " ",
            "word_delimiter_token": WORD_BOUNDARY if writing.boundary == "" else None,
            "do_phonemize": False,
        }
    return settings | {
        "tokenizer_class": LETTERS,
        "word_delimiter_token": WORD_BOUNDARY,
        "replace_word_delimiter_char": " " if writing.boundary is None else writing.boundary,
        "do_lower_case": False,
    }


def decode_transformers(path: Path, ids: Sequence[int]) -> str:
    """Decode token ids to a text with transformers.

    Args:
        path: model folder.
        ids: token ids of transformers, without repeats.

    Raises:
        CheckpointError: transformers is not installed, or cannot load the tokenizer.
    """
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError("transformers is not installed; pip install 'speechssl[interop]'") from error
    settings = _settings(path)
    kind = _kind(path, settings, read_json(path / "config.json"))
    chosen = {"do_phonemize": False} if kind == "phones" else {}
    try:
        tokenizer = getattr(transformers, PHONES if kind == "phones" else LETTERS).from_pretrained(path, **chosen)
        (text,) = tokenizer.batch_decode([[*ids]])
    except Exception as error:  # transformers raises nearly anything for unknown settings
        raise CheckpointError(f"{path}: transformers cannot load its tokenizer ({error!r})") from error
    wanted = settings.get("word_delimiter_token", WORD_BOUNDARY)
    if kind == "letters" and str(tokenizer.word_delimiter_token) != str(
        wanted
    ):  # transformers may have "None" for None
        raise CheckpointError(
            f"{path}: says word_delimiter_token={wanted!r}, which transformers {transformers.__version__} forgets when "
            "it loads a tokenizer (version 4 does not)"
        )
    return str(text)


def _settings(path: Path) -> dict[str, Any]:
    """Return the settings, with tokens that were saved with their properties reduced to the token."""
    file, special = path / "tokenizer_config.json", path / "special_tokens_map.json"
    settings = read_json(file) if file.exists() else {}
    if "added_tokens_decoder" not in settings and special.exists():
        settings |= read_json(special)
    return {key: _content(value) if key.endswith("_token") else value for key, value in settings.items()}


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _kind(path: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Literal["letters", "phones"]:
    name = settings.get("tokenizer_class") or config.get("tokenizer_class") or LETTERS
    if name not in _CLASSES:
        raise CheckpointError(
            f"{path}: its tokenizer is of class {name}, expected {LETTERS} or {PHONES}; if it "
            f"joins tokens like one of them, save it as that, or set tokenizer_class in tokenizer_config.json"
        )
    return _CLASSES[name]


def _ids(
    path: Path, settings: Mapping[str, Any], written_in: Literal["letters", "phones"], *, size: int
) -> dict[int, str]:
    """Return the token of each output of the head, and of ids beyond."""
    file = path / "vocab.json"
    if not file.exists():
        others = [name for name in ("tokenizer.json", "spiece.model", "tokenizer.model") if (path / name).exists()]
        raise CheckpointError(
            f"{file}: no such file{f', found {others[0]}' if others else ''}; expected the vocabulary of a {LETTERS} "
            "or a "
            f"{PHONES}: write it there, as {{token: id}}, with a token for each of {size} outputs"
        )
    vocabulary = read_json(file)
    if any(isinstance(index, dict) for index in vocabulary.values()):
        language = str(settings.get("target_lang"))
        if not isinstance(vocabulary.get(language), dict):
            raise CheckpointError(
                f"{file}: expected one vocabulary, found one for each of {len(vocabulary)} languages, and "
                f"target_lang={language!r}; set target_lang in tokenizer_config.json to that of this head: "
                f"{', '.join([*vocabulary][:8])}"
            )
        vocabulary = vocabulary[language]
    tokens = {index: token for token, index in vocabulary.items()}
    if not all(type(index) is int for index in tokens):
        raise CheckpointError(f"{file}: expected an id for each token, a whole number; write the vocabulary again")
    for index, token in _added(path, settings).items():
        if written_in == "letters" and tokens.get(index, token) != token:
            raise CheckpointError(
                f"{file}: id {index} is {tokens[index]!r}, among the added tokens {token!r}; transformers 5 writes the "
                "former, 4 the latter: correct the wrong one"
            )
        tokens[index] = token
    for name, usual in _SPECIALS.items():  # transformers numbers missing ones after the last id
        token = settings.get(name, usual)
        if token is not None and token not in tokens.values():
            tokens.setdefault(len(tokens), token)
    missing = [index for index in range(size) if index not in tokens]
    if missing:
        raise CheckpointError(
            f"{file}: has no token for id {missing[0]}, expected ids 0 to {size - 1} as in config.json; the "
            "vocabulary belongs to another model"
        )
    return tokens


def _added(path: Path, settings: Mapping[str, Any]) -> dict[int, str]:
    file = path / "added_tokens.json"
    added = {index: token for token, index in (read_json(file) if file.exists() else {}).items()}
    try:
        added |= {int(index): _content(token) for index, token in (settings.get("added_tokens_decoder") or {}).items()}
    except (AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}/tokenizer_config.json: added_tokens_decoder holds no tokens by id") from error
    if not all(type(index) is int and isinstance(token, str) for index, token in added.items()):
        raise CheckpointError(f"{path}: its added tokens are no tokens with ids; save the tokenizer again")
    return added


def _blank(
    path: Path, settings: Mapping[str, Any], ids: Mapping[int, str], config: Mapping[str, Any]
) -> tuple[int, dict[str, str]]:
    """Return the id of the CTC blank, which is the tokenizer's padding token, and what was assumed."""
    trained: Any = config.get("pad_token_id")
    size = config["vocab_size"]
    pad = settings.get("pad_token", _SPECIALS["pad_token"])
    decoded = next((index for index, token in ids.items() if token == pad and index < size), None)
    if decoded is None and not (isinstance(trained, int) and 0 <= trained < size):
        raise CheckpointError(
            f"{path}/vocab.json: has no token for id {trained} of the blank (pad_token_id in config.json), and no "
            f"{pad!r} (pad_token in tokenizer_config.json); the vocabulary belongs to another model"
        )
    if decoded is None:
        reason = f"the tokenizer's pad_token is {pad!r}, which the head lacks: {ids[trained]!r} as config.json says"
        return trained, {"vocabulary, blank": reason}
    if decoded != trained:
        reason = f"config.json says pad_token_id={trained}, the tokenizer, which writes the texts there, {pad!r}"
        return decoded, {"vocabulary, blank": f"{reason}: {decoded}"}
    return decoded, {}


def _with_boundary(
    path: Path, settings: Mapping[str, Any], ids: Mapping[int, str], written_in: Literal["letters", "phones"]
) -> tuple[dict[int, str], str | None]:
    """Return the tokens with our word boundary in place of theirs, and what is written for it."""
    delimiter = settings.get("word_delimiter_token", WORD_BOUNDARY if written_in == "letters" else None)
    if delimiter not in ids.values():
        return dict(ids), WORD_BOUNDARY if WORD_BOUNDARY in ids.values() else None  # an ordinary token there
    if delimiter != WORD_BOUNDARY and WORD_BOUNDARY in ids.values():
        raise CheckpointError(
            f"{path}/vocab.json: has a token {WORD_BOUNDARY!r} beside the word_delimiter_token {delimiter!r}; here "
            f"{WORD_BOUNDARY!r} is the boundary between words: rename one of them in the files of the tokenizer"
        )
    tokens = {index: WORD_BOUNDARY if token == delimiter else token for index, token in ids.items()}
    if written_in == "phones":
        return tokens, ""
    replacement = settings.get("replace_word_delimiter_char", " ")
    return tokens, None if not isinstance(replacement, str) or replacement.isspace() else replacement


def _lowered(path: Path, tokens: Mapping[int, str], blank: int) -> dict[int, str]:
    """Return the tokens in lower case, as written with `do_lower_case`."""
    lowered = {index: token if index == blank else token.lower() for index, token in tokens.items()}
    twice = [token for token in lowered.values() if list(lowered.values()).count(token) > 1]
    if "Σ" in tokens.values():  # its lower case differs at the end of a word
        twice.append("σ")
    if twice:
        raise CheckpointError(
            f"{path}/tokenizer_config.json: do_lower_case makes {twice[0]!r} of two tokens, or of one two; set it to "
            "false to have texts in the case of the tokens"
        )
    return lowered
