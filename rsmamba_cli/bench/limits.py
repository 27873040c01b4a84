"""What the machine itself reaches: exponentials, multiply-adds and bytes a second.

The bench holds every kernel against these, measured in the same run, so that a slow or busy machine
lowers both sides of a ratio.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from rsmamba_cli.bench.records import Limits

_EXPS = 1 << 15
"""128 KiB of float32, which stays in a core's second-level cache."""
_MATRIX = 512
"""Large enough for a matrix product's full rate, short enough to run between two interruptions."""
_TRIAD = 1 << 24
"""64 MiB of float32 an array, beyond what a processor caches for one core."""


def measure_limits(seconds: float = 0.5, triad: int = _TRIAD, matrix: int = _MATRIX) -> Limits:
    """Measure the rates with the threads that PyTorch is set to.

    Args:
        seconds: Time given to each measurement.
        triad: float32 numbers of each array of the bandwidth test.
        matrix: Side of the multiplied matrices.
    """
    with torch.inference_mode():
        threads = torch.get_num_threads()
        exp_rate, source = _exp_rate(seconds, threads)
        return Limits(
            exp_per_second=exp_rate,
            exp_source=source,
            fma_per_second=_fma_rate(seconds, matrix),
            bytes_per_second=_bandwidth(seconds, triad),
        )


def _exp_rate(seconds: float, threads: int) -> tuple[float, str]:
    # Arguments as in a scan: decays between 1 and almost nothing, none of them denormal.
    x = torch.linspace(-20.0, 0.0, _EXPS * threads)
    out = torch.empty_like(x)
    functions: dict[str, Callable[[], object]] = {
        "torch.exp": lambda: torch.exp(x, out=out),
        "torch.exp2": lambda: torch.exp2(x, out=out),
    }
    if threads == 1:  # NumPy computes in one thread
        x_np, out_np = x.numpy(), out.numpy()
        functions["numpy.exp"] = lambda: np.exp(x_np, out=out_np)
        functions["numpy.exp2"] = lambda: np.exp2(x_np, out=out_np)
    share = seconds / len(functions)
    rates = {name: x.numel() / quickest(call, share) for name, call in functions.items()}
    best = max(rates, key=rates.__getitem__)
    return rates[best], best


def _fma_rate(seconds: float, side: int) -> float:
    a, b = torch.full((side, side), 0.5), torch.full((side, side), 0.25)
    out = torch.empty_like(a)
    return side**3 / quickest(lambda: torch.mm(a, b, out=out), seconds)


def _bandwidth(seconds: float, numbers: int) -> float:
    b, c, out = (torch.full((numbers,), value) for value in (1.0, 2.0, 3.0))
    copy = 8 * numbers / quickest(lambda: out.copy_(b), seconds / 2)
    triad = 12 * numbers / quickest(lambda: torch.add(b, c, alpha=3.0, out=out), seconds / 2)
    return max(copy, triad)


def quickest(
    call: Callable[[], object],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The shortest of the runs that fit into ``seconds``: three at least, the first not counted."""
    call()
    best = float("inf")
    end = clock() + seconds
    runs = 0
    while runs < 3 or clock() < end:
        began = clock()
        call()
        best = min(best, clock() - began)
        runs += 1
    return best
