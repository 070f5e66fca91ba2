"""Memory allocation settings of the process, for programs at their start; a library must not change them."""

import ctypes

__all__ = ["keep_freed_memory"]


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for its next tensors, instead of returning it to the system.

    glibc maps every tensor above a few MiB anew, and the system zeroes each new page at its first use, which takes a
    tenth of a training step of BASE on CPU.

    Returns:
        Whether the C library has these settings (glibc does).
    """
    trim_threshold, mmap_max = -1, -4  # constants of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none that can be loaded
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))
