"""Running cases and putting what they found into a report."""

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from rsmamba_cli import __version__
from rsmamba_cli.bench.limits import measure_limits
from rsmamba_cli.bench.memory import measure_peak
from rsmamba_cli.bench.records import Floor, Limits, Machine, Record, Report, binding, ratios
from rsmamba_cli.bench.suites import Scale, Spec
from rsmamba_cli.bench.timing import Pace, Samples, interleave
from rsmamba_cli.bench.workloads import Form, build
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, Warned, ignore_events
from rsmamba_models.ops import native
from rsmamba_models.ops.backends import available_backends

_PACES = {
    Scale.quick: Pace(rounds=2, slot=0.02, budget=1.5, least=1, settle=0.3),
    Scale.normal: Pace(),
    Scale.full: Pace(),
}
_STAGE = "bench"
_BUSY = 0.5
"""Average number of running tasks before the start above which timings cannot be trusted."""


@dataclass(frozen=True)
class BenchOptions:
    """How to run.

    Attributes:
        threads: CPU threads of every form that does not name another number.
        scale: How much is run; the suites were made for the same.
        rounds: Turns of every form; None for the scale's own.
        memory: Whether peak memory is measured, in a process a form.
        command: What was typed, for the report.
    """

    threads: int = 1
    scale: Scale = Scale.normal
    rounds: int | None = None
    memory: bool = True
    command: str = ""

    @property
    def pace(self) -> Pace:
        """How long to measure each form."""
        pace = _PACES[self.scale]
        return pace if self.rounds is None else replace(pace, rounds=self.rounds)


def run_bench(
    specs: Sequence[Spec],
    options: BenchOptions | None = None,
    on_event: EventHandler = ignore_events,
    *,
    limits: Callable[[], Limits] = measure_limits,
    save: Callable[[Report], None] | None = None,
) -> Report:
    """Measure cases on this machine.

    The machine's limits are measured before the first and after the last case; the better of each
    counts.

    Args:
        specs: The cases, in this order.
        options: How to run.
        on_event: Gets progress, and a warning when the machine is busy with something else.
        limits: How the machine's limits are measured.
        save: Gets the report of what is done after every case, so that a run of many minutes that
            is stopped leaves something.
    """
    options = options or BenchOptions()
    if not options.memory:
        specs = [replace(spec, memory=()) for spec in specs if spec.timed]
    machine = describe_machine()
    if machine.load is not None and machine.load > _BUSY:
        on_event(
            Warned(
                f"the machine is busy ({machine.load:.1f} tasks on {machine.cores} cores over the "
                "last minute): the timings will be too long and the ratios uncertain"
            )
        )
    drafts: list[tuple[Record, Floor]] = []

    def report(reached: Limits) -> Report:
        return Report(
            command=options.command,
            scale=options.scale.value,
            threads=options.threads,
            machine=machine,
            limits=reached,
            records=tuple(bounded(record, floor, reached) for record, floor in drafts),
        )

    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        on_event(Started(_STAGE, total=len(specs), unit="case"))
        reached = limits()
        for spec in specs:
            drafts += _run_case(spec, options, machine.cores, on_event)
            if save is not None:
                save(report(reached))
        torch.set_num_threads(options.threads)
        reached = reached.best(limits())
    finally:
        torch.set_num_threads(before)
    on_event(Finished(_STAGE, f"{len(drafts)} measurements of {len(specs)} cases"))
    return report(reached)


def describe_machine() -> Machine:
    """Name the machine, its load and the versions in use."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        load = None
    states = {name: why or "usable" for name, why in available_backends().items()}
    if native.is_available():
        states["native"] = f"usable ({native.build_info()['isa']})"
    return Machine(
        processor=_processor(),
        system=f"{platform.system()} {platform.machine()}",
        cores=_cores(),
        load=load,
        versions={
            "rsmamba": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        back_ends=states,
    )


def bounded(record: Record, floor: Floor, limits: Limits) -> Record:
    """Complete a timed record by what the machine's limits say about it."""
    seconds = limits.seconds(floor)
    own = record.median_seconds
    if not own or not seconds:
        return record
    limit = binding(seconds)
    return record.model_copy(
        update={
            "limits": seconds,
            "limit": limit,
            "share": None if limit is None else seconds[limit] / own,
        }
    )


def _run_case(
    spec: Spec, options: BenchOptions, cores: int, on_event: EventHandler
) -> list[tuple[Record, Floor]]:
    """Records without limits yet, each with the floor to be held against it."""
    workload = build(spec.kind, spec.sizes)
    floor = workload.floor
    forms = {
        name: form
        for name, form in workload.forms.items()
        if spec.timed and (not spec.forms or name in spec.forms)
    }
    of_memory = [name for name in spec.memory if name in workload.forms]
    sizes = ", ".join(f"{key} {value}" for key, value in spec.sizes.items())

    def show(name: str, *, starts: bool = False) -> None:
        on_event(Progress(_STAGE, int(starts), f"{spec.case} ({sizes}): {name}"))

    show("begins", starts=True)
    threads = dict.fromkeys(forms, options.threads)
    if options.threads == 1 and cores >= 2:
        for name in [name for name, form in forms.items() if form.spreads]:
            twin = f"{name}, 2 threads"
            forms[twin] = replace(forms[name], peers=(name,), bounded=False)
            threads[twin] = 2
    calls = {name: _on_threads(form.call, threads[name]) for name, form in forms.items()}
    samples = interleave(calls, options.pace, ran=show)
    del workload, calls

    common: dict[str, Any] = {"group": spec.group, "case": spec.case, "sizes": dict(spec.sizes)}
    records = {
        name: Record(
            **common,
            form=name,
            threads=threads[name],
            **_timed(name, form, samples),
            **_compared(form, samples[name], next(iter(samples.values()))),
        )
        for name, form in forms.items()
    }
    for name in of_memory:
        show(f"{name}, memory")
        peak = measure_peak(spec.kind, spec.sizes, name, options.threads)
        found = records.get(name) or Record(**common, form=name, threads=options.threads)
        note = "; ".join(filter(None, (found.note, peak.note)))
        records[name] = found.model_copy(update={"peak_bytes": peak.bytes, "note": note})
    unbounded = {name for name, form in forms.items() if not form.bounded}
    return [(record, Floor() if name in unbounded else floor) for name, record in records.items()]


def _on_threads(call: Callable[[], Tensor], threads: int) -> Callable[[], Tensor]:
    def run() -> Tensor:
        torch.set_num_threads(threads)
        return call()

    return run


def _timed(name: str, form: Form, samples: Mapping[str, Samples]) -> dict[str, Any]:
    own = samples[name]
    if not own.seconds:
        return {"note": own.note}
    return {
        "median_seconds": median(own.seconds),
        "min_seconds": min(own.seconds),
        "repeats": len(own.seconds),
        "ratios": ratios(name, form.peers, {key: s.seconds for key, s in samples.items()}),
    }


def _compared(form: Form, own: Samples, first: Samples) -> dict[str, float]:
    """The largest difference of a result from the first form's, over the largest value there."""
    if not form.compared or own is first or own.result is None or first.result is None:
        return {}
    # An infinite or missing number must show as a difference, and JSON holds neither.
    difference = (own.result - first.result).abs().max() / first.result.abs().max()
    largest = sys.float_info.max
    return {"difference": float(difference.double().nan_to_num(nan=largest, posinf=largest))}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
