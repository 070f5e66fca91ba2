"""Prepares a corpus: fetches, decodes and splits it, and writes manifests. An interrupted run can be repeated.

A prepared folder holds `audio/`, one `<split>.tsv` per split, `phones.tsv` if the corpus has phone labels, and
`corpus.json`, which is written last: a folder without it is incomplete.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

from speechssl import fingerprint
from speechssl.atomic import write_atomically
from speechssl.corpus.fetch.debian import package_versions, unpacked_packages
from speechssl.corpus.fetch.decode import Progress, decode_clips, read_utterances
from speechssl.corpus.fetch.source import Clip, Corpus, Findings, without_repeated_audio
from speechssl.corpus.fetch.splits import listed_splits, lists_digest, published_splits, ruled_splits
from speechssl.data.manifest import write_manifest
from speechssl.data.utterances import Utterance
from speechssl.errors import CorpusError

__all__ = ["prepare_corpus"]

_SCRATCH = ".packages"  # folder of downloads and unpacked packages, removed at the end
_FORMAT = 1  # version of a prepared folder; raised when earlier folders must be prepared again


def prepare_corpus(
    corpus: Corpus,
    out: Path,
    *,
    source: Path | None = None,
    splits: Path | None = None,
    progress: Progress = lambda batches, _: batches,
) -> dict[str, Path]:
    """Prepare a corpus in `out`, and return the manifest of each split that is not empty.

    Args:
        corpus: the corpus.
        out: folder to fill.
        source: folder with the .deb files, the unpacked packages, or the corpus as published; None to download.
        splits: folder of split lists to follow, as in `manifests/`; None to split by rule.
        progress: wraps the batches of clips, given their number.

    Raises:
        CorpusError: a source is needed but missing, a download fails, the layout is unexpected, or the split lists do
            not match.
        AudioError: a recording cannot be read.
    """
    if source is not None and not source.is_dir():
        raise CorpusError(f"{source}: no such folder; --source names the folder that holds {_expected(corpus)}")
    if source is None and corpus.stays_in_place:
        raise CorpusError(
            f"{corpus.name} cannot be downloaded from here; name its folder with --source: {_expected(corpus)}"
        )
    request = {
        "format": _FORMAT,
        "name": corpus.name,
        "lists": lists_digest(splits) if splits else None,
        "root": str(source.resolve()) if source and corpus.stays_in_place else None,
    }
    finished = _finished(out, request)
    if finished is not None:
        return finished
    _forget(out, corpus.name)
    out.mkdir(parents=True, exist_ok=True)
    tree, findings = _lay_out(corpus, out, source, progress)
    utterances = read_utterances(findings.clips, out, progress)
    chosen = {split: rows for split, rows in _split(utterances, corpus, findings, splits).items() if rows}
    manifests = {split: out / f"{split}.tsv" for split in chosen}
    for split, path in manifests.items():
        write_manifest(path, chosen[split])
    if corpus.alignments is not None:
        rows = [f"{key}\t{phones}" for key, phones in sorted(corpus.alignments(tree).items())]
        write_atomically(out / "phones.tsv", "\n".join(["id\tphones", *rows]) + "\n")
    record = request | {"licence": corpus.licence, "packages": package_versions(corpus.packages, tree)}
    rmtree(out / _SCRATCH, ignore_errors=True)
    write_atomically(out / "corpus.json", _to_json(record | _account(chosen, findings)))
    return manifests


def _lay_out(corpus: Corpus, out: Path, source: Path | None, progress: Progress) -> tuple[Path, Findings]:
    if corpus.stays_in_place:
        assert source is not None  # checked by the caller
        tree, findings = source, corpus.find(source)
        _refuse_shared_ids(findings.clips)
        _link(out / "audio", source)
    else:
        tree = unpacked_packages(corpus.packages, out / _SCRATCH, source)
        findings = without_repeated_audio(corpus.find(tree), fingerprint.of_file)
        _refuse_shared_ids(findings.clips)
        decode_clips(findings.clips, out, progress)
    return tree, findings


def _read_record(out: Path) -> dict[str, Any]:
    try:
        record = json.loads((out / "corpus.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _finished(out: Path, request: Mapping[str, object]) -> dict[str, Path] | None:
    record = _read_record(out)
    manifests = {split: out / f"{split}.tsv" for split in record.get("splits", {})}
    same = all(record.get(key) == value for key, value in request.items())
    return manifests if same and manifests and all(path.is_file() for path in manifests.values()) else None


def _forget(out: Path, name: str) -> None:
    record = _read_record(out)
    if record.get("name", name) != name:
        raise CorpusError(f"{out}: holds the corpus {record['name']}; prepare {name} into a folder of its own")
    (out / "corpus.json").unlink(missing_ok=True)
    for split in record.get("splits", {}):  # another split list may have other splits
        (out / f"{split}.tsv").unlink(missing_ok=True)


def _link(link: Path, source: Path) -> None:
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise CorpusError(f"{link}: exists, expected to put a link to {source} there; prepare into an empty folder")
    link.symlink_to(source.resolve(), target_is_directory=True)


def _split(
    utterances: Sequence[Utterance], corpus: Corpus, findings: Findings, lists: Path | None
) -> dict[str, list[Utterance]]:
    if lists is not None:
        return listed_splits(utterances, lists)
    if findings.published_splits is not None:
        return published_splits(utterances, findings.published_splits)
    return ruled_splits(utterances, corpus.rule)


def _refuse_shared_ids(clips: Sequence[Clip]) -> None:
    seen: dict[str, Clip] = {}
    for clip in clips:
        other = seen.setdefault(clip.id, clip)
        if other is not clip:
            raise CorpusError(f"{clip.source} and {other.source} would both be called {clip.id}; remove one of them")


def _account(splits: Mapping[str, Sequence[Utterance]], findings: Findings) -> dict[str, object]:
    listed = {u.id for rows in splits.values() for u in rows}
    unlisted = [clip.id for clip in findings.clips if clip.id not in listed]
    return {
        "splits": {
            split: {"utterances": len(rows), "minutes": round(sum(u.duration_s for u in rows) / 60, 2)}
            for split, rows in splits.items()
        },
        "dropped": _counted(findings.dropped),
        "without_text": _counted(findings.textless),
        "in_no_split": _counted({"not listed": unlisted} if unlisted else {}),
    }


def _counted(reasons: Mapping[str, Sequence[str]]) -> dict[str, object]:
    return {reason: {"count": len(names), "first": list(names[:3])} for reason, names in reasons.items()}


def _to_json(record: Mapping[str, object]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _expected(corpus: Corpus) -> str:
    if corpus.packages:
        return f"the .deb files of {', '.join(corpus.packages)}, or their unpacked usr/share"
    return corpus.layout
