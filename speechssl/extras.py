"""Optional packages: the extras of setup.py, and torchaudio versions that do not match torch.

The core installation runs models: it reads audio and computes features, units and texts. Packages for training,
scoring, checking, corpora or plots are imported by the modules that need them; if one is missing, `missing_extra` says
what to install.
"""

import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any

from speechssl.errors import PackageError

__all__ = ["MODULES", "import_torchaudio", "missing_extra"]

MODULES = {  # modules that each extra provides
    "train": ("tensorboard", "jiwer", "fontTools"),
    "score": ("jiwer", "rapidfuzz"),
    "check": ("fontTools", "xxhash"),
    "corpora": ("imageio_ffmpeg",),
    "plots": ("matplotlib", "librosa"),
}


def missing_extra(error: ModuleNotFoundError, command: str, extras: Sequence[str]) -> str | None:
    """Return one line that says what to install for a command that could not import a module.

    Args:
        error: the exception of the import.
        command: the command, as typed.
        extras: the extras that the command needs.

    Returns:
        None if no extra provides the module: then the exception is a bug.
    """
    name = (error.name or "").partition(".")[0]
    if not any(name in modules for modules in MODULES.values()):
        return None
    wanted = ",".join(extras) or next(extra for extra, modules in MODULES.items() if name in modules)
    return f"{command} needs {name}, which is not installed: pip install 'speechssl[{wanted}]'"


def import_torchaudio(module: str) -> Any:
    """Import a module of torchaudio, such as `functional`.

    torchaudio contains compiled code for certain versions of torch, which the metadata of some releases do not name: so
    an installation can succeed although the import fails.

    Raises:
        PackageError: torchaudio is not installed, or cannot be loaded with the installed torch.
    """
    try:
        return importlib.import_module(f"torchaudio.{module}")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        torch, torchaudio = _version("torch"), _version("torchaudio")
        raise PackageError(
            f"torchaudio {torchaudio} cannot be loaded beside torch {torch} ({_innermost(error)}); install two that "
            f"fit:\n    {_cure(torch)}\n    pip install --upgrade 'torch>=2.13' 'torchaudio>=2.11.1'"
        ) from error


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(none)"


def _innermost(error: BaseException) -> str:
    """Return the first line of the original error: torch wraps the one that names the missing symbol."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [repr(error)])[0]


def _cure(torch: str) -> str:
    """Return the command that installs the torchaudio that matches a torch.

    Found by trials with the packages on PyPI: the same version up to 2.10, 2.11.0 for torch 2.11 to 2.14, and 2.11.1
    from 2.13 on. They are built for CUDA: with a torch from another index, such as `+cpu`, only a torchaudio from that
    index can be loaded.
    """
    release, _, build = torch.partition("+")
    number = tuple(int(part) for part in release.split(".")[:2] if part.isdecimal())
    fitting = release if number < (2, 11) else "2.11.0" if number < (2, 13) else "2.11.1"
    if build:
        return (
            f"pip install --force-reinstall torchaudio=={fitting} --index-url ADDRESS (from which torch+{build} came)"
        )
    return f"pip install torch=={release} torchaudio=={fitting}"
