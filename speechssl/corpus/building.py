"""Builds a manifest from folders, archives and URLs by reading the header of every recording.

Threads read the headers; files that have not changed since the last build are looked up in its scan cache.
"""

import dataclasses
import os
import posixpath
import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from speechssl.audio.ffmpeg import FFMPEG_SUFFIXES, ffmpeg_version
from speechssl.audio.reading import AUDIO_SUFFIXES, AudioHeader, read_header
from speechssl.audio.storage import Place, is_url
from speechssl.corpus.finding import FOR_FFMPEG, Found, find
from speechssl.corpus.remote import header_at_url, open_url, stamp_at_url
from speechssl.corpus.scan_cache import ScanCache
from speechssl.corpus.tar_shards import Recording, Shard, read_shard
from speechssl.corpus.workers import Work
from speechssl.data.manifest import read_side_file
from speechssl.data.utterances import Manifest, Utterance, refuse_duplicate_ids
from speechssl.errors import AudioError, ConfigError, ManifestError

__all__ = ["ALL_SUFFIXES", "FOLDER", "RESULTS", "Built", "build", "build_manifest", "describe_built", "speakers_from"]

FOLDER = "folder"


def speakers_from(rule: str, names: Sequence[str], root: Path) -> list[str]:
    """Return the speaker of each recording.

    Args:
        rule: `folder` for the name of the folder that a recording lies in, or a regular expression that is searched in
            the path; its group `speaker`, or else its first group, is the speaker.
        names: paths below `root`, with forward slashes and suffix; for a member of an archive, the archive's path and
            then the member's.
        root: folder that holds all; it names the speaker if every recording lies directly in it.

    Raises:
        ConfigError: `rule` is no regular expression, or has no group.
        ManifestError: no speaker is found in the path of a recording.

    Examples:
        >>> speakers_from("folder", ["anna/1.wav", "hall/bert/1.wav"], Path("speech"))
        ['anna', 'bert']
        >>> speakers_from(r"(\\w+)_\\d+[.]wav$", ["x/anna_1.wav"], Path("speech"))
        ['anna']
    """
    found = _of_folders(names, root) if rule == FOLDER else _of_pattern(rule, names)
    missing = [name for name, speaker in zip(names, found, strict=True) if not speaker]
    if missing:
        what = f"lie in {root} itself, in no speaker's folder" if rule == FOLDER else f"do not match {rule!r}"
        raise ManifestError(
            f"--speaker-from {rule}: {len(missing)} of {len(names)} recordings {what}: {', '.join(missing[:3])}; "
            "move or leave them out, or give a pattern that fits all, as '^([^/]+)/' for the first folder"
        )
    return [speaker for speaker in found if speaker]


def _of_folders(names: Sequence[str], root: Path) -> list[str | None]:
    folders = [posixpath.basename(posixpath.dirname(name)) for name in names]
    return [name or None for name in folders] if any(folders) else [root.resolve().name or None] * len(names)


def _of_pattern(rule: str, names: Sequence[str]) -> list[str | None]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ConfigError(
            f"--speaker-from {rule}: not a regular expression ({error}); correct it, or say folder"
        ) from error
    if not pattern.groups:
        raise ConfigError(
            f"--speaker-from {rule}: has no group; put the speaker in parentheses, as in '(\\w+)_', or say folder"
        )
    group: str | int = "speaker" if "speaker" in pattern.groupindex else 1
    searched = [pattern.search(name) for name in names]
    return [match[group] if match else None for match in searched]


ALL_SUFFIXES = (*AUDIO_SUFFIXES, *FFMPEG_SUFFIXES)

RESULTS = {
    kind.__name__: kind for kind in (AudioHeader, Shard, Recording, AudioError)
}  # what reading a file may return

_CHUNK = 32  # files that a thread reads at once
_REMOTE_WORKERS = 16  # threads for URLs, which mostly wait

_Result = tuple[AudioHeader | Shard | AudioError, str, bool]  # content of a file, its stamp, whether it was cached


@dataclass(frozen=True)
class Built:
    """A manifest, and what was left out of it."""

    manifest: Manifest
    errors: list[AudioError] = field(default_factory=list)  # files that could not be read
    passed_over: Counter[str] = field(default_factory=Counter)  # suffix -> number of files that are not audio
    reused: int = 0  # files found in the scan cache


