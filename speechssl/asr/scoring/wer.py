"""Word and character error rates by jiwer, with hypotheses matched to references by utterance id."""

from collections.abc import Mapping
from dataclasses import dataclass

import jiwer

from speechssl.errors import ManifestError

__all__ = ["ErrorRate", "Scores", "score_texts"]


@dataclass(frozen=True, kw_only=True)
class ErrorRate:
    """Errors over reference tokens."""

    substitutions: int
    deletions: int
    insertions: int
    reference: int  # number of reference tokens

    @property
    def rate(self) -> float:
        """Errors per reference token; may exceed 1."""
        return (self.substitutions + self.deletions + self.insertions) / self.reference


@dataclass(frozen=True, kw_only=True)
class Scores:
    """CER and WER of one set of utterances."""

    characters: ErrorRate
    words: ErrorRate
    utterances: int

    @property
    def cer(self) -> float:
        """Character error rate, spaces counted as characters."""
        return self.characters.rate

    @property
    def wer(self) -> float:
        """Word error rate."""
        return self.words.rate


def score_texts(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> Scores:
    """Score texts without normalisation.

    Args:
        references: text by utterance id.
        hypotheses: text by utterance id, the same ids.

    Raises:
        ManifestError: an utterance has no reference or no hypothesis, or an empty reference.
    """
    for have, lack, what in ((references, hypotheses, "hypothesis"), (hypotheses, references, "reference")):
        missing = [key for key in have if key not in lack]
        if missing:
            raise ManifestError(f"score: {len(missing)} utterances have no {what}: {', '.join(missing[:3])}")
    empty = [key for key, text in references.items() if not text.strip()]
    if empty or not references:
        raise ManifestError(
            f"score: {len(empty)} references are empty: {', '.join(empty[:3])}; remove them or transcribe them"
            if empty
            else "score: there is nothing to score"
        )
    ids = sorted(references)
    expected, found = [references[key] for key in ids], [hypotheses[key] for key in ids]
    words = jiwer.process_words(expected, found)
    characters = jiwer.process_characters(expected, found)
    return Scores(characters=_error_rate(characters), words=_error_rate(words), utterances=len(ids))


def _error_rate(output: jiwer.WordOutput | jiwer.CharacterOutput) -> ErrorRate:
    return ErrorRate(
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
        reference=output.hits + output.substitutions + output.deletions,
    )
