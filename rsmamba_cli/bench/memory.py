"""Peak memory of one form, taken in a process of its own.

A process never quite forgets what it has allocated: run one after the other, the forms would hide
in each other's memory.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """What a form took.

    Attributes:
        bytes: Largest resident size above that before the run; None if it could not be run.
        note: Why not.
    """

    bytes: int | None
    note: str = ""


def measure_peak(kind: str, sizes: Mapping[str, int | str], form: str, threads: int) -> Peak:
    """Run a form once in a fresh process and return its peak above its inputs or weights.

    Args:
        kind: Builder of ``workloads``.
        sizes: Its arguments.
        form: Which of its forms.
        threads: CPU threads.
    """
    request = json.dumps({"kind": kind, "sizes": dict(sizes), "form": form, "threads": threads})
    done = subprocess.run(
        [sys.executable, "-m", "rsmamba_cli.bench.memory_child", request],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        why = lines[-1] if lines else "killed, most likely for want of memory"
        return Peak(None, f"memory not measured: {why}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return Peak(answer["bytes"], answer["note"])