def build(
    sources: Sequence[str],
    *,
    suffixes: Sequence[str] = ALL_SUFFIXES,
    archives: bool = True,
    side_file: Path | None = None,
    speaker_from: str | None = None,
    skip_bad: bool = False,
    workers: int | None = None,
    scan_cache: Path | None = None,
    fresh: bool = False,
    work: Work | None = None,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, _: items,
) -> Built:
    """List all audio in `sources`, reading headers in parallel.

    Args:
        sources: folders, archives, audio files, URLs of these, or text files (.txt) that list them. The id of an
            utterance is its path below the folder that holds them all, without suffix, `/` turned into `-`; for a
            member of an archive, the archive's path and then the member's.
        suffixes: suffixes of audio files, in lower case.
        archives: whether to read tar and zip archives.
        side_file: a table with a column `id` or `path` and any of text, speaker, language, split.
        speaker_from: rule of `speakers_from`: `folder`, or a regular expression with a group. It overrides the speakers
            stated in archives; the side file overrides it.
        skip_bad: return the errors of unreadable files instead of raising the first.
        workers: threads that read headers; None for one per core, and more for URLs.
        scan_cache: path of the scan cache; None for none.
        fresh: read every file, even if it is cached.
        work: runs the reads in place of threads of this process; the scan cache is not used then.
        progress: wraps the iterable of files and archives, given their number.

    Returns:
        The manifest, sorted by path, and what was left out.

    Raises:
        ManifestError: a source is missing, there is no audio, a path holds a tab or line break or is not UTF-8, two
            utterances have the same id, the side file names unknown utterances, `scan_cache` cannot be written, or a
            path gives no speaker.
        AudioError: a file cannot be read and `skip_bad` is False.
    """
    found = find(sources, suffixes=suffixes, archives=archives, stamped=scan_cache is not None)
    if found.errors and not skip_bad:
        raise found.errors[0]
    errors, passed_over, reused = list(found.errors), Counter(found.passed_over), 0
    utterances, names = list[Utterance](), list[str]()
    with ExitStack() as opened:
        cache = None
        if scan_cache is not None:
            settings = f"{' '.join(suffixes)} {ffmpeg_version()}"
            cache = opened.enter_context(ScanCache(scan_cache, settings=settings, fresh=fresh))
        reader = _Reader(found.root, tuple(suffixes), cache)
        results = opened.enter_context(closing(_read_all(found.files, reader, work, workers)))
        for each, (result, stamp, is_known) in zip(progress(found.files, len(found.files)), results, strict=False):
            failed = _errors(result)
            if failed and not skip_bad:
                raise failed[0]
            errors += failed
            reused += is_known
            passed_over.update(result.passed_over if isinstance(result, Shard) else ())
            utterances += _utterances(each, result)
            names += _names(each, result) if speaker_from is not None else ()
            if cache is not None:
                cache.add(reader.key(each), stamp, result)
    if not utterances:
        raise _nothing(sources, suffixes, passed_over, errors)
    refuse_duplicate_ids(utterances, where=", ".join(sources))
    if speaker_from is not None:
        speakers = speakers_from(speaker_from, names, found.root)
        utterances = [dataclasses.replace(row, speaker=who) for row, who in zip(utterances, speakers, strict=True)]
    utterances = utterances if side_file is None else _with_side_columns(utterances, side_file)
    return Built(Manifest(root=found.root, utterances=tuple(utterances)), errors, passed_over, reused)


def build_manifest(
    root: Path,
    *,
    suffixes: Sequence[str] = ALL_SUFFIXES,
    side_file: Path | None = None,
    skip_bad: bool = False,
    workers: int | None = None,
) -> tuple[Manifest, list[AudioError]]:
    """List the audio below one folder, with arguments as for `build`.

    Returns:
        The manifest, and the errors of the files left out.
    """
    built = build([str(root)], suffixes=suffixes, side_file=side_file, skip_bad=skip_bad, workers=workers)
    return built.manifest, built.errors


def describe_built(built: Built) -> list[str]:
    """Describe in lines the files passed over and those found in the scan cache."""
    lines = []
    if built.passed_over:
        counts = [f"{count} {suffix or 'without suffix'}" for suffix, count in built.passed_over.most_common()]
        rest = [f"{len(counts) - 10} other kinds"] if len(counts) > 10 else []
        lines.append(f"passed over: {', '.join(counts[:10] + rest)}")
        if any(FOR_FFMPEG in suffix for suffix in built.passed_over):
            lines.append("to list also what needs ffmpeg, install it, or `pip install imageio-ffmpeg`")
    if built.reused:
        lines.append(f"not read again, as unchanged: {built.reused} files")
    return lines


