"""Settings for writing tokens as text, to match the tokenizers of other toolkits."""

from speechssl.config import configuration

__all__ = ["WritingConfig", "joined_words", "tidied"]

_TIDIED = (  # in the order of transformers' `clean_up_tokenization`
    *((f" {sign}", sign) for sign in ".?!,"),
    (" ' ", "'"),
    *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)


@configuration
class WritingConfig:
    """How texts are written; the defaults write a space between words, and ` | ` between words of phones."""

    boundary: str | None = None  # text written for each `|`; None for the default, empty for nothing
    tidy: bool = False  # no space before . ? ! , and English endings (transformers: clean_up_tokenization_spaces)
    silent: tuple[str, ...] = ()  # tokens that are not written

    def describe(self) -> str:
        """Describe the differences from the defaults; empty for none."""
        said = [] if self.boundary is None else [f"{self.boundary!r} for a word boundary"]
        said += ["no blanks before punctuation"] if self.tidy else []
        said += [f"{' '.join(self.silent)} not written"] if self.silent else []
        return ", ".join(said)


def tidied(text: str) -> str:
    """Remove spaces before punctuation and English endings.

    Examples:
        >>> tidied("it 's late , isn 't it ?")
        "it's late, isn 't it?"
    """
    for found, written in _TIDIED:
        text = text.replace(found, written)
    return text


def joined_words(words: list[str], gaps: list[int]) -> list[bool]:
    """Return which words `tidied` joins to the previous word.

    Args:
        words: in order.
        gaps: number of spaces before each word; 0 for the first.

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
