"""Report of self-training in Markdown: rounds, what was kept, calibration, diversity, mismatch, warnings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from speechssl.stages.mismatch import Mismatch, told
from speechssl.stages.record import RunRecord
from speechssl.stages.selftrain_recipe import SelftrainConfig

__all__ = ["Round", "report_of", "warnings_of"]


@dataclass(frozen=True, kw_only=True)
class Round:
    """A recogniser of the chain, and the pseudo-labels that it was trained on."""

    number: int
    name: str  # of its folder
    model: Path
    fingerprint: str
    cer: float | None = None  # of dev, without a search
    wer: float | None = None
    seconds: float = 0.0  # of training
    labels: Mapping[str, Any] = field(default_factory=dict)  # content of labels.json, and seconds


def report_of(
    config: SelftrainConfig,
    record: RunRecord,
    rounds: Sequence[Round],
    best: Round,
    data: Mapping[str, Any],
    effect: Sequence[Mapping[str, Any]] | None,
) -> str:
    """Write the report.

    Args:
        config: the recipe.
        record: times of the steps.
        rounds: the rounds that were done, from 0 on.
        best: the one with the lowest CER of dev.
        data: content of data.json.
        effect: what synthetic speech did to all of dev and to each group of it, if that was asked for.
    """
    assert best.cer is not None
    parts = [
        f"Best on dev: {best.name}, CER {best.cer:.1%}; copied to `best`. Seed {config.seed}.",
        *_table(_ROUNDS, map(_round_cells, rounds)),
        "CER and WER without a search. True CER: against the pool's texts, which are read for this column only and are "
        "never trained on. Seconds: of labelling and of training.",
    ]
    labelled = [each for each in rounds if each.labels]
    if labelled:
        parts += ["## Confidence", *_table(_CONFIDENCE, map(_confidence_cells, labelled))]
        parts += [
            "The measure with the least area under the risk-coverage curve of dev, mapped to the expected share of "
            "right letters. ECE after: by a map fitted on other utterances; by chance: what so few differ by. Of "
            "letters: ECE of the posteriors of single letters, before and after a map of their own."
        ]
        if reasons := [*_reasons(labelled)]:
            parts += ["## Left out of the pool", *_table(("round", "reason", "utterances"), reasons)]
        parts += ["## Diversity", *_table(_DIVERSITY, _diversity_cells(labelled))]
    apart = None if data["mismatch"] is None else Mismatch(**data["mismatch"])
    parts += ["## Data", *_table(("set", "utterances", "hours"), _set_cells(data))]
    parts += [*_left_out_lines(data), told(apart)]
    if config.synthetic is not None:
        parts += ["## Synthetic speech", *_synthetic_lines(effect)]
    if found := warnings_of(rounds, effect):
        parts += ["## Warnings", "\n".join(f"- {each}" for each in found)]
    total = sum(record.seconds(step) for step in dict.fromkeys(line["step"] for line in record.lines))
    return "\n\n".join([*parts, f"All steps: {total:.0f} s."]) + "\n"


def warnings_of(rounds: Sequence[Round], effect: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Return signs that training on own transcripts, or on synthetic speech, does harm."""
    labelled = [each for each in rounds if each.labels]
    return [
        *_about_synthetic(effect or ()),
        *_about_gains(rounds),
        *(line for each in labelled for line in _about_confidence(each)),
        *(line for each in labelled for line in _about_diversity(each)),
    ]


