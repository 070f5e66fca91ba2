"""Checks of a labelled set before the first step: texts, tokens and lengths. Reads no audio.

`preflight` checks, `Preflight.refuse` raises all faults in one error, and `preflight_text` prints them.
"""

import dataclasses
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from speechssl.corpus.check.text_checks import count_letters, unusual_rates
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import CheckpointError, ManifestError, SpeechSSLError, VocabularyError
from speechssl.hub.saved import vocabulary_of_run
from speechssl.stages.preflight_advice import advice, replacement
from speechssl.text.policy import TextConfig, digits_in
from speechssl.text.vocabulary import UnitsConfig, Vocabulary, frames_needed
from speechssl.train.checkpoint import DESCRIPTION
from speechssl.train.run_folder import MOST_NAMED

__all__ = ["Fault", "Labelled", "Preflight", "Rare", "Rules", "Unfit", "Unusual", "frame_budget", "preflight"]

RARE = 5  # occurrences; a rarer letter is hardly learnt, and may be a typing error
_SPREADS = 4.0  # limit for unusual durations, in spreads (1.4826 MAD) of the log duration from the median
_PREVIEW = 5  # texts shown

Split = Literal["train", "dev"]
Fault = Literal["no text", "empty text", "digits", "no phones", "too short"]

_MEND = {  # message for the utterances of each fault
    "no text": "utterances have no text: {}; fill the manifest's text column, or set bad_text=skip",
    "empty text": "texts are empty after the policy of texts: {}; correct them, or set bad_text=skip to leave them out",
    "digits": "texts hold digits, and text.digits=refuse: {}; write numbers as they are spoken, or set bad_text=skip",
    "no phones": "texts hold words that the lexicon lacks: {}; add the words to it, or set bad_text=skip",
    "too short": "utterances are too short for their text: {}; correct the transcripts, or set bad_length=skip to "
    "leave them out",
}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The recipe's rules for texts, and the frame arithmetic of the encoder."""

    units: UnitsConfig
    text: TextConfig
    bad_text: Literal["stop", "skip"]  # action on texts that cannot be learned
    bad_length: Literal["stop", "skip"]  # action on utterances with fewer frames than their text needs
    hop: int  # samples from one encoder frame to the next
    window: int  # samples in the window of an encoder frame
    fastest: float = 1.0  # largest speed factor of the augmentation
    out: Path | None = None  # run folder: a resumed run keeps its vocabulary

    @property
    def skipped(self) -> frozenset[Fault]:
        """The faults whose utterances are left out."""
        texts: frozenset[Fault] = frozenset({"no text", "empty text", "digits", "no phones"})
        return (texts if self.bad_text == "skip" else frozenset()) | (
            frozenset({"too short"}) if self.bad_length == "skip" else frozenset()
        )


@dataclass(frozen=True, kw_only=True)
class Unfit:
    """An utterance that cannot be learned from, or scored."""

    id: str
    split: Split
    fault: Fault
    detail: str  # its id, and numbers if there are any


@dataclass(frozen=True, kw_only=True)
class Rare:
    """A token that few utterances hold, or a letter that only the dev set holds."""

    token: str
    count: int
    ids: tuple[str, ...]  # the first three utterances that hold it
    replaced_by: str | None = None  # a frequent letter that may replace it


