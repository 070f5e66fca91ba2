"""Load oneTBB for fairseq2, which seeks it beside its own environment alone; `.venv` keeps packages in another."""

import contextlib
import ctypes
import importlib.metadata

with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # not on ARM, where fairseq2 does without
    for file in importlib.metadata.files("tbb") or []:
        if file.name == "libtbb.so.12":
            ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
