"""Finds audio files and archives below folders, at URLs, or in text files that list them; reads none of them."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from speechssl.audio.ffmpeg import FFMPEG_SUFFIXES, ffmpeg_program
from speechssl.audio.storage import is_url
from speechssl.corpus.archives import ARCHIVE_SUFFIXES, COMPRESSED_SUFFIXES
from speechssl.corpus.remote import list_url, path_in_url
from speechssl.corpus.tar_shards import no_data, suffix_of
from speechssl.errors import AudioError, ManifestError
from speechssl.text.fields import lines_of

__all__ = ["FOR_FFMPEG", "LISTS", "Findings", "Found", "find"]

FOR_FFMPEG = "needs ffmpeg"  # reason for files that are skipped because ffmpeg is missing
LISTS = (".txt", ".lst", ".list")  # suffixes of text files with a path or URL per line

_SETTLED_NS = 2 * 10**9  # a file changed more recently may change again without a new time stamp


@dataclass(frozen=True, slots=True)
class Found:
    """An audio file or an archive."""

    path: str  # relative to the root, with forward slashes, or a URL
    name: str  # path from which its id is made
    stamp: str | None  # changes when the file does; "" if there is none, None if it must be requested
    is_archive: bool


@dataclass
class Findings:
    """All files, sorted, with errors and counts of other files."""

    root: Path
    files: list[Found] = field(default_factory=list)
    errors: list[AudioError] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)  # suffix or reason -> number of files


@dataclass(frozen=True)
class _Wanted:
    suffixes: Sequence[str]
    archives: bool
    stamped: bool
    now_ns: int
    has_ffmpeg: bool


def find(sources: Sequence[str], *, suffixes: Sequence[str], archives: bool, stamped: bool) -> Findings:
    """Find the audio and archives in `sources`.

    Args:
        sources: folders, archives, audio files, URLs of these, or text files (`LISTS`) that list them.
        suffixes: suffixes of audio files, in lower case.
        archives: whether to include archives.
        stamped: whether to compute stamps.

    Raises:
        ManifestError: a source is missing or is another kind of file, a URL cannot be listed, or a path has a tab or
            line break or is not UTF-8.
    """
    expanded = [each for source in sources for each in _expand(source)]
    if not expanded:
        raise ManifestError(f"{', '.join(sources)}: lists nothing; name folders, archives or URLs")
    wanted = _Wanted(suffixes, archives, stamped, time.time_ns(), ffmpeg_program() is not None)
    local = [each for each in expanded if not is_url(each)]
    findings = Findings(root=_root_of(local))
    for source in local:
        _find_local(source, findings, wanted)
    urls = [each for each in expanded if is_url(each)]
    base = _base_of(urls)
    for url in urls:
        _find_remote(url, base, findings, wanted)
    findings.files.sort(key=lambda found: (found.name.split("/"), found.path))
    return findings


def _expand(source: str) -> Iterator[str]:
    """Yield the source, or the entries of a list; relative paths start from the folder of the list."""
    path = Path(source)
    if is_url(source) or path.suffix.lower() not in LISTS or not path.is_file():
        yield source
        return
    try:
        lines = lines_of(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    for line in lines:
        if line.strip():
            yield line.strip() if is_url(line.strip()) else str(path.parent / line)


def _root_of(sources: Sequence[str]) -> Path:
    """Return the deepest folder that holds all sources."""
    folders = [source if Path(source).is_dir() else str(Path(source).parent) for source in sources]
    if len(set(folders)) < 2:
        return Path(folders[0]) if folders else Path()
    return Path(os.path.commonpath([str(Path(folder).absolute()) for folder in folders]))


def _base_of(urls: Sequence[str]) -> str:
    """Return the common beginning of the URLs, up to a slash; for a single file its folder."""
    levels = zip(*(url.rstrip("/").split("/") for url in urls), strict=False)
    parts = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels)]
    is_file = bool(urls) and suffix_of(path_in_url(urls[0])) != "" and "/".join(parts) == urls[0]
    return "/".join([*(parts[:-1] if is_file else parts), ""])


def _find_local(source: str, findings: Findings, wanted: _Wanted) -> None:
    prefix = os.path.relpath(source, findings.root)
    if Path(source).is_dir():
        _walk(source, "" if prefix == "." else f"{prefix}/", findings, wanted)
        return
    if not Path(source).exists():
        raise ManifestError(f"{source}: no such folder; name the folder that holds the audio")
    before = len(findings.files), len(findings.errors)
    status = Path(source).stat() if wanted.stamped else None
    _sort_in(prefix, prefix, source, "" if status is None else _stamp(status, wanted), findings, wanted)
    if (len(findings.files), len(findings.errors)) == before:
        raise ManifestError(
            f"{source}: is neither a folder, an archive, audio nor a list ({', '.join(LISTS)}); a manifest is "
            "converted by `speechssl manifest export`"
        )


def _walk(folder: str, prefix: str, findings: Findings, wanted: _Wanted) -> None:
    """Find the files below a folder; links are followed, but not to a folder above them."""
    below = prefix  # a folder named explicitly is read even if hidden
    status = os.stat(folder)  # noqa: PTH116 - as in the loop over millions below
    stack: list[tuple[str, str, tuple[tuple[int, int], ...]]] = []
    stack.append((folder, prefix, ((status.st_dev, status.st_ino),)))
    while stack:
        folder, prefix, above = stack.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            findings.errors.append(
                AudioError(f"{folder}: cannot be listed ({error.strerror}); allow reading, or move it")
            )
            continue
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir():
                status = entry.stat()
                place = (status.st_dev, status.st_ino)
                if place in above:
                    findings.passed_over["links to a folder above"] += 1
                else:
                    stack.append((entry.path, f"{name}/", (*above, place)))
            elif (reason := no_data(name.removeprefix(below))) is not None:
                findings.passed_over[reason] += 1
            elif entry.is_file():
                stamp = _stamp(entry.stat(), wanted) if wanted.stamped else ""
                _sort_in(name, name, entry.path, stamp, findings, wanted)
            elif suffix_of(name) in (*wanted.suffixes, *ARCHIVE_SUFFIXES):
                _check_name(name)
                reason = "a broken link" if entry.is_symlink() else "no regular file"
                findings.errors.append(AudioError(f"{entry.path}: {reason}; remove it"))
            else:
                findings.passed_over[suffix_of(name)] += 1


def _find_remote(url: str, base: str, findings: Findings, wanted: _Wanted) -> None:
    name = path_in_url(url).rstrip("/").removeprefix(path_in_url(base).rstrip("/")).lstrip("/")
    if suffix_of(name) in (*wanted.suffixes, *ARCHIVE_SUFFIXES, *FFMPEG_SUFFIXES):
        listed: Iterator[tuple[str, str, str | None]] = iter([(url, name, None)])
    else:
        prefix = f"{name}/" if name else ""
        listed = ((each, prefix + below, stamp) for each, below, stamp in _with_data(url, findings))
    for each, name, stamp in listed:
        if suffix_of(name) in FFMPEG_SUFFIXES and suffix_of(name) in wanted.suffixes:
            findings.errors.append(AudioError(f"{each}: needs ffmpeg, which reads local files only; download it"))
        elif suffix_of(name) in ARCHIVE_SUFFIXES and suffix_of(each) != suffix_of(name):
            findings.errors.append(AudioError(f"{each}: an archive's URL must end in its name; remove the query"))
        else:
            _sort_in(each, name, each, stamp, findings, wanted)


def _with_data(url: str, findings: Findings) -> Iterator[tuple[str, str, str | None]]:
    for each, below, stamp in list_url(url):
        if (reason := no_data(below)) is None:
            yield each, below, stamp
        else:
            findings.passed_over[reason] += 1


def _sort_in(path: str, name: str, opened: str, stamp: str | None, findings: Findings, wanted: _Wanted) -> None:
    """Add a file to the findings: listed, refused or skipped."""
    suffix = suffix_of(name)
    is_archive = suffix in ARCHIVE_SUFFIXES
    if name.lower().endswith(COMPRESSED_SUFFIXES) and wanted.archives:
        findings.errors.append(
            AudioError(
                f"{opened}: a compressed archive, whose members cannot be read in place; decompress it, or move "
                "it away if its files are unpacked here"
            )
        )
    elif suffix in FFMPEG_SUFFIXES and suffix in wanted.suffixes and not wanted.has_ffmpeg:
        findings.passed_over[f"{suffix} ({FOR_FFMPEG})"] += 1
    elif suffix in wanted.suffixes or (is_archive and wanted.archives):
        _check_name(path)
        findings.files.append(Found(path, name, stamp, is_archive))
    else:
        findings.passed_over[suffix] += 1


def _check_name(path: str) -> None:
    if "\t" in path or "\n" in path or "\r" in path:
        raise ManifestError(f"{path!r}: its path holds a tab or line break; rename the file")
    try:
        path.encode()
    except UnicodeEncodeError as error:  # Python keeps bytes it cannot decode as lone surrogates
        raise ManifestError(f"{os.fsencode(path)!r}: its path is not UTF-8; rename the file") from error


def _stamp(status: os.stat_result, wanted: _Wanted) -> str:
    """Return size and times; "" for a file so new that it may change without a new time stamp."""
    if max(status.st_mtime_ns, status.st_ctime_ns) > wanted.now_ns - _SETTLED_NS:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
