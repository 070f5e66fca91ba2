"""What the C library does with freed memory: as our command line sets it, or as every other Python program has it.

It matters: pages that are handed back come again one fault at a time.
"""

import ctypes

from speechssl.memory import keep_freed_memory

__all__ = ["set_allocator"]

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
MIB = 1 << 20


def set_allocator(*, keeps: bool) -> None:
    """Keep freed memory from now on, or treat it as glibc does once it has seen large tensors come and go.

    By default glibc raises its threshold of mapping up to 32 MiB as blocks are freed, and hands back what is free at
    the end of the heap beyond twice that. Once set, the thresholds no longer move by themselves: so they are set to
    where they end up.

    Raises:
        OSError: the settings are not taken.
    """
    if keeps:
        taken = keep_freed_memory()
    else:
        settings = {MMAP_MAX: 65_536, MMAP_THRESHOLD: 32 * MIB, TRIM_THRESHOLD: 64 * MIB}
        mallopt = ctypes.CDLL(None).mallopt
        taken = all(mallopt(name, value) for name, value in settings.items())
    if not taken:
        raise OSError("this C library does not take the settings of glibc's malloc; measure where glibc is")
