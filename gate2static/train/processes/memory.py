"""What the C library does with memory that training gives back."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next allocations; for training on the CPU.

    glibc hands large blocks back to the system, which clears them page by page when the next step asks for them: up to
    a tenth of a step with T+1 streams. Does nothing with other C libraries.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(_M_MMAP_MAX, 0)  # blocks
