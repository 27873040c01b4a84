"""The C library's heap."""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_INT = 2**31 - 1
TRAINING = 64 << 20
"""What training keeps: gradients of a map come and go with every layer."""


def give_back() -> None:
    """Give memory that was freed back to the system; glibc keeps most of it otherwise.

    Between one large piece of work and another: what was freed lies in gaps that buffers of other
    sizes do not fit into.
    """
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed(largest: int) -> None:
    """Let freed memory stay with the process, for the next buffer of its size.

    glibc gives pieces beyond 32 MiB back to the system at once. Their pages are then made anew and
    cleared at every use, by one thread at a time.

    Args:
        largest: Bytes of the largest piece to keep.
    """
    with suppress(OSError, AttributeError):  # glibc only
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, largest)
        libc.mallopt(_M_TRIM_THRESHOLD, min(2 * largest, _LARGEST_INT))
