"""The definition of a corpus: its metadata, the clips found in it, and what was left out and why."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.corpus.fetch.splits import SplitRule
from speechssl.corpus.fetch.spoken_text import Spoken
from speechssl.errors import CorpusError

__all__ = ["Clip", "ClipCollector", "Corpus", "Findings", "without_repeated_audio"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One recording, before its audio is decoded."""

    source: Path  # the recording as published
    path: str  # path of the decoded audio, relative to the prepared folder; its stem gives the id
    text: str | None
    speaker: str
    language: str
    name: str | None = None  # its id in the published corpus

    @property
    def id(self) -> str:
        """Its name, or else the path below `audio/` without suffix, `/` turned into `-`."""
        return self.name or Path(self.path).with_suffix("").as_posix().removeprefix("audio/").replace("/", "-")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All clips of a corpus, with an account of what was left out."""

    clips: tuple[Clip, ...]
    dropped: Mapping[str, Sequence[str]] = field(default_factory=dict)  # reason -> names of recordings left out
    textless: Mapping[str, Sequence[str]] = field(default_factory=dict)  # reason -> names of clips without text
    published_splits: Mapping[str, Sequence[str]] | None = None  # split -> clip ids, if the corpus defines splits


class ClipCollector:
    """Collects the clips of a corpus, and what is left out and why."""

    def __init__(self) -> None:
        """Start empty."""
        self._clips: list[Clip] = []
        self._dropped: dict[str, list[str]] = {}
        self._textless: dict[str, list[str]] = {}

    def add(
        self, source: Path, path: str, spoken: Spoken, *, speaker: str, language: str, name: str | None = None
    ) -> Clip:
        """Add a clip, with the words of its transcript or the reason why it has none."""
        clip = Clip(source=source, path=path, text=spoken.text, speaker=speaker, language=language, name=name)
        self._clips.append(clip)
        if spoken.why_not is not None:
            self._textless.setdefault(spoken.why_not, []).append(clip.id)
        return clip

    def drop(self, why: str, name: str) -> None:
        """Leave a recording out."""
        self._dropped.setdefault(why, []).append(name)

    def findings(self, published_splits: Mapping[str, Sequence[str]] | None = None) -> Findings:
        """Return everything collected."""
        return Findings(
            clips=tuple(self._clips),
            dropped=self._dropped,
            textless=self._textless,
            published_splits=published_splits,
        )


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """How one corpus is fetched, read and split."""

    name: str
    summary: str  # language, speakers, minutes
    licence: str
    find: Callable[[Path], Findings]  # argument: the folder of the unpacked packages, or the user's folder
    packages: tuple[str, ...] = ()  # Debian packages; empty: published elsewhere, and the user names the folder
    layout: str = "usr/share"  # expected contents of the user's folder, for error messages
    rule: SplitRule | None = None  # None: all is in the pool, unless the corpus has published splits
    alignments: Callable[[Path], Mapping[str, str]] | None = None  # id -> phone alignment, written to phones.tsv

    def __post_init__(self) -> None:
        """Refuse a string of packages, whose letters would be read as packages."""
        if isinstance(self.packages, str):
            raise CorpusError(
                f"corpus {self.name}: expected packages to be a tuple, found {self.packages!r}; add a comma"
            )

    @property
    def stays_in_place(self) -> bool:
        """Whether the audio is used in place, instead of being decoded into the prepared folder."""
        return not self.packages


def without_repeated_audio(findings: Findings, digest: Callable[[Path], Hashable]) -> Findings:
    """Keep one clip of each recording: one with text if there is one, then the one whose id sorts first.

    If copies of a recording have different texts, none is kept, as at least one is wrong.

    Args:
        findings: the clips; two with equal source bytes count as one recording.
        digest: returns a hash of a file's bytes.
    """
    copies: dict[Hashable, list[Clip]] = {}
    for clip in findings.clips:
        copies.setdefault(digest(clip.source), []).append(clip)
    kept, repeated, contradicted = [], [], []
    for group in copies.values():
        first, *others = sorted(group, key=lambda clip: (clip.text is None, clip.id))
        repeated += [clip.id for clip in others]
        if len({clip.text for clip in group if clip.text is not None}) > 1:
            contradicted.append(first.id)
            first = dataclasses.replace(first, text=None)
        kept.append(first)
    gone = set(repeated)
    textless = {reason: [name for name in names if name not in gone] for reason, names in findings.textless.items()}
    return Findings(
        clips=tuple(sorted(kept, key=lambda clip: clip.path)),
        dropped=_with_reason(findings.dropped, "same audio as another clip", repeated),
        textless=_with_reason(textless, "copies of the same audio carry different texts", contradicted),
        published_splits=findings.published_splits,
    )


def _with_reason(reasons: Mapping[str, Sequence[str]], reason: str, names: list[str]) -> dict[str, Sequence[str]]:
    return {**reasons, reason: sorted(names)} if names else dict(reasons)
