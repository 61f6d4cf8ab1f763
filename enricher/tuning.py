"""What the interpreter and the C library are told for a process that keeps hundreds of thousands of small things.

Called once by run.py, before any source starts. The store's things have no cycles and are not even seen by the garbage
collector, but each page of a list makes thousands of short-lived ones: at the default thresholds their inspection costs
a sixth of the list. One malloc arena and a fixed mmap threshold: a page of a list goes back to the kernel at once.
"""

import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # glibc: mallopt(3)


def tune() -> None:
    """Has no effect on a C library without mallopt (musl)."""
    gc.set_threshold(20_000, 20, 50)
    gc.freeze()  # what is imported stays
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_THRESHOLD, 256 << 10)
    mallopt(M_TRIM_THRESHOLD, 1 << 20)
