"""Memory allocation settings: speechssl.memory."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from speechssl.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(30):
    bytearray(32 << 20)[::4096]  # touches every page
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("plain", "keep")
    }
    assert faults["plain"] - faults["keep"] > 20 * (32 << 20) // 4096