@dataclass(frozen=True)
class _Reader:
    """Reads headers, in a thread or a worker."""

    root: Path
    suffixes: tuple[str, ...]
    cache: ScanCache | None

    def key(self, found: Found) -> str:
        """Return the key of a file in the scan cache."""
        return found.path if is_url(found.path) else os.path.abspath(os.path.join(self.root, found.path))  # noqa: PTH100, PTH118

    def read(self, files: Sequence[Found]) -> list[_Result]:
        """Read some files, or look them up in the scan cache."""
        results: list[_Result] = []
        for each in files:
            stamp = stamp_at_url(each.path) if each.stamp is None and self.cache is not None else each.stamp or ""
            known = self._known(each, stamp)
            results.append((self.read_one(each), stamp, False) if known is None else (known, stamp, True))
        return results

    def _known(self, found: Found, stamp: str) -> AudioHeader | Shard | None:
        if self.cache is None or not stamp:
            return None
        look_up = self.cache.shard if found.is_archive else self.cache.header
        return look_up(self.key(found), stamp)

    def read_one(self, found: Found) -> AudioHeader | Shard | AudioError:
        """Read one file or archive, or return why it cannot be read."""
        path = found.path if is_url(found.path) else os.path.join(self.root, found.path)  # noqa: PTH118 - called for every file
        try:
            if is_url(path):
                return self._read_url(path, is_archive=found.is_archive)
            if not found.is_archive:
                return read_header(Place(path))
            with Path(path).open("rb") as file:
                return read_shard(path, file, self.suffixes, lambda *at: read_header(Place(path, *at)))
        except AudioError as error:
            return error
        except OSError as error:
            return AudioError(f"{path}: cannot be read ({error.strerror}); copy it again")

    def _read_url(self, url: str, *, is_archive: bool) -> AudioHeader | Shard | AudioError:
        file = open_url(url)
        if not is_archive:
            return header_at_url(url, file)
        shard = read_shard(url, cast(BinaryIO, file), self.suffixes, lambda *at: header_at_url(url, file, *at))
        return file.error or shard


def _chunks(files: Iterable[Found]) -> Iterator[list[Found]]:
    """Group the files, in order: up to 32 together, an archive alone."""
    chunk: list[Found] = []
    for each in files:
        if chunk and (each.is_archive or chunk[-1].is_archive or len(chunk) == _CHUNK):
            yield chunk
            chunk = []
        chunk.append(each)
    if chunk:
        yield chunk


def _errors(result: AudioHeader | Shard | AudioError) -> list[AudioError]:
    return result.errors if isinstance(result, Shard) else [result] if isinstance(result, AudioError) else []


def _read_all(
    files: Sequence[Found], reader: _Reader, work: Work | None, workers: int | None
) -> Generator[_Result, None, None]:
    """Read all files, in order, by threads of this process or by `work`."""
    if work is not None:
        read = dict(work(files, reader.read_one))
        yield from ((read[place], "", False) for place in range(len(files)))
        return
    is_remote = any(is_url(each.path) for each in files)
    count = workers or (_REMOTE_WORKERS if is_remote else os.cpu_count() or 1)
    with ThreadPoolExecutor(count) as pool:
        yield from _in_order(pool, reader.read, _chunks(files), 4 * count)


def _in_order(
    pool: ThreadPoolExecutor, read: Callable[[list[Found]], list[_Result]], chunks: Iterable[list[Found]], ahead: int
) -> Iterator[_Result]:
    """Yield the results in order, with `ahead` chunks submitted at most: millions of futures would fill the memory."""
    waiting: deque[Future[list[_Result]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(read, chunk))
            if len(waiting) > ahead:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for each in waiting:
            each.cancel()


def _utterances(found: Found, result: AudioHeader | Shard | AudioError) -> Iterator[Utterance]:
    stem = posixpath.splitext(found.name)[0]
    if isinstance(result, AudioHeader):
        yield _utterance(stem, found.path, result)
    elif isinstance(result, Shard):
        for each in result.recordings:
            name = f"{stem}/{posixpath.splitext(each.name)[0]}"
            row = _utterance(name, f"{found.path}:{each.offset}:{each.size}", each.header)
            yield dataclasses.replace(row, text=each.text, speaker=each.speaker, language=each.language)


def _names(found: Found, result: AudioHeader | Shard | AudioError) -> list[str]:
    """Return the paths of what `_utterances` yields; a member's follows its archive's, which has no suffix."""
    if isinstance(result, Shard):
        return [f"{posixpath.splitext(found.name)[0]}/{each.name}" for each in result.recordings]
    return [found.name] if isinstance(result, AudioHeader) else []


def _utterance(name: str, path: str, header: AudioHeader) -> Utterance:
    return Utterance(
        id=name.replace("/", "-"),
        path=path,
        num_samples=header.num_samples,
        sample_rate=header.sample_rate,
        channels=header.channels,
        decoder=header.decoder,
    )


def _nothing(
    sources: Sequence[str], suffixes: Sequence[str], passed_over: Counter[str], errors: Sequence[AudioError]
) -> ManifestError:
    where = ", ".join(sources)
    if errors:
        return ManifestError(f"{where}: none of its audio can be read; the first of {len(errors)} errors: {errors[0]}")
    found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in passed_over.most_common(5))
    return ManifestError(
        f"{where}: no audio found; expected files ending in {', '.join(suffixes)}, or archives of these; "
        f"found {found or 'no files'}"
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
