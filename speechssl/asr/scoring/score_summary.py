"""An evaluation as lines of text, as a JSON object, and as a table with one row per utterance."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from speechssl.asr.scoring.evaluate import Compared, Evaluation, Group, Rate
from speechssl.asr.scoring.intervals import Difference
from speechssl.text.words import lacks_blanks

__all__ = ["advice", "as_json", "difference_lines", "lines", "utterance_rows"]

_FEW_BLOCKS = 10  # with fewer blocks a percentile interval is too narrow to be trusted


def lines(evaluation: Evaluation) -> list[str]:
    """Describe totals and groups, one line each."""
    config, total = evaluation.config, evaluation.total
    found = []
    for name, rate in (("CER", total.characters), ("WER", total.words)):
        errors = rate.errors
        kinds = f"substitutions {errors.substitutions}  deletions {errors.deletions}  insertions {errors.insertions}"
        found.append(f"{name} {100 * errors.rate:6.2f} % {_interval(rate)}  {kinds}  of {errors.reference}")
    drawn = f"{total.blocks} {config.blocks}s drawn {config.samples} times, seed {config.seed}"
    found.append(f"{total.utterances} utterances; intervals of {100 * config.level:g} %: {drawn}")
    if evaluation.left_out is not None:
        found += [f"left out, because not all files have them: {each}" for each in evaluation.left_out.described()]
    found.append(f"texts: {evaluation.normaliser}; alignment of words: {config.alignment}")
    if total.blocks < _FEW_BLOCKS:
        found.append(f"only {total.blocks} {config.blocks}s: the intervals are too narrow to be trusted")
    for grouping, groups in evaluation.groups.items():
        found.append(f"by {grouping}:")
        width = max(len(group.name) for group in groups)
        found += [_group_line(group, width) for group in groups]
    return found


def advice(evaluation: Evaluation) -> list[str]:
    """Warn that WER is not meaningful if words are not separated by spaces in a twentieth of the texts or more."""
    rows = evaluation.utterances
    unparted = lacks_blanks([row.reference for row in rows])
    if 20 * len(unparted) < len(rows):
        return []
    return [
        f"{len(unparted)} of {len(rows)} references ({', '.join(rows[place].id for place in unparted[:3])}) "
        "are in a script without spaces between words: WER counts whole sentences or parts between spaces there; "
        "use CER"
    ]


def difference_lines(differences: tuple[Difference, Difference]) -> list[str]:
    """Describe the differences of the second system from the first."""
    return [
        f"{name} of the second minus the first: {100 * each.difference:+.2f} points "
        f"[{100 * each.interval.low:+.2f}, {100 * each.interval.high:+.2f}], p = {each.p_value:.4f}, "
        f"lower in {100 * each.better_share:.1f} % of the draws"
        for name, each in zip(("WER", "CER"), differences, strict=True)
    ]


def as_json(evaluation: Evaluation, differences: tuple[Difference, Difference] | None = None) -> dict[str, Any]:
    """Return all scores; `cer` and `wer` are those of all utterances, as shares of 1."""
    total = evaluation.total
    found: dict[str, Any] = {
        "cer": total.characters.errors.rate,
        "wer": total.words.errors.rate,
        **_figures(total),
        "normaliser": evaluation.normaliser,
        "config": dataclasses.asdict(evaluation.config),
        "groups": {
            grouping: {group.name: _figures(group) for group in groups}
            for grouping, groups in evaluation.groups.items()
        },
        "notes": advice(evaluation),
    }
    if evaluation.left_out is not None:
        found["left_out"] = dataclasses.asdict(evaluation.left_out)
    if differences is not None:
        found["second_minus_first"] = {
            name: dataclasses.asdict(each) for name, each in zip(("wer", "cer"), differences, strict=True)
        }
    return found


def utterance_rows(utterances: Sequence[Compared]) -> list[list[str]]:
    """Return a header and one row per utterance, those with most word errors first."""
    header = ["id", "wer", "cer", "substitutions", "deletions", "insertions", "words", "reference", "hypothesis"]
    ranked = sorted(utterances, key=lambda row: (-row.word_errors.rate, -row.character_errors.rate, row.id))
    return [header, *([*_utterance_figures(row), row.reference, row.hypothesis] for row in ranked)]


def _utterance_figures(row: Compared) -> list[str]:
    words, characters = row.word_errors, row.character_errors
    counts = (words.substitutions, words.deletions, words.insertions, words.reference)
    return [row.id, f"{words.rate:.4f}", f"{characters.rate:.4f}", *map(str, counts)]


def _group_line(group: Group, width: int) -> str:
    rates = "  ".join(
        f"{name} {100 * rate.errors.rate:6.2f} % {_interval(rate)}"
        for name, rate in (("CER", group.characters), ("WER", group.words))
    )
    return f"  {group.name:{width}}  {rates}  {group.utterances} utterances, {group.words.errors.reference} words"


def _interval(rate: Rate) -> str:
    return f"[{100 * rate.interval.low:.2f}, {100 * rate.interval.high:.2f}]"


def _figures(group: Group) -> dict[str, Any]:
    return {
        "characters": dataclasses.asdict(group.characters.errors),
        "words": dataclasses.asdict(group.words.errors),
        "cer_interval": dataclasses.asdict(group.characters.interval),
        "wer_interval": dataclasses.asdict(group.words.interval),
        "utterances": group.utterances,
        "blocks": group.blocks,
    }