@dataclass(frozen=True, kw_only=True)
class Unusual:
    """An utterance whose duration or letter rate is far from the others'."""

    id: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Statistics of one set."""

    utterances: int
    minutes: float
    durations_s: tuple[float, float, float]  # shortest, median, longest
    letters_per_second: float  # median; 0 without texts
    sample_rates: Mapping[int, int]  # number of utterances by rate in Hz


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """All findings."""

    train: Labelled
    dev: Labelled | None
    policy: TextConfig
    vocabulary: Vocabulary | None  # None without usable texts
    tokens: Mapping[str, list[int]]  # token ids of each usable training utterance
    frames: Mapping[str, tuple[int, int]]  # required and available, for each training utterance with tokens
    unfit: tuple[Unfit, ...]
    skipped: frozenset[Fault]  # faults that the recipe says to skip
    rare: tuple[Rare, ...]
    foreign: tuple[Rare, ...]  # letters that only the dev set holds
    unusual: tuple[Unusual, ...]
    notes: tuple[str, ...]
    preview: tuple[tuple[str, str], ...]  # texts before and after normalisation
    errors: tuple[SpeechSSLError, ...]  # reasons for training to stop

    def refuse(self) -> Vocabulary:
        """Raise the errors at which training stops; return the vocabulary if there are none.

        Raises:
            ManifestError: utterances have no text.
            VocabularyError: texts, tokens or lengths do not fit; or there is more than one fault.
            ConfigError: the package for subword pieces is not installed.
        """
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise VocabularyError("\n".join(map(str, self.errors)))
        assert self.vocabulary is not None, "a set without a vocabulary has errors"
        return self.vocabulary

    def usable(self, manifest: Manifest, split: Split = "train") -> Manifest:
        """Return the manifest without the utterances that are left out."""
        out = {each.id for each in self.unfit if each.split == split}
        if not out:
            return manifest
        return dataclasses.replace(manifest, utterances=tuple(row for row in manifest.utterances if row.id not in out))


def preflight(train: Manifest, dev: Manifest | None, rules: Rules) -> Preflight:
    """Check a labelled set: training utterances and dev set."""
    faults = [*_unreadable(train, "train", rules.text), *(_unreadable(dev, "dev", rules.text) if dev else ())]
    fit = _texts(train, faults, "train")
    vocabulary, errors = _vocabulary(fit, rules)
    if vocabulary is not None:
        faults += [*_unpronounced(train, faults, vocabulary, "train")]
        faults += [*_unpronounced(dev, faults, vocabulary, "dev")] if dev else []
        fit = _texts(train, faults, "train")
    tokens = {key: vocabulary.encode(each, where=key) for key, each in fit.items()} if vocabulary else {}
    frames = {
        row.id: frame_budget(row, tokens[row.id], rules.fastest, hop=rules.hop, window=rules.window)
        for row in train.utterances
        if row.id in tokens
    }
    faults += _too_short(frames)
    kept = {key: tokens[key] for key in _texts(train, faults, "train") if key in tokens}
    errors = [*_refusals(faults, rules.skipped), *errors]
    if not kept and not errors:
        errors.append(VocabularyError("no utterance is left to learn from; see the reasons of those left out"))
    pairs = [(each, rules.text.apply(each)) for each in fit.values()]
    return Preflight(
        train=_figures(train),
        dev=_figures(dev) if dev else None,
        policy=rules.text,
        vocabulary=vocabulary,
        tokens=kept,
        frames=frames,
        unfit=tuple(faults),
        skipped=rules.skipped,
        rare=tuple(_rare(tokens, vocabulary) if vocabulary else ()),
        foreign=tuple(_foreign(_texts(dev, faults, "dev"), vocabulary) if vocabulary and dev else ()),
        unusual=tuple(_unusual(train)),
        notes=(*(vocabulary.notes if vocabulary else ()), *advice(train, dev, fit, vocabulary)),
        preview=tuple(sorted(pairs, key=lambda pair: pair[0] == pair[1])[:_PREVIEW]),
        errors=tuple(errors),
    )


def _unreadable(manifest: Manifest, split: Split, text: TextConfig) -> Iterable[Unfit]:
    for row in manifest.utterances:
        if not row.text:
            yield Unfit(id=row.id, split=split, fault="no text", detail=row.id)
            continue
        prepared = text.apply(row.text)
        if not prepared:
            yield Unfit(id=row.id, split=split, fault="empty text", detail=f"{row.id} ({row.text[:20]!r})")
        elif text.refuses(prepared):
            yield Unfit(id=row.id, split=split, fault="digits", detail=f"{row.id} ({' '.join(digits_in(prepared))})")


def _texts(manifest: Manifest, faults: Sequence[Unfit], split: Split) -> dict[str, str]:
    out = {each.id for each in faults if each.split == split}
    return {row.id: row.text or "" for row in manifest.utterances if row.id not in out}


def _vocabulary(texts: Mapping[str, str], rules: Rules) -> tuple[Vocabulary | None, list[SpeechSSLError]]:
    if not texts:
        return None, []
    try:
        made = Vocabulary.from_texts(texts.values(), rules.units, rules.text)
        known = None if rules.out is None else vocabulary_of_run(rules.out)
    except SpeechSSLError as error:
        return None, [error]
    if known is None or known == made:
        return made, []
    lacking: dict[str, list[str]] = defaultdict(list)
    for key, text in texts.items():
        for letter in known.unknown_letters(text):
            lacking[letter].append(key)
    if lacking:
        return None, [_lacks(lacking, f"{rules.out}/{DESCRIPTION}")]
    note = "the texts, or what is done to them, changed since the run began; its vocabulary stays as it was"
    return dataclasses.replace(known, notes=(*made.notes, note)), []


def _lacks(places: Mapping[str, Sequence[str]], where: str) -> CheckpointError:
    """Return the error of a resumed run whose vocabulary lacks letters, with the utterances that hold them."""
    named = ", ".join(f"{letter!r} ({', '.join(ids[:3])})" for letter, ids in list(places.items())[:MOST_NAMED])
    return CheckpointError(
        f"{where}: describes another model: its vocabulary lacks {len(places)} letters of the texts: {named}. The "
        "texts, or the rule for signs inside words, changed since the run began; remove these letters from the texts "
        "and resume, or name another out"
    )


def _unpronounced(manifest: Manifest, faults: Sequence[Unfit], vocabulary: Vocabulary, split: Split) -> Iterable[Unfit]:
    for key, text in _texts(manifest, faults, split).items():
        if words := vocabulary.unknown_words(text):
            yield Unfit(id=key, split=split, fault="no phones", detail=f"{key} ({', '.join(words[:3])})")


def frame_budget(row: Utterance, ids: Sequence[int], fastest: float, *, hop: int, window: int) -> tuple[int, int]:
    """Count the frames that CTC needs, and those of the audio.

    Args:
        row: the utterance.
        ids: its tokens; each needs a frame, and so do equal neighbours between them.
        fastest: largest speed factor of the augmentation.
        hop: samples from one encoder frame to the next.
        window: samples in the window of an encoder frame.
    """
    return frames_needed(ids), max(0, (int(row.num_samples_16k / fastest) - window) // hop + 1)


def _too_short(frames: Mapping[str, tuple[int, int]]) -> Iterable[Unfit]:
    for key, (required, made) in frames.items():
        if made < required:
            detail = f"{key} (text needs {required} frames, audio makes {made})"
            yield Unfit(id=key, split="train", fault="too short", detail=detail)


def _refusals(faults: Sequence[Unfit], skipped: frozenset[Fault]) -> list[SpeechSSLError]:
    groups: dict[tuple[Split, Fault], list[str]] = defaultdict(list)
    for each in faults:
        if each.fault not in skipped:
            groups[each.split, each.fault].append(each.detail)
    found: list[SpeechSSLError] = []
    for (split, fault), details in groups.items():
        what = f"{'dev: ' if split == 'dev' else ''}{len(details)} {_MEND[fault].format(', '.join(details[:3]))}"
        found.append(ManifestError(what) if fault == "no text" else VocabularyError(what))
    return found


def _rare(tokens: Mapping[str, list[int]], vocabulary: Vocabulary) -> list[Rare]:
    """Return the tokens that occur fewer than `RARE` times; none for pieces, of which many are rare by design."""
    if vocabulary.written_in == "pieces":
        return []
    counts = Counter(token for ids in tokens.values() for token in ids)
    frequent = {vocabulary.tokens[token] for token, count in counts.items() if count >= RARE}
    found = []
    for token, count in sorted(counts.items(), key=lambda pair: (pair[1], pair[0])):
        if count < RARE and not vocabulary.is_boundary(token):
            ids = tuple(key for key, ids in tokens.items() if token in ids)[:3]
            sign = vocabulary.tokens[token]
            other = replacement(sign, frequent) if vocabulary.written_in == "letters" else None
            found.append(Rare(token=sign, count=count, ids=ids, replaced_by=other))
    return found


def _foreign(texts: Mapping[str, str], vocabulary: Vocabulary) -> list[Rare]:
    places: dict[str, list[str]] = defaultdict(list)
    for key, text in texts.items():
        for letter in vocabulary.unknown_letters(text):
            places[letter].append(key)
    known = set(vocabulary.tokens[1:])
    prepared = Counter("".join(map(vocabulary.text.apply, texts.values())))
    return [
        Rare(
            token=letter,
            count=prepared[letter] or len(ids),
            ids=tuple(ids[:3]),
            replaced_by=replacement(letter, known) if vocabulary.written_in != "phones" else None,
        )
        for letter, ids in sorted(places.items())
    ]


def _figures(manifest: Manifest) -> Labelled:
    rows = manifest.utterances
    durations = [row.duration_s for row in rows] or [0.0]
    rates = [count_letters(row.text) / row.duration_s for row in rows if row.text and row.duration_s > 0]
    return Labelled(
        utterances=len(rows),
        minutes=sum(durations) / 60,
        durations_s=(min(durations), float(np.median(durations)), max(durations)),
        letters_per_second=float(np.median(rates)) if rates else 0.0,
        sample_rates=dict(Counter(row.sample_rate for row in rows).most_common()),
    )


def _unusual(manifest: Manifest) -> Iterable[Unusual]:
    rows = [row for row in manifest.utterances if row.duration_s > 0]
    if not rows:
        return
    logs = np.log([row.duration_s for row in rows])
    middle = float(np.median(logs))
    spread = max(0.1, 1.4826 * float(np.median(np.abs(logs - middle))))
    for index in np.flatnonzero(np.abs(logs - middle) > _SPREADS * spread).tolist():
        row = rows[index]
        yield Unusual(id=row.id, what=f"lasts {row.duration_s:.2f} s, the median {np.exp(middle):.2f} s")
    letters = [count_letters(unicodedata.normalize("NFC", row.text or "")) for row in rows]
    durations, languages = [row.duration_s for row in rows], [row.language for row in rows]
    for index, _, rate, usual in unusual_rates(letters, durations, languages, CheckConfig()):
        yield Unusual(id=rows[index].id, what=f"{rate:.1f} letters a second, the median {usual:.1f}")
