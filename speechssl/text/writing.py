"""How tokens are written out as a text, where the tokenizer of another toolkit has its own way. Knows no tokens."""

from speechssl.config import configuration

__all__ = ["WritingConfig", "joined_words", "tidied"]

_TIDIED = (  # in this order, as transformers' `clean_up_tokenization` has it
    *((f" {sign}", sign) for sign in ".?!,"),
    (" ' ", "'"),
    *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)


@configuration
class WritingConfig:
    """The defaults write a blank between words, and ` | ` between words of phones."""

    boundary: str | None = None  # what is written for each `|`; None for the default, nothing where it is empty
    tidy: bool = False  # no blank before . ? ! , and English endings (transformers: clean_up_tokenization_spaces)
    silent: tuple[str, ...] = ()  # tokens that are not written

    def describe(self) -> str:
        """Say what differs from the default, nothing if nothing does."""
        said = [] if self.boundary is None else [f"{self.boundary!r} for a word boundary"]
        said += ["no blanks before punctuation"] if self.tidy else []
        said += [f"{' '.join(self.silent)} not written"] if self.silent else []
        return ", ".join(said)


def tidied(text: str) -> str:
    """Take out the blanks before punctuation and before English endings.

    Examples:
        >>> tidied("it 's late , isn 't it ?")
        "it's late, isn 't it?"
    """
    for found, written in _TIDIED:
        text = text.replace(found, written)
    return text


def joined_words(words: list[str], gaps: list[int]) -> list[bool]:
    """Say which words `tidied` joins to the word before them.

    Args:
        words: in order.
        gaps: blanks before each word; of the first, none.

    Examples:
        >>> joined_words(["it", "'s", "on"], [0, 1, 1])
        [False, True, False]
    """
    text = tidied("".join(" " * gap + word for word, gap in zip(words, gaps, strict=True)))
    joined, place = [], 0
    for word in words:
        blanks = len(text[place:]) - len(text[place:].lstrip(" "))
        joined.append(place > 0 and blanks == 0)
        place += blanks + len(word)
    return joined
