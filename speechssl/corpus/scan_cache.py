"""The scan cache of a build: headers found in every file, so that the next build reads only files that changed.

It is a file beside the manifest with a JSON line for each audio file: path, stamp (size and times), header. Lines are
written during the build, so that a killed build can be continued. Without the cache every file is read.
"""

import json
from pathlib import Path
from typing import IO, Any

from speechssl.atomic import write_atomically
from speechssl.audio.reading import AudioHeader
from speechssl.corpus.tar_shards import Recording, Shard
from speechssl.errors import AudioError, ManifestError

__all__ = ["ScanCache", "scan_cache_beside"]

_FORMAT = 2  # version of the cache; raised when a build finds something else in the same files


def scan_cache_beside(manifest: Path) -> Path:
    """Return the path of the scan cache of a manifest."""
    return manifest.with_name(f".{manifest.name}.built")


class ScanCache:
    """Reads the cache of the last build and writes that of the next. Used as a context manager."""

    def __init__(self, path: Path, *, settings: str, fresh: bool = False) -> None:
        """Read the cache.

        Args:
            path: the cache; a second file, `PATH.part`, exists while a build runs or after it was killed.
            settings: other settings that the headers depend on; a cache with other settings is ignored.
            fresh: ignore what is there.
        """
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        self._head = json.dumps([_FORMAT, settings])
        self._found: dict[str, list[Any]] = {}
        for each in () if fresh else (self.path, self.part):
            self._found.update(self._read(each))
        self._file: IO[str] | None = None

    def __enter__(self) -> "ScanCache":
        """Start writing.

        Raises:
            ManifestError: the folder cannot be written to.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.part.exists():  # left by a killed build: save its lines before it is overwritten
                lines = (json.dumps(line, ensure_ascii=False) for line in self._found.values())
                write_atomically(self.path, "".join(f"{line}\n" for line in (self._head, *lines)))
            self._file = self.part.open("w", encoding="utf-8")
            self._file.write(f"{self._head}\n")
        except OSError as error:
            raise self._full(error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Replace the old cache with the new one; after an error leave both for the next build."""
        if self._file is None:
            return
        try:
            self._file.close()
            if kind is None:
                self.part.replace(self.path)
        except OSError as error:
            if kind is None:
                raise self._full(error) from error

    def header(self, path: str, stamp: str) -> AudioHeader | None:
        """Return the header of a file, None if it changed or is unknown."""
        found = self._unchanged(path, stamp)
        try:
            header = None if found is None else _header_of(found)
        except (TypeError, ValueError):
            header = None
        return header

    def shard(self, path: str, stamp: str) -> Shard | None:
        """Return the contents of an archive, None if it changed or is unknown."""
        found = self._unchanged(path, stamp)
        try:
            shard = None if found is None else _shard_of(found)
        except (TypeError, ValueError):
            shard = None
        return shard

    def add(self, path: str, stamp: str, found: AudioHeader | Shard | AudioError) -> None:
        """Cache what was found in a file, unless it has errors or no stamp, so that it is read again.

        Raises:
            ManifestError: the cache cannot be written, as on a full disk.
        """
        if (
            not stamp
            or self._file is None
            or isinstance(found, AudioError)
            or (isinstance(found, Shard) and found.errors)
        ):
            return
        value = _row_of(found) if isinstance(found, AudioHeader) else _json_of(found)
        try:
            self._file.write(json.dumps([path, stamp, value], ensure_ascii=False) + "\n")
        except OSError as error:
            raise self._full(error) from error

    def _unchanged(self, path: str, stamp: str) -> Any:
        found = self._found.get(path)
        return found[2] if found is not None and stamp and found[1] == stamp else None

    def _read(self, path: Path) -> dict[str, list[Any]]:
        """Return the lines by path, up to one that was cut off; none if the settings differ."""
        found: dict[str, list[Any]] = {}
        try:
            with path.open(encoding="utf-8") as file:
                if file.readline().rstrip("\n") != self._head:
                    return found
                for text in file:
                    line = json.loads(text)
                    if not (isinstance(line, list) and len(line) == 3 and isinstance(line[0], str)):
                        break
                    found[line[0]] = line
        except (OSError, ValueError, RecursionError):
            pass  # the lines read so far are complete
        return found

    def _full(self, error: OSError) -> ManifestError:
        return ManifestError(f"{self.path}: cannot be written ({error.strerror}); the manifest is as it was")


def _header_of(found: Any) -> AudioHeader:
    num_samples, sample_rate, channels, *more = found
    is_decoder = len(more) == 0 or (len(more) == 1 and isinstance(more[0], str))
    if not is_decoder or not all(type(number) is int and number > 0 for number in found[:3]):
        raise ValueError(f"no header: {found}")
    decoder = more[0] if more else None
    return AudioHeader(num_samples=num_samples, sample_rate=sample_rate, channels=channels, decoder=decoder)


def _row_of(header: AudioHeader) -> list[int | str]:
    decoder = [] if header.decoder is None else [header.decoder]
    return [header.num_samples, header.sample_rate, header.channels, *decoder]


def _shard_of(found: Any) -> Shard:
    rows, passed_over = found
    shard = Shard([Recording(name, offset, size, _header_of(row), *said) for name, offset, size, row, said in rows])
    shard.passed_over.update(passed_over)
    return shard


def _json_of(shard: Shard) -> list[Any]:
    rows = [
        [each.name, each.offset, each.size, _row_of(each.header), [each.text, each.speaker, each.language]]
        for each in shard.recordings
    ]
    return [rows, shard.passed_over]
