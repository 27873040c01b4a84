"""The Triton scan on a GPU: is it right at real sizes, how fast is it, what does it need.

A plain script, for the day a GPU is at hand::

    python tests/gpu/check_scan.py --json scan.json            # everything: some minutes
    python tests/gpu/check_scan.py --small                     # correctness on small maps only
    python tests/gpu/check_scan.py --batches 1 --sweep         # also try other launch constants
    RSMAMBA_TRITON_TUNE=1 python tests/gpu/check_scan.py       # let block shapes be timed

``--small`` is short enough to run under ``compute-sanitizer --tool memcheck`` (or ``racecheck``).
The correctness part is also a test: ``pytest -m gpu tests/gpu/check_scan.py``.

Truth is the scan in plain PyTorch in float64 on the same device, itself tested against the
equation. A floor is what the device cannot go below: every exponential once (twice backwards) on
the special-function units, or every tensor read or written once at the measured copy bandwidth,
whichever takes longer.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "models"))

from rsmamba_models.ops import mamba_ssm, scan_order, torch_scan, triton_launch, triton_scan
from rsmamba_models.ops.arguments import ScanArguments

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
SPECIAL_PER_CLOCK = 16  # exponentials a multiprocessor finishes in a clock, sm_70 and later
CLOCK = 1.75e9  # hertz, where the driver does not tell


@dataclass(frozen=True)
class Case:
    """A scan's shape: a map of one stage of a model."""

    name: str
    kind: str
    height: int
    width: int
    channels: int
    states: int


SMALL = (
    Case("odd raster", "raster", 13, 29, 40, 5),
    Case("odd cross", "cross", 17, 23, 100, 16),
    Case("odd omni", "omni", 9, 31, 33, 1),
    Case("many states", "raster", 11, 19, 48, 64),
)
REAL = (
    Case("RS-Mamba stage 1, 512x512", "omni", 128, 128, 192, 16),
    Case("RS-Mamba stage 4, 512x512", "omni", 16, 16, 1536, 16),
    Case("VMamba stage 1, 512x512", "cross", 128, 128, 192, 1),
    Case("one long sequence", "raster", 1, 65536, 384, 16),
)
TIMED = (REAL[0], REAL[2])


def problem(case: Case, batch: int, dtype: torch.dtype, seed: int = 0) -> tuple[list[Any], Tensor]:
    """Random inputs with steps as models have them (0.001 to 0.1), and a gradient of y."""
    device = torch.device("cuda")
    g = torch.Generator(device).manual_seed(seed)
    order = scan_order(case.kind, case.height, case.width, device)
    directions, length = order.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, device=device)

    decays = torch.arange(1, case.states + 1, device=device, dtype=torch.float32)
    inputs = [
        normal(batch, length, case.channels).to(dtype),
        normal(batch, directions, length, case.channels).to(dtype),
        -decays.expand(directions, case.channels, -1).contiguous(),
        normal(batch, directions, length, case.states).to(dtype),
        normal(batch, directions, length, case.states).to(dtype),
        normal(directions, case.channels),
        normal(directions, case.channels) - 4,
        order,
        True,
    ]
    return inputs, normal(batch, length, case.channels).to(dtype)


def errors(case: Case, batch: int, dtype: torch.dtype) -> dict[str, float]:
    """Largest error of y and of every gradient, relative to the largest true value."""
    inputs, grad = problem(case, batch, dtype)
    exact = [t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in inputs]
    wanted = (
        torch_scan.forward(ScanArguments(*exact)),
        *torch_scan.backward(grad.double(), ScanArguments(*exact)),
    )
    found = (
        triton_scan.forward(ScanArguments(*inputs)),
        *triton_scan.backward(grad, ScanArguments(*inputs)),
    )
    return {
        name: float((f.double() - w).abs().max() / w.abs().max())
        for name, f, w in zip(("y", *NAMES), found, wanted, strict=True)
    }


def allowed(dtype: torch.dtype) -> float:
    """float32: the hardware exponential's error, amplified by decays near 1; else rounding."""
    return 2e-4 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps


def same_bits_twice(case: Case, dtype: torch.dtype) -> bool:
    """Whether two runs on the same inputs give the same bits."""
    inputs, grad = problem(case, 2, dtype)
    runs = [
        (
            triton_scan.forward(ScanArguments(*inputs)),
            *triton_scan.backward(grad, ScanArguments(*inputs)),
        )
        for _ in range(2)
    ]
    return all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def milliseconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Median time of a call on the device, after three calls that do not count."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def extra_gibibytes(run: Callable[[], object]) -> float:
    """Peak memory of a call beyond what is allocated before it, results included."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def copy_bandwidth() -> float:
    """Bytes read and written a second by a large copy on the device."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (milliseconds(lambda: target.copy_(source)) * 1e-3)


def floors(case: Case, batch: int, dtype: torch.dtype, bandwidth: float) -> tuple[float, float]:
    """Milliseconds that a forward and a backward pass cannot go below (see the module)."""
    properties = torch.cuda.get_device_properties(0)
    clock = getattr(properties, "clock_rate", 0) * 1e3 or CLOCK
    rate = properties.multi_processor_count * SPECIAL_PER_CLOCK * clock
    directions, length = scan_order(case.kind, case.height, case.width).shape
    maps = batch * length * case.channels * dtype.itemsize
    steps = maps * directions
    rows = 2 * batch * directions * length * case.states * dtype.itemsize
    special = batch * directions * length * case.channels * (case.states + 2)
    forward = max(special / rate, (2 * maps + steps + rows) / bandwidth)
    backward = max(2 * special / rate, (3 * maps + 2 * steps + 2 * rows) / bandwidth)
    return forward * 1e3, backward * 1e3


