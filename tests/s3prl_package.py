"""s3prl 0.4.18 imported beside stand-ins for the two things of torchaudio that are gone."""

import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
import torchaudio

__all__ = ["imported_s3prl"]


@contextmanager
def imported_s3prl() -> Iterator[ModuleType]:
    """Yield `s3prl.nn`; the stand-ins stay in torchaudio until the end of the block."""
    sox_effects = types.ModuleType("torchaudio.sox_effects")
    sox_effects.apply_effects_tensor = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchaudio, "set_audio_backend", lambda _: None, raising=False)
        patch.setattr(torchaudio, "sox_effects", sox_effects, raising=False)
        patch.setitem(sys.modules, "torchaudio.sox_effects", sox_effects)
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, SyntaxWarning, FutureWarning):  # distutils, escapes, scripting by torch
                warnings.filterwarnings("ignore", category=kind)
            importlib.import_module("setuptools")  # brings distutils, which s3prl imports, and Python 3.12 lacks
            import s3prl.nn

        yield s3prl.nn
