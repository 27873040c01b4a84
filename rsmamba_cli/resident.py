"""Memory of this process and of the machine, as the operating system counts it."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

from rsmamba_cli.heap import give_back

_STATUS = Path("/proc/self/status")
_MEMORY = Path("/proc/meminfo")
_CLEAR = Path("/proc/self/clear_refs")


def available_bytes() -> int | None:
    """What can still be allocated without swapping; None where the system does not tell."""
    return _field(_MEMORY, "MemAvailable")


def peak_bytes() -> int:
    """The largest resident size since the start of the program, or since ``reset_peak``.

    Linux counts it per program image (VmHWM). ``getrusage`` would begin with what the parent held
    when it started this process.
    """
    peak = _field(_STATUS, "VmHWM")
    if peak is not None:
        return peak
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def reset_peak() -> int:
    """Give freed memory back, begin a new peak, and return where it begins, in bytes.

    Where the system cannot begin a new one, what is returned is the old one, and only what goes
    beyond it will be seen.
    """
    give_back()
    with suppress(OSError):
        _CLEAR.write_text("5")
    current = _field(_STATUS, "VmRSS")
    return peak_bytes() if current is None else current


def _field(path: Path, name: str) -> int | None:
    """A line ``name: 123 kB`` of a file of Linux, in bytes."""
    with suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
