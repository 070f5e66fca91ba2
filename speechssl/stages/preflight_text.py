"""The findings of a pre-flight as text and as JSON."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from speechssl.stages.preflight import Fault, Labelled, Preflight, Rare
from speechssl.stages.reading_data import tell_left_out

__all__ = ["as_json", "lines", "short_lines", "tell_skipped"]

_SHOWN = 20  # findings of a kind in the report; JSON has all
_TIGHT = 3
_REASONS: dict[Fault, str] = {
    "no text": "without text",
    "empty text": "with a text that is empty after the policy",
    "digits": "with digits in the text",
    "no phones": "with words that the lexicon lacks",
    "too short": "too short for its text",
}


def short_lines(found: Preflight) -> list[str]:
    """Return the lines that a run prints about its texts at its start: one if there are no findings."""
    train = found.train
    size = f", {len(found.vocabulary)} tokens ({found.vocabulary.written_in})" if found.vocabulary else ""
    said = [f"preflight: {train.utterances} utterances, {train.minutes:.1f} min{size}; {found.policy.describe()}"]
    if found.rare:
        said.append(f"preflight: {len(found.rare)} tokens occur fewer than 5 times: {_named(found.rare)}")
    if found.foreign:
        said.append(f"preflight: dev holds {len(found.foreign)} letters that train lacks: {_named(found.foreign)}")
    if found.unusual:
        first = found.unusual[0]
        said.append(
            f"preflight: {len(found.unusual)} utterances of unusual length or letter rate, such as {first.id}: "
            f"{first.what}"
        )
    said += [f"preflight: {note}" for note in found.notes]
    if len(said) > 1:
        said.append("preflight: `speechssl preflight` with this recipe has the whole report")
    return said


def lines(found: Preflight) -> list[str]:
    """Return the whole report as lines of text."""
    return [*_sets(found), *_tokens(found), *_lengths(found), *_left_out(found), *_verdict(found)]


def as_json(found: Preflight) -> dict[str, Any]:
    """Return all findings as plain values, utterance by utterance."""
    vocabulary = found.vocabulary
    return {
        "train": asdict(found.train),
        "dev": asdict(found.dev) if found.dev else None,
        "policy": asdict(found.policy),
        "written_in": vocabulary.written_in if vocabulary else None,
        "vocabulary": list(vocabulary.tokens) if vocabulary else [],
        "suggested_vocabulary": _suggested(found),
        "suggested_replace": _replace(found),
        "rare": [asdict(each) for each in found.rare],
        "foreign": [asdict(each) for each in found.foreign],
        "unusual": [asdict(each) for each in found.unusual],
        "unfit": [asdict(each) | {"is_skipped": each.fault in found.skipped} for each in found.unfit],
        "frames": {key: {"required": pair[0], "made": pair[1]} for key, pair in found.frames.items()},
        "preview": [{"before": before, "after": after} for before, after in found.preview],
        "notes": list(found.notes),
        "refused": [str(error) for error in found.errors],
    }


def tell_skipped(found: Preflight) -> None:
    """Print to standard error which utterances are left out, and why."""
    for split, fault in dict.fromkeys((each.split, each.fault) for each in found.unfit):
        if fault in found.skipped:
            details = [each.detail for each in found.unfit if (each.split, each.fault) == (split, fault)]
            tell_left_out(details, ("dev: " if split == "dev" else "") + _REASONS[fault])


def _sets(found: Preflight) -> Iterator[str]:
    for name, labelled in (("train", found.train), ("dev", found.dev)):
        if labelled is not None:
            yield f"{name:<9}{_described(labelled)}"
    yield f"texts    {found.policy.describe()}"
    for before, after in found.preview:
        yield f"         {before}"
        yield f"      -> {after}" if before != after else "      -> the same"


def _described(labelled: Labelled) -> str:
    shortest, median, longest = labelled.durations_s
    rates = ", ".join(f"{count} at {rate} Hz" for rate, count in labelled.sample_rates.items())
    return (
        f"{labelled.utterances} utterances ({rates}), {labelled.minutes:.1f} min; {shortest:.2f} to {longest:.2f} s, "
        f"median {median:.2f} s; median {labelled.letters_per_second:.1f} letters a second"
    )


def _tokens(found: Preflight) -> Iterator[str]:
    if found.vocabulary is None:
        return
    yield f"tokens   {len(found.vocabulary)} ({found.vocabulary.written_in}): {' '.join(found.vocabulary.tokens[:200])}"
    for rare in found.rare[:_SHOWN]:
        yield f"rare     {_one(rare)}: {rare.count} times, in {', '.join(rare.ids)}"
    if found.rare:
        yield f"         suggested: {' '.join(_suggested(found)[:200])}"
        if replace := _replace(found):
            pairs = ", ".join(f'["{old}", "{new}"]' for old, new in replace)
            yield f"         text: {{replace: [{pairs}]}}"
        lost = [rare.token for rare in found.rare if rare.replaced_by is None]
        if lost:
            yield f"         leave out the utterances with {' '.join(lost)}, write the words otherwise, or add texts"
    for foreign in found.foreign[:_SHOWN]:
        yield f"dev only {_one(foreign)}: {foreign.count} times, in {', '.join(foreign.ids)}; will always be wrong"
    if len(found.foreign) > _SHOWN:
        yield f"         and {len(found.foreign) - _SHOWN} others"


def _lengths(found: Preflight) -> Iterator[str]:
    unfit = {each.id for each in found.unfit}
    tight = sorted(
        ((pair[0] / max(pair[1], 1), key, pair) for key, pair in found.frames.items() if key not in unfit), reverse=True
    )
    for share, key, (required, made) in tight[:_TIGHT]:
        yield f"tight    {key}: text needs {required} of {made} frames ({share:.0%})"
    for each in found.unusual[:_SHOWN]:
        yield f"unusual  {each.id}: {each.what}"
    if len(found.unusual) > _SHOWN:
        yield f"         and {len(found.unusual) - _SHOWN} others"


def _left_out(found: Preflight) -> Iterator[str]:
    skipped = [each for each in found.unfit if each.fault in found.skipped]
    for (split, fault), count in Counter((each.split, each.fault) for each in skipped).items():
        details = [each.detail for each in skipped if (each.split, each.fault) == (split, fault)]
        more = f", and {count - _SHOWN} others" if count > _SHOWN else ""
        yield f"skips    {split}, {fault}: {count}: {', '.join(details[:_SHOWN])}{more}"


def _verdict(found: Preflight) -> Iterator[str]:
    for note in found.notes:
        yield f"note     {note}"
    for error in found.errors:
        yield f"refused  {error}"
    is_less = any("data.bad_audio=skip" in note for note in found.notes)
    less = ", minus those with bad audio" if is_less else ""
    ready = f"ready: {len(found.tokens)} utterances to learn from{less}"
    yield f"verdict  {'training would refuse' if found.errors else ready}"


def _suggested(found: Preflight) -> list[str]:
    rare = {each.token for each in found.rare}
    return [token for token in found.vocabulary.tokens if token not in rare] if found.vocabulary else []


def _replace(found: Preflight) -> list[tuple[str, str]]:
    return [(rare.token, rare.replaced_by) for rare in found.rare if rare.replaced_by is not None]


def _named(rare: Sequence[Rare]) -> str:
    named = ", ".join(f"{_one(each)} ({each.count} times, as in {each.ids[0]})" for each in rare[:3])
    return named + (", ..." if len(rare) > 3 else "")


def _one(rare: Rare) -> str:
    """Show a letter so that a combining mark or a space is visible."""
    codes = "+".join(f"U+{ord(letter):04X}" for letter in rare.token)
    return f"{rare.token!r}" if len(rare.token) > 1 or rare.token.isascii() else f"{rare.token!r} {codes}"
