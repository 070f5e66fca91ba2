"""Lists a corpus as published, in place, as one manifest with the published splits in a column."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from speechssl.corpus.fetch.decode import Progress, read_utterances
from speechssl.corpus.fetch.known_corpora import CORPORA
from speechssl.corpus.fetch.source import Findings
from speechssl.data.utterances import Manifest
from speechssl.errors import CorpusError

__all__ = ["PUBLISHED", "Published", "list_published"]

Published = Literal["librispeech", "libri-light", "common-voice"]
PUBLISHED: tuple[Published, ...] = get_args(Published)


def list_published(
    name: Published, source: Path, *, progress: Progress = lambda batches, _: batches
) -> tuple[Manifest, list[str]]:
    """List an unpacked corpus with texts, speakers, languages and splits.

    An utterance in several published splits gets the first of them: Libri-Light's smallest set that holds it, Common
    Voice's train, dev or test rather than the pool.

    Args:
        name: name of the corpus.
        source: the folder, as for `speechssl corpus NAME --source`; paths are relative to it.
        progress: wraps the batches of headers, given their number.

    Returns:
        The manifest, and notes on what was left out, and on utterances in several splits.

    Raises:
        CorpusError: the folder is missing or has another layout, or two recordings have the same name.
        AudioError: a recording cannot be read.
    """
    corpus = CORPORA[name]
    if not source.is_dir():
        raise CorpusError(f"{source}: no such folder; name the one that holds {corpus.layout}")
    findings = corpus.find(source)
    repeated = [key for key, number in Counter(clip.id for clip in findings.clips).items() if number > 1]
    if repeated:
        raise CorpusError(f"{source}: {len(repeated)} names occur twice: {', '.join(repeated[:3])}; remove one of each")
    clips = [dataclasses.replace(clip, path=clip.source.relative_to(source).as_posix()) for clip in findings.clips]
    split_of: dict[str, str] = {}
    for split, keys in (findings.published_splits or {}).items():
        for key in keys:
            split_of.setdefault(key, split)
    rows = [dataclasses.replace(row, split=split_of.get(row.id)) for row in read_utterances(clips, source, progress)]
    return Manifest(root=source, utterances=tuple(rows)), _notes(findings, split_of)


def _notes(findings: Findings, split_of: dict[str, str]) -> list[str]:
    notes = [f"left out: {len(names)}, {why}: {_first(names)}" for why, names in findings.dropped.items() if names]
    notes += [
        f"without text: {len(names)}, {why}: {_first(names)}" for why, names in findings.textless.items() if names
    ]
    for split, keys in (findings.published_splits or {}).items():
        others = {split_of[key]: None for key in keys if split_of[key] != split}
        if others:
            number = sum(split_of[key] != split for key in keys)
            notes.append(f"{split}: {number} of its {len(keys)} utterances are listed under {', '.join(others)}")
    return notes


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3])
