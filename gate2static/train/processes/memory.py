"""The C library's treatment of memory that training frees."""

import ctypes
import platform

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Makes this process keep freed memory for its next allocations; for training on the CPU.

    glibc returns large blocks to the system, which clears them page by page when the next step allocates them. That
    takes up to a tenth of a step with T+1 streams. With other C libraries this function does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(_M_MMAP_MAX, 0)  # blocks
