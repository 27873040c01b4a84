"""Where a model's time goes: its operators, by the time that each takes itself."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from rsmamba_cli.bench.workloads import build
from rsmamba_models.ops.backends import resolve_backend


@dataclass(frozen=True)
class OperatorTime:
    """One operator in one forward pass.

    Attributes:
        name: As PyTorch calls it; ``everything else`` for the small ones together.
        seconds: Spent in it and in no operator that it calls.
        share: Of all operators' seconds.
        calls: How often it ran.
    """

    name: str
    seconds: float
    share: float
    calls: int


def profile_model(name: str, side: int, threads: int, rows: int = 12) -> list[OperatorTime]:
    """Profile a forward pass of an untrained model on the CPU, with the scan that it would take.

    Args:
        name: A name of the registry.
        side: Of the square image.
        threads: CPU threads.
        rows: Operators to tell apart.

    Returns:
        The operators from the slowest, and what is left as one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fastest = resolve_backend("directional_scan", torch.zeros(1))
        call = build("model", {"model": name, "side": side}).forms[fastest].call
        call()  # a first pass also pays for buffers and kernels
        with profile(activities=[ProfilerActivity.CPU]) as found:
            call()
    finally:
        torch.set_num_threads(before)
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for event in found.key_averages():
        seconds[event.key] += event.self_cpu_time_total / 1e6
        calls[event.key] += event.count
    total = sum(seconds.values())
    ranked = sorted(seconds, key=lambda key: -seconds[key])
    table = [OperatorTime(k, seconds[k], seconds[k] / total, calls[k]) for k in ranked[:rows]]
    rest = ranked[rows:]
    if rest:
        left = sum(seconds[k] for k in rest)
        table.append(
            OperatorTime("everything else", left, left / total, sum(calls[k] for k in rest))
        )
    return table