def timings(case: Case, batch: int, dtype: torch.dtype, bandwidth: float) -> dict[str, Any]:
    """Times and memory of one shape, and of the official kernel where it is installed."""
    inputs, grad = problem(case, batch, dtype)
    forward = lambda: triton_scan.forward(ScanArguments(*inputs))  # noqa: E731
    backward = lambda: triton_scan.backward(grad, ScanArguments(*inputs))  # noqa: E731
    floor_forward, floor_backward = floors(case, batch, dtype, bandwidth)
    row: dict[str, Any] = {
        "case": case.name,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "forward_ms": milliseconds(forward),
        "forward_floor_ms": floor_forward,
        "backward_ms": milliseconds(backward),
        "backward_floor_ms": floor_backward,
        "forward_gib": extra_gibibytes(forward),
        "backward_gib": extra_gibibytes(backward),
    }
    if not mamba_ssm.why_not():
        sequences = mamba_ssm._Sequences(*inputs)
        row["official_forward_ms"] = milliseconds(lambda: mamba_ssm.forward(ScanArguments(*inputs)))
        row["official_backward_ms"] = milliseconds(
            lambda: mamba_ssm.backward(grad, ScanArguments(*inputs))
        )
        row["official_kernel_only_ms"] = milliseconds(sequences.scan)
    if batch == 1:
        row["torch_forward_ms"] = milliseconds(
            lambda: torch_scan.forward(ScanArguments(*inputs)), repeats=3
        )
    return row


def sweep(case: Case, batch: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Times with other launch constants than the shipped ones."""
    inputs, grad = problem(case, batch, dtype)
    rows = []
    shipped = {name: getattr(triton_launch, name) for name in vars(triton_launch) if name.isupper()}
    try:
        for warps, shortest in product((1056, 2112, 4224), (32, 64, 128)):
            triton_launch._WARPS = warps
            triton_launch._FORWARD_STEPS = (shortest, 512)
            time = milliseconds(lambda: triton_scan.forward(ScanArguments(*inputs)))
            rows.append({"warps": warps, "shortest": shortest, "forward_ms": time})
        for steps, unroll, programs in product((32, 64, 128), (2, 4), (528, 1056, 2112)):
            triton_launch.BACKWARD_STEPS = steps
            triton_launch._BACKWARD_UNROLL = unroll
            triton_launch._BACKWARD_PROGRAMS = programs
            time = milliseconds(lambda: triton_scan.backward(grad, ScanArguments(*inputs)))
            rows.append(
                {"steps": steps, "unroll": unroll, "programs": programs, "backward_ms": time}
            )
    finally:
        for name, value in shipped.items():
            setattr(triton_launch, name, value)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of like keys as text."""
    keys = list(dict.fromkeys(key for row in rows for key in row))

    def text(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [keys, *([text(row.get(key, "")) for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(keys))]
    return "\n".join(
        "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    )


def main() -> int:
    """Run the checks that were asked for; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="correctness on small maps only")
    parser.add_argument("--batches", default="1,8,32", help="batch sizes to time")
    parser.add_argument("--sweep", action="store_true", help="try other launch constants")
    parser.add_argument("--json", type=Path, help="write everything there")
    options = parser.parse_args()
    if reason := triton_scan.why_not():
        print(f"the triton scan cannot run here: {reason}", file=sys.stderr)
        return 1

    properties = torch.cuda.get_device_properties(0)
    print(properties, "| torch", torch.__version__, "| official kernel:", mamba_ssm.report())
    report: dict[str, Any] = {"device": properties.name, "torch": torch.__version__}
    correctness = []
    for case, dtype in product(
        SMALL if options.small else SMALL + REAL, (torch.float32, torch.bfloat16)
    ):
        found = errors(case, 2 if case in SMALL else 1, dtype)
        right = max(found.values()) <= allowed(dtype) and same_bits_twice(case, dtype)
        kind = str(dtype).removeprefix("torch.")
        correctness.append({"case": case.name, "dtype": kind, "right": right, **found})
    print(table(correctness))
    report["correctness"] = correctness

    if not options.small:
        bandwidth = copy_bandwidth()
        print(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
        batches = [int(b) for b in options.batches.split(",")]
        dtypes = (torch.bfloat16, torch.float32)
        report["bandwidth"] = bandwidth
        report["timings"] = [
            timings(case, batch, dtype, bandwidth)
            for case, batch, dtype in product(TIMED, batches, dtypes)
        ]
        print(table(report["timings"]))
        if os.environ.get(triton_scan.TUNE):
            report["blocks"] = {str(key): block for key, block in triton_scan._tuned.items()}
            print(report["blocks"])
        if options.sweep:
            report["sweep"] = sweep(TIMED[0], batches[0], torch.bfloat16)
            print(table([row for row in report["sweep"] if "forward_ms" in row]))
            print(table([row for row in report["sweep"] if "backward_ms" in row]))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return 0 if all(row["right"] for row in correctness) else 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_y_and_every_gradient_are_right_on_the_gpu(case: Case, dtype: torch.dtype) -> None:
    found = errors(case, 2, dtype)
    assert max(found.values()) <= allowed(dtype), found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_two_runs_on_the_gpu_give_the_same_bits() -> None:
    assert same_bits_twice(SMALL[1], torch.float32)


if __name__ == "__main__":
    sys.exit(main())