def _about_synthetic(effect: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(effect):
        is_sure = row["utterances"] >= _FEWEST and row["interval"][0] > 0
        if row["cer_with"] > row["cer_without"] and (number == 0 or is_sure):
            whom = f" of {row['column']} {row['group']}" if number else ""
            yield (
                f"Synthetic speech raised the CER of dev{whom} from {row['cer_without']:.1%} to "
                f"{row['cer_with']:.1%}; leave it out, or lower synthetic.max_hours."
            )


def _about_gains(rounds: Sequence[Round]) -> Iterator[str]:
    for before, now in pairwise(rounds):
        is_worse = before.cer is not None and now.cer is not None and now.cer >= before.cer
        falls = [name for name in _SIGNS if before.labels and _relative(now, name) < _relative(before, name)]
        if is_worse and len(falls) == len(_SIGNS):
            yield (
                f"Round {now.number}: pseudo-labels hold fewer words and lower entropies than those of round "
                f"{before.number}, and dev is no better: the texts collapse. Use {before.name}."
            )
        elif is_worse:
            yield f"Round {now.number} is no better on dev than {before.name}: more rounds are not supported."


def _about_confidence(each: Round) -> Iterator[str]:
    pool, dev = each.labels["pool"], each.labels["dev_at_threshold"]
    share = pool["kept"] / pool["utterances"]
    if dev["share"] < _ALIKE * share:
        yield (
            f"Round {each.number}: the threshold keeps {share:.0%} of the pool, and {dev['share']:.0%} of dev: the "
            f"measure {each.labels['measure']} means something else there, and the expected CER is a guess. A "
            "language model that has read the pool's texts does this; set keep.measure to another measure."
        )
    if pool["expected_cer"] > _WORSE * max(each.labels["dev"]["cer"], 0.01):
        yield (
            f"Round {each.number}: pseudo-labels are expected to have {pool['expected_cer']:.0%} of their letters "
            f"wrong, the transcripts of dev have {each.labels['dev']['cer']:.0%}: this pool is not like dev. Set "
            "keep.max_cer, or take another pool."
        )


def _about_diversity(each: Round) -> Iterator[str]:
    thin = [name for name in _SIGNS if _relative(each, name) < _THIN]
    if thin:
        named = ", ".join(f"{name.replace('_', ' ')} {_relative(each, name):.0%}" for name in thin)
        yield f"Round {each.number}: pseudo-labels are poorer than labelled texts ({named} of theirs)."


_SIGNS = ("distinct_words", "word_entropy", "letter_entropy")
_ALIKE = 0.5  # share that the threshold keeps of dev, relative to that of the pool
_WORSE = 1.5  # expected CER of pseudo-labels, relative to dev's
_FEWEST = 6  # utterances of a group that warns of harm; fewer get worse together by chance more often than 2.5 %
_THIN = 0.8  # share of the labelled texts' value

_ROUNDS = ("round", "CER", "WER", "teacher's CER, with decoder", "kept", "hours", "expected CER", "true CER", "seconds")
_CONFIDENCE = (
    "round",
    "measure",
    "areas",
    "ECE before",
    "after",
    "by chance",
    "of letters",
    "dev kept",
    "its CER",
    "95 %",
)
_EFFECT = ("group", "utterances", "without", "with", "difference")
_DIVERSITY = ("round", "texts", "words", "distinct", "letters", "bits a word", "bits a letter", "mean letters")


def _relative(each: Round, name: str) -> float:
    """Return a measure of diversity of the pseudo-labels relative to the labelled texts."""
    found = each.labels["diversity"]
    return float(found["pseudo"][name]) / max(float(found["labelled"][name]), 1e-9)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return ["\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)])]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _round_cells(each: Round) -> list[str]:
    cells = [f"{each.number}: {each.name}", _share(each.cer), _share(each.wer)]
    if not each.labels:
        return [*cells, "-", "-", "-", "-", "-", f"{each.seconds:.0f}"]
    pool, dev = each.labels["pool"], each.labels["dev"]
    cells += [_share(dev["cer"]), f"{pool['kept']} of {pool['utterances']}", f"{pool['kept_hours']:.2f}"]
    true = _share(pool["true_cer"]) + (f" of {pool['true_cer_of']}" if pool["true_cer_of"] else "")
    return [*cells, _share(pool["expected_cer"]), true, f"{each.labels['seconds']:.0f} + {each.seconds:.0f}"]


def _confidence_cells(each: Round) -> list[str]:
    found, dev = each.labels, each.labels["dev_at_threshold"]
    areas = ", ".join(f"{name} {area:.3f}" for name, area in sorted(found["areas"].items(), key=lambda pair: pair[1]))
    errors = [_error(found[name]) for name in ("ece_of_measure", "ece_of_map", "ece_by_chance")]
    interval = "-" if dev["interval"] is None else " to ".join(map(_share, dev["interval"]))
    kept = f"{dev['utterances']} ({dev['share']:.0%})"
    letters = found["letters"]
    errors.append("-" if not letters["letters"] else f"{letters['ece_of_posterior']:.3f}, {letters['ece_of_map']:.3f}")
    return [str(each.number), found["measure"], areas, *errors, kept, _share(dev["cer"]), interval]


def _reasons(rounds: Sequence[Round]) -> Iterator[list[str]]:
    for each in rounds:
        for reason, count in each.labels["pool"]["left_out"].items():
            yield [str(each.number), reason, str(count)]


def _diversity_cells(rounds: Sequence[Round]) -> Iterator[list[str]]:
    for each in rounds:
        for name, found in each.labels["diversity"].items():
            counts = [str(found[key]) for key in ("words", "distinct_words", "distinct_letters")]
            sizes = [f"{found['word_entropy']:.2f}", f"{found['letter_entropy']:.2f}", f"{found['mean_letters']:.1f}"]
            yield [str(each.number), name, *counts, *sizes]


def _set_cells(data: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, found in data["sets"].items():
        yield [name, str(found["utterances"]), f"{found['hours']:.2f}"]


def _left_out_lines(data: Mapping[str, Any]) -> list[str]:
    found = [
        f"- {name}: {count} left out, {reason}"
        for name, reasons in data["left_out"].items()
        for reason, count in reasons.items()
    ]
    return ["\n".join([*found, "- named in `0-data/left_out.tsv`"])] if found else []


def _synthetic_lines(effect: Sequence[Mapping[str, Any]] | None) -> list[str]:
    if effect is None:
        return ["It joined every training; synthetic.compare=true trains round 0 without it, too."]
    note = (
        "CER of dev of round 0, and the 95 % interval of the difference over utterances. Groups of fewer than "
        f"{_FEWEST} utterances are too few for a warning."
    )
    return [*_table(_EFFECT, map(_effect_cells, effect)), note]


def _effect_cells(each: Mapping[str, Any]) -> list[str]:
    name = " ".join(filter(None, (each["column"], each["group"])))
    rates = [_share(each[key]) for key in ("cer_without", "cer_with")]
    bounds = "-" if each["interval"] is None else "{:+.1%} to {:+.1%}".format(*each["interval"])
    return [name, str(each["utterances"]), *rates, bounds]
