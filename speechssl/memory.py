"""How a program treats the memory it frees. For programs, once at their start; a library has no business to."""

import ctypes

__all__ = ["keep_freed_memory"]


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, for its next tensors, instead of handing it back to the system.

    glibc maps every tensor above a few MiB anew, and the system fills each new page with zeros at its first use: a
    tenth of a training step of BASE on CPU.

    Returns:
        Whether this C library knows such settings (glibc does).
    """
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or no way to look into it
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))
