"""The C library's heap."""

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Give memory that was freed back to the system; glibc keeps most of it otherwise.

    Between one large piece of work and another: what was freed lies in gaps that buffers of other
    sizes do not fit into.
    """
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
