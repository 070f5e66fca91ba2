"""Advice on texts that are valid but suspicious: mixed case, signs that nobody says, an unlikely letter rate."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from speechssl.corpus.check.text_checks import count_letters
from speechssl.data.utterances import Manifest
from speechssl.text.policy import digits_in
from speechssl.text.vocabulary import Vocabulary

__all__ = ["about_freezing", "advice", "replacement"]

_STRANGE = 0.05  # share of the letters of dev; typing errors and loan words stay below
_LETTER_RATE = (4.0, 16.0)  # plausible medians in letters per second, for alphabets; our corpora: 8 to 11


def advice(
    train: Manifest, dev: Manifest | None, texts: Mapping[str, str], vocabulary: Vocabulary | None
) -> Iterator[str]:
    """Yield a sentence for each suspicious property.

    Args:
        train: training set.
        dev: dev set.
        texts: texts of the training utterances by id, before normalisation.
        vocabulary: vocabulary of these texts.
    """
    if vocabulary is not None and texts:
        prepared = [vocabulary.text.apply(text) for text in texts.values()]
        if vocabulary.written_in != "phones":
            yield from _about_signs(prepared)
    yield from _about_letter_rate(train)
    if len({row.sample_rate for row in train.utterances}) > 1:
        yield "files have several sample rates; all become 16000 Hz, but speech recorded below has an empty upper band"
    if dev is not None and vocabulary is not None and vocabulary.written_in != "phones":
        known = set("".join(vocabulary.tokens[1:]))
        letters = Counter("".join(vocabulary.text.apply(row.text or "") for row in dev.utterances))
        total = letters.total() - letters[" "]
        strange = sum(count for c, count in letters.items() if c != " " and c not in known)
        if strange > _STRANGE * total:
            yield (
                f"{strange} of {total} letters of dev are not in train: another language, script or case? "
                "(text.case, data.manifests, dev.manifests)"
            )
    if dev is not None:
        shared = {row.id for row in train.utterances} & {row.id for row in dev.utterances}
        if shared:
            yield f"{len(shared)} ids of dev are also in train: {', '.join(sorted(shared)[:3])}; dev scores flatter"


def about_freezing(freeze_steps: int, steps: int) -> Iterator[str]:
    """Yield a sentence if the trunk is frozen for the whole run."""
    if freeze_steps >= steps:
        yield (
            f"the trunk is frozen for the whole run: ctc.freeze_steps={freeze_steps}, train.steps={steps}; only the "
            "head learns, which is enough only for a trunk as good as the published ones: lower ctc.freeze_steps"
        )


def replacement(letter: str, known: Collection[str]) -> str | None:
    """Return a known letter that may replace another: its other case, or the letter without diacritics.

    Examples:
        >>> replacement("É", {"e", "é"}), replacement("ё", {"е"}), replacement("q", {"e"})
        ('é', 'е', None)
    """
    plain = unicodedata.normalize("NFD", letter)[:1]
    for other in (letter.lower(), letter.upper(), plain, plain.lower()):
        if other != letter and other in known:
            return other
    return None


def _about_signs(prepared: list[str]) -> Iterator[str]:
    letters = Counter("".join(prepared))
    small = sum(count for c, count in letters.items() if c.islower())
    capital = sum(count for c, count in letters.items() if c.isupper())
    if min(small, capital) > 0:
        yield (
            f"texts mix cases, {capital} capitals among {small} small letters, which sound alike: "
            "text.case=lower or upper"
        )
    signs = {c for c in letters if unicodedata.category(c)[0] in "PS" and c not in "'-’"}
    if signs:
        with_signs = sum(not signs.isdisjoint(text) for text in prepared)
        shown = " ".join(sorted(signs)[:12])
        yield f"{with_signs} texts hold signs that nobody says ({shown}): text.punctuation=remove"
    digits = set(digits_in("".join(letters)))
    if digits:
        with_digits = sum(not digits.isdisjoint(text) for text in prepared)
        yield f"{with_digits} texts hold digits, spoken in more ways than one: text.digits=refuse lists them"


def _about_letter_rate(train: Manifest) -> Iterator[str]:
    rows = [row for row in train.utterances if row.text and row.duration_s >= 1 and _has_case(row.text)]
    if len(rows) < 10:
        return
    rate = float(np.median([count_letters(row.text or "") / row.duration_s for row in rows]))
    if not _LETTER_RATE[0] <= rate <= _LETTER_RATE[1]:
        yield (
            f"the median text has {rate:.1f} letters a second, expected {_LETTER_RATE[0]:g} to {_LETTER_RATE[1]:g} of "
            "speech in an alphabet: do texts belong to their audio, and is the sample rate right? "
            "(`speechssl manifest check`)"
        )


def _has_case(text: str) -> bool:
    """Whether most letters belong to an alphabet with case: Latin, Cyrillic, Greek, Armenian."""
    some = text[:40]
    return 2 * sum(c.lower() != c.upper() for c in some) > count_letters(some)
