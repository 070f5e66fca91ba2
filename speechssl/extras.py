"""Packages that are not always there: the extras of setup.py, and torchaudio where it does not fit its torch.

The core runs models: it reads audio, makes features, units and texts. What only training, scoring, checking, corpora
or pictures need is imported by the modules that need it, and `missing_extra` says afterwards what to install.
"""

import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any

from speechssl.errors import PackageError

__all__ = ["MODULES", "import_torchaudio", "missing_extra"]

MODULES = {  # what each extra brings, by the names that are imported
    "train": ("tensorboard", "jiwer", "fontTools"),
    "score": ("jiwer", "rapidfuzz"),
    "check": ("fontTools", "xxhash"),
    "corpora": ("imageio_ffmpeg",),
    "plots": ("matplotlib", "librosa"),
}


def missing_extra(error: ModuleNotFoundError, command: str, extras: Sequence[str]) -> str | None:
    """Say in one line what to install for a command that could not import something.

    Args:
        error: what the import raised.
        command: that was run, as typed.
        extras: that it needs.

    Returns:
        None if no extra brings the module: then it is a fault, not something to install.
    """
    name = (error.name or "").partition(".")[0]
    if not any(name in modules for modules in MODULES.values()):
        return None
    wanted = ",".join(extras) or next(extra for extra, modules in MODULES.items() if name in modules)
    return f"{command} needs {name}, which is not installed: pip install 'speechssl[{wanted}]'"


def import_torchaudio(module: str) -> Any:
    """Import a module of torchaudio, as `functional`.

    torchaudio holds compiled code for certain versions of torch, and the metadata of some of its releases do not say
    for which: an installation can succeed whose import cannot.

    Raises:
        PackageError: it is not installed, or cannot be loaded beside the torch that is.
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
    """Return the first line of what was raised first: torch hides the missing symbol behind an error of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [repr(error)])[0]


def _cure(torch: str) -> str:
    """Return the command that installs the torchaudio for a torch.

    As tried with the packages on PyPI: its namesake up to 2.10, 2.11.0 for torch 2.11 to 2.14 and 2.11.1 from 2.13 on.
    They are built for CUDA: beside a torch of another index, as `+cpu`, only that index has one that can be loaded.
    """
    release, _, build = torch.partition("+")
    number = tuple(int(part) for part in release.split(".")[:2] if part.isdecimal())
    fitting = release if number < (2, 11) else "2.11.0" if number < (2, 13) else "2.11.1"
    if build:
        return (
            f"pip install --force-reinstall torchaudio=={fitting} --index-url ADDRESS (from which torch+{build} came)"
        )
    return f"pip install torch=={release} torchaudio=={fitting}"
