"""Tokens of fairseq's fine-tuned models: dictionary files, and how their symbols are joined to texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechssl.errors import CheckpointError
from speechssl.hub.fairseq_settings import Settings
from speechssl.hub.saved import Description
from speechssl.text.fields import lines_of
from speechssl.text.pieces import WORD_START
from speechssl.text.vocabulary import WORD_BOUNDARY

__all__ = ["SPECIALS", "dictionary_file", "their_post_process", "written_as", "written_by_signs"]

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # every dictionary begins with them; CTC's blank is <s>


def dictionary_file(path: Path) -> list[str]:
    """Read a dictionary file, a symbol and its count per line, without the four specials unless it overwrites them.

    Raises:
        CheckpointError: the file cannot be read, or a line does not parse.
    """
    try:
        lines = lines_of(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    signs = [*SPECIALS]
    for number, line in enumerate(lines, 1):
        entry = line.rstrip().removesuffix(" #fairseq:overwrite")
        sign, _, count = entry.rpartition(" ")
        if not line.strip():
            continue
        if not sign or not count.removeprefix("-").isdigit():
            raise CheckpointError(f"{path}:{number}: expected a sign, a blank and its count, found {line[:40]!r}")
        if sign in signs and entry == line.rstrip():
            raise CheckpointError(f"{path}:{number}: has {sign!r} a second time; remove it, or add #fairseq:overwrite")
        signs.append(sign)
    return signs


def written_as(settings: Settings, vocabulary: list[str], path: Path) -> dict[str, Any]:
    """Return the fields of a `Description` for the tokens and their writing, from `post_process` of the criterion.

    Tokens of labels `phn` are phones, joined by spaces, although the usual `letter` would join them without.

    Args:
        settings: settings of the model.
        vocabulary: tokens of the model, the blank first.
        path: path of the file, for errors.

    Raises:
        CheckpointError: `post_process` is not supported.
    """
    labels = settings.task.get("labels") or "ltr"
    is_phones = "phn" in labels  # one, or a list of one
    way = settings.criterion.get("post_process") or ("none" if is_phones else "letter")
    silent = [token for token in vocabulary[1:] if token == "</s>" or (token == "<SIL>" and way == "silence")]
    values: dict[str, Any] = {"vocabulary": vocabulary, "writing": {"silent": silent}}
    match way:
        case "letter" if not is_phones:
            return values
        case "letter" | "none" | "silence":
            boundary = "|" if "|" in vocabulary else None
            return values | {"written_in": "phones", "writing": {"silent": silent, "boundary": boundary}}
        case "sentencepiece" | "wordpiece":
            start = {"sentencepiece": WORD_START, "wordpiece": "_"}[way]
            pieces = [vocabulary[0], *(token.replace(start, WORD_START) for token in vocabulary[1:])]
            unfit = [token for token in pieces if WORD_START in token[1:]]
            if not unfit and len({*pieces}) == len(pieces):
                return values | _as_pieces(pieces)
            raise CheckpointError(
                f"{path}: has the piece {unfit[0] if unfit else WORD_START!r}, of post_process={way}, that begins a "
                f"word in its middle, or twice; expected {start} at the beginning of pieces only"
            )
        case _:
            raise CheckpointError(
                f"{path}: its texts are written with post_process={way!r}, supported are letter, sentencepiece, "
                "wordpiece, silence and none; set one in criterion.post_process if the tokens are such"
            )


def written_by_signs(vocabulary: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a `Description` for tokens without settings, such as those of fairseq2 and torchaudio.

    If tokens begin with SentencePiece's symbol for a space, they are its pieces, and its control symbols are not
    written. Otherwise a token that is a space separates words, like `|`.

    Args:
        vocabulary: tokens, the CTC blank first.
    """
    tokens = [*vocabulary]
    if any(token.startswith(WORD_START) for token in tokens) and not any(WORD_START in token[1:] for token in tokens):
        silent = [token for token in tokens[1:] if token in SPECIALS and token != "<unk>"]
        return {"writing": {"silent": silent}, **_as_pieces(tokens)}
    if WORD_BOUNDARY not in tokens:
        tokens = [WORD_BOUNDARY if token == " " else token for token in tokens]
    return {"vocabulary": tokens}


def _as_pieces(tokens: list[str]) -> dict[str, Any]:
    scores = [-1.0] * (len(tokens) - 1)  # equal scores, so that a text is split into the fewest pieces
    return {"written_in": "pieces", "vocabulary": tokens, "piece_scores": scores}


def their_post_process(described: Description) -> tuple[str, str]:
    """Return the extension of the label file, and `post_process` of its tokens."""
    ways = {"letters": ("ltr", "letter"), "phones": ("phn", "none"), "pieces": ("ltr", "sentencepiece")}
    return ways[described.written_in]
