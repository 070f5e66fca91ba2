"""Facts about the processor, and which of our CPU kernels the environment asks for."""

import functools
import os
import platform
from pathlib import Path
from typing import Literal, cast

from speechssl.errors import ConfigError

__all__ = ["chosen_kernels", "is_intel"]

_VARIABLE = "SPEECHSSL_KERNELS"
_CHOICES = ("auto", "ours", "plain")


def chosen_kernels() -> Literal["auto", "ours", "plain"]:
    """Return the choice of the environment, `auto` if it makes none; see `speechssl.model.fast`.

    Raises:
        ConfigError: the value is unknown.
    """
    value = os.environ.get(_VARIABLE) or "auto"
    if value not in _CHOICES:
        raise ConfigError(f"{_VARIABLE}={value} in the environment: expected one of {', '.join(_CHOICES)}, or unset it")
    return cast(Literal["auto", "ours", "plain"], value)


@functools.cache
def is_intel() -> bool:
    """Return whether this is one of Intel's processors."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return "GenuineIntel" in platform.processor()
