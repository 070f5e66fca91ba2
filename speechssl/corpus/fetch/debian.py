"""Downloads Debian packages without root and unpacks them; nothing is installed."""

import gzip
import subprocess
from collections.abc import Sequence
from pathlib import Path

from speechssl.atomic import atomic
from speechssl.errors import CorpusError

__all__ = ["package_versions", "unpacked_packages"]


def unpacked_packages(packages: Sequence[str], scratch: Path, source: Path | None) -> Path:
    """Return a folder with the packages' `usr/share`, downloading and unpacking as needed.

    Args:
        packages: names of Debian packages.
        scratch: folder for downloads and unpacked files; the caller removes it.
        source: a folder with the .deb files, or with `usr/share` of the unpacked packages; None to download.

    Raises:
        CorpusError: the packages cannot be downloaded or unpacked, or `source` does not hold them.
    """
    if source is not None and (source / "usr/share").is_dir():
        return source
    tree = scratch / "tree"
    if tree.is_dir():
        return tree  # it is renamed into place only when complete
    if source is None:
        source = scratch / "debs"
        _download(packages, source)
    archives = {name: _archive(source, name) for name in packages}
    missing = [name for name, path in archives.items() if path is None]
    if missing:
        raise CorpusError(
            f"{source}: expected the .deb files of {', '.join(packages)}, or their unpacked usr/share; "
            f"found no {missing[0]}_*.deb{_and_more(missing)}; "
            f"download them with `apt-get download {' '.join(missing)}`"
        )
    with atomic(tree) as partial:
        partial.mkdir()
        for archive in archives.values():
            _run(
                ["dpkg-deb", "-x", str(archive), str(partial)],
                cwd=Path.cwd(),
                cure=f"download {archive} again, or unpack it by hand and pass the folder that holds usr/ as --source",
            )
    return tree


def package_versions(packages: Sequence[str], tree: Path) -> dict[str, str]:
    """Return each package's version from its changelog; `unknown` if it has none."""
    return {name: _version(tree / "usr/share/doc" / name) for name in packages}


def _download(packages: Sequence[str], folder: Path) -> None:
    if all(_archive(folder, name) for name in packages):
        return
    folder.mkdir(parents=True, exist_ok=True)
    by_hand = f"download {', '.join(packages)} by hand and pass the folder as --source"
    _run(["apt-get", "download", *packages], cwd=folder, cure=f"run `apt-get update` and try again, or {by_hand}")


def _run(command: Sequence[str], *, cwd: Path, cure: str) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, errors="replace")
    except FileNotFoundError as error:
        raise CorpusError(f"{command[0]}: not found, it is part of Debian and Ubuntu; {cure}") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines() or ["no message"]
        raise CorpusError(f"`{' '.join(command)}` failed with status {error.returncode}: {said[-1]}; {cure}") from error


def _archive(folder: Path, package: str) -> Path | None:
    return max(folder.glob(f"{package}_*.deb"), default=None)


def _and_more(missing: Sequence[str]) -> str:
    return f" and {len(missing) - 1} more" if len(missing) > 1 else ""


def _version(documents: Path) -> str:
    for name in ("changelog.Debian.gz", "changelog.gz"):
        if (documents / name).is_file():
            first = gzip.decompress((documents / name).read_bytes()).decode(errors="replace").split("\n", 1)[0]
            if "(" in first:
                return first.split("(", 1)[1].split(")", 1)[0]
    return "unknown"
