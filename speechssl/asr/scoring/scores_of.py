"""Score texts in memory: one function for two lists or two mappings of texts."""

from collections.abc import Iterable, Mapping, Sequence

from speechssl.asr.scoring.evaluate import Evaluation, LeftOut, Reference, ScoreConfig, evaluate, in_common

__all__ = ["score"]

TextsGiven = Mapping[str, str] | Sequence[str]


def score(
    references: TextsGiven,
    hypotheses: TextsGiven,
    *,
    config: ScoreConfig | None = None,
    common: bool = False,
    speakers: Mapping[str, str] | None = None,
    languages: Mapping[str, str] | None = None,
) -> Evaluation:
    """Score hypotheses: word and character error rates, counts, and confidence intervals.

    Args:
        references: reference texts by utterance id, or a list of texts.
        hypotheses: texts of a system of the same type: with the same ids, or as many texts in the same order.
        config: normaliser, alignment and bootstrap; None for the defaults, which change no text.
        common: score only the utterances that both sides have; `Evaluation.left_out` has the others.
        speakers: speakers by utterance id, for `blocks="speaker"`.
        languages: language codes by utterance id, for normalisers that depend on the language.

    Returns:
        `wer` and `cer` are shares of 1; `total`, `utterances` hold the rest.

    Raises:
        ManifestError: ids are missing on one side, a reference is empty, or there is nothing to score.
        ValueError: a mapping is given with a list, lists differ in length, or a text is given instead of a list.

    Examples:
        >>> found = score(["one two", "three"], ["one too", "three"])
        >>> round(found.wer, 3), found.total.words.errors.substitutions
        (0.333, 1)
    """
    said, heard = _by_id(references, "references"), _by_id(hypotheses, "hypotheses")
    is_mapping = [isinstance(texts, Mapping) for texts in (references, hypotheses)]
    if is_mapping[0] != is_mapping[1]:
        raise ValueError("expected references and hypotheses that are both mappings or both lists")
    if not is_mapping[0] and len(said) != len(heard):
        raise ValueError(f"expected as many hypotheses as references, found {len(heard)} and {len(said)}")
    rows = [
        Reference(id=key, text=text, speaker=(speakers or {}).get(key), language=(languages or {}).get(key), groups={})
        for key, text in said.items()
    ]
    left_out: LeftOut | None = None
    if common:
        rows, (heard,), left_out = in_common(rows, [heard])
    return evaluate(rows, heard, config or ScoreConfig(), left_out=left_out)


def _by_id(texts: TextsGiven, what: str) -> dict[str, str]:
    if isinstance(texts, str):
        raise ValueError(f"{what}: expected a list of texts, or texts by id, found one text: put it into a list")
    if not isinstance(texts, Mapping | Iterable):
        raise ValueError(f"{what}: expected a list of texts, or texts by id, found {type(texts).__name__}")
    found = dict(texts) if isinstance(texts, Mapping) else {str(place): text for place, text in enumerate(texts)}
    for key, text in found.items():
        if not isinstance(text, str):
            raise ValueError(f"{what}: expected texts, found {type(text).__name__} at {key}; give its .text")
    return found
