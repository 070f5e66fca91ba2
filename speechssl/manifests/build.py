"""From a folder to a manifest: every audio file below it, with what its header says."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speechssl.data.audio import AUDIO_SUFFIXES, AudioHeader, read_header
from speechssl.data.manifest import Manifest, Utterance, id_of, read_side_file, refuse_duplicate_ids
from speechssl.errors import AudioError, ManifestError

__all__ = ["build_manifest"]


def build_manifest(
    root: Path,
    *,
    suffixes: Sequence[str] = AUDIO_SUFFIXES,
    side_file: Path | None = None,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Callable[[Iterable[Path], int], Iterable[Path]] = lambda paths, _: paths,
) -> tuple[Manifest, list[AudioError]]:
    """List every audio file below `root`, reading headers in parallel.

    Args:
        root: the folder to walk; an utterance's id is its relative path without suffix, `/` turned into `-`.
        suffixes: which files count as audio, in lower case.
        side_file: a table with `id` or `path` and any of text, speaker, language, split.
        skip_bad: return unreadable files as errors instead of raising the first.
        workers: threads that read headers; None for one a core.
        progress: wraps the list of paths, given their number.

    Returns:
        The manifest, sorted by path, and the errors of the files left out.

    Raises:
        ManifestError: no audio below `root`, a path with a tab or line break or that is not UTF-8, two files with one
            id, or a side file that names unknown utterances.
        AudioError: a file cannot be read and `skip_bad` is False.
    """
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder; name the folder that holds the audio")
    paths = sorted(p for p in _walk(root) if p.suffix.lower() in suffixes)
    if not paths:
        raise ManifestError(f"{root}: no audio below it; expected files ending in {', '.join(suffixes)}")
    for path in paths:
        _check_name(path.relative_to(root))
    utterances, errors = [], []
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        headers = pool.map(_header_or_error, paths)
        for path, found in zip(progress(paths, len(paths)), headers, strict=False):
            if isinstance(found, AudioHeader):
                utterances.append(_utterance(root, path, found))
            elif skip_bad:
                errors.append(found)
            else:
                raise found
    refuse_duplicate_ids(utterances, where=str(root))
    if side_file is not None:
        utterances = _with_side_columns(utterances, side_file)
    return Manifest(root=root, utterances=tuple(utterances)), errors


def _walk(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root, followlinks=True):
        yield from (Path(folder, name) for name in names)


def _header_or_error(path: Path) -> AudioHeader | AudioError:
    try:
        return read_header(path)
    except AudioError as error:
        return error


def _check_name(path: Path) -> None:
    if any(control in str(path) for control in "\t\n\r"):
        raise ManifestError(f"{str(path)!r}: a tab or line break in its path; rename the file")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # Python keeps bytes it cannot decode as lone surrogates
        raise ManifestError(f"{os.fsencode(path)!r}: a path that is not UTF-8; rename the file") from error


def _utterance(root: Path, path: Path, header: AudioHeader) -> Utterance:
    relative = path.relative_to(root)
    return Utterance(
        id=id_of(relative),
        path=relative.as_posix(),
        num_samples=header.num_samples,
        sample_rate=header.sample_rate,
        channels=header.channels,
    )


def _with_side_columns(utterances: list[Utterance], side_file: Path) -> list[Utterance]:
    table = read_side_file(side_file)
    keys = {row.id: row for row in utterances} | {row.path: row for row in utterances}
    unknown = [key for key in table if key not in keys]
    if unknown:
        raise ManifestError(
            f"{side_file}: {len(unknown)} rows name no audio file: {', '.join(unknown[:3])}; "
            "correct the ids (relative path without suffix, - for /), or remove the rows"
        )
    return [
        dataclasses.replace(row, **(table.get(row.id) or table.get(row.path) or {}))  # type: ignore[arg-type]
        for row in utterances
    ]
