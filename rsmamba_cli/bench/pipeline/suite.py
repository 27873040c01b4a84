"""Which maps are made, in which ways, and how near the aims they come."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from rsmamba_cli.bench.pipeline.flips import label_flips
from rsmamba_cli.bench.pipeline.forms import (
    FLOOR,
    LOOP,
    MODEL,
    MONAI,
    RSMAMBA,
    differing,
    keep_exact_labels,
)
from rsmamba_cli.bench.pipeline.models import CLASSES, NAMES, RADIUS
from rsmamba_cli.bench.pipeline.records import Case, Flips, PipelineReport, Run, Target
from rsmamba_cli.bench.pipeline.scenes import BANDS, LAYOUTS, draw_scene, draw_sparse_scene
from rsmamba_cli.bench.runner import describe_machine
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, ignore_events
from rsmamba_cli.inference.options import PredictOptions
from rsmamba_cli.resident import available_bytes

TILE, OVERLAP = 512, 128
SPARSE, EMPTY = "sparse, mostly nodata", "sparse, all zeros"
_STAGE = "bench"
_AREAS, _AREA = 3, 2048
_SHOWN = "tiled deflate"
FLIP_SIDES: Mapping[str, int] = MappingProxyType({"quick": 512, "normal": 2048})
_SEEN = 0.2
"""Bytes a pixel: the peaks of one map differ by some MiB from run to run."""
Call = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class PipelineOptions:
    """How to run.

    Attributes:
        scale: "quick" (small scenes), "normal", or "large" (memory alone, up to 10^10 pixels).
        rounds: how often the toolkit and its floor run; the peers run once.
        memory: the toolkit's bound on memory.
        folder: where scenes and maps are put for the time being; None takes the system's.
        command: what was typed, for the report.
    """

    scale: str = "normal"
    rounds: int = 3
    memory: str = "4GiB"
    folder: Path | None = None
    command: str = ""


def cases(scale: str) -> tuple[Case, ...]:
    """The cases of a scale, scene by scene."""
    if scale == "large":
        shapes = [
            *((height, 4096, EMPTY, "") for height in (4096, 16384, 65536)),
            *((60_000, 1500, EMPTY, memory) for memory in ("256MiB", "1GiB")),
            *((1500, 60_000, EMPTY, memory) for memory in ("256MiB", "1GiB")),
            (100_000, 100_000, SPARSE, ""),
        ]
        return tuple(
            Case(model=NAMES[0], layout=layout, height=h, width=w, trim=0, memory=memory)
            for h, w, layout, memory in shapes
        )
    small, big = (1024, 2048) if scale == "quick" else (4096, 8192)
    found = [
        Case(model=model, layout=layout, height=side, width=side, trim=trim)
        for side in (small, big)
        for layout in LAYOUTS
        for model, trim in zip(NAMES, (0, RADIUS + 1), strict=True)
    ]
    # As many pixels as the larger square at the width of the smaller one.
    tall = Case(model=NAMES[0], layout=_SHOWN, height=4 * small, width=small, trim=0)
    return (*found, tall)


def forms(case: Case) -> tuple[str, ...]:
    """The ways in which a case is computed; those that care little about the layout, in one."""
    if case.layout not in LAYOUTS or case.height != case.width:
        return (RSMAMBA,)
    floor = (FLOOR,) if case.model == NAMES[0] else ()
    peers = (MODEL, LOOP, MONAI) if case.layout == _SHOWN else ()
    return (RSMAMBA, *floor, *peers)


def run_pipeline_bench(
    options: PipelineOptions | None = None,
    on_event: EventHandler = ignore_events,
    call: Call | None = None,
) -> PipelineReport:
    """Make every map and compare.

    Args:
        options: how.
        on_event: gets progress.
        call: makes one map in a process of its own; None does that.
    """
    options = options or PipelineOptions()
    machine = describe_machine()
    runs: list[Run] = []
    todo = cases(options.scale)
    on_event(Started(_STAGE, total=sum(len(forms(case)) for case in todo), unit="map"))
    with tempfile.TemporaryDirectory(prefix="rsmamba-bench-", dir=options.folder) as folder:
        scene, output = Path(folder) / "scene.tif", Path(folder) / "mask.tif"
        drawn = None
        for case in todo:
            if drawn != (case.layout, case.height, case.width):
                drawn = case.layout, case.height, case.width
                on_event(Progress(_STAGE, 0, f"drawing {_title(case)}"))
                _draw(scene, case)
            for form in forms(case):
                on_event(Progress(_STAGE, 1, f"{_title(case)}: {form}"))
                run = _run(case, form, scene, output, options, call or _in_process)
                if output.exists() and form not in (FLOOR, MODEL) and case.layout in LAYOUTS:
                    exact = Path(folder) / f"{case.model}-{case.height}-{case.width}.npy"
                    if not exact.exists():
                        keep_exact_labels(scene, case.model, exact)
                    run = run.model_copy(update={"differing": differing(output, exact)})
                runs.append(run)
                output.unlink(missing_ok=True)
        flips: tuple[Flips, ...] = ()
        if side := FLIP_SIDES.get(options.scale):
            on_event(Progress(_STAGE, 0, "batch sizes and threads"))
            flips = label_flips(Path(folder), side, options.memory)
    on_event(Finished(_STAGE, f"{len(runs)} maps"))
    return PipelineReport(
        command=options.command,
        scale=options.scale,
        tile=TILE,
        overlap=OVERLAP,
        machine=machine,
        runs=tuple(runs),
        targets=(*targets(runs), *flip_targets(flips)),
        flips=flips,
    )


def _title(case: Case) -> str:
    return f"{case.model}, {case.layout}, {case.height} x {case.width}"


def _draw(path: Path, case: Case) -> None:
    path.unlink(missing_ok=True)
    if case.layout in LAYOUTS:
        draw_scene(path, case.height, case.width, case.layout)
    else:
        areas = _AREAS if case.layout == SPARSE else 0
        draw_sparse_scene(path, case.height, case.width, areas, _AREA)


def _run(
    case: Case, form: str, scene: Path, output: Path, options: PipelineOptions, call: Call
) -> Run:
    if form == MONAI and (missing := _why_not_monai(case)):
        return Run(case=case, form=form, note=missing)
    rounds = options.rounds if form in (RSMAMBA, FLOOR) and options.scale != "large" else 1
    memory = case.memory or options.memory
    work = {
        "scene": str(scene),
        "model": case.model,
        "tile": TILE,
        "overlap": OVERLAP,
        "trim": case.trim,
        "memory": memory,
    }
    try:
        found = call({"form": form, "work": work, "output": str(output), "rounds": rounds})
    except ChildError as error:
        return Run(case=case, form=form, note=str(error))
    times = found["times"]
    return Run(
        case=case,
        form=form,
        rounds=rounds,
        mask_seconds=median(t["mask"] for t in times),
        cpu_seconds=median(t["mask_cpu"] for t in times),
        after_seconds=median(t["after"] for t in times) or None,
        peak_bytes=found["peak_bytes"],
        allowed_bytes=(PredictOptions(memory=memory).memory_bytes() if form == RSMAMBA else None),
        windows=times[0]["windows"] or None,
    )


class ChildError(Exception):
    """The process that made a map failed; the message says why."""


def _in_process(request: dict[str, Any]) -> dict[str, Any]:
    """Run ``child`` with one thread.

    Raises:
        ChildError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "rsmamba_cli.bench.pipeline.child", json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ChildError(lines[-1] if lines else "killed, most likely for want of memory")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _why_not_monai(case: Case) -> str:
    if importlib.util.find_spec("monai") is None:
        return "MONAI is not installed (pip install 'rsmamba[bench]')"
    # Twice the input, the sums, the weights and the answer; an estimate on the safe side.
    needed = case.pixels * 4 * (2 * BANDS + 3 * CLASSES)
    available = available_bytes()
    if available is not None and needed > available:
        return f"left out: it needs about {needed / 2**30:.0f} GiB"
    return ""


def targets(runs: Sequence[Run]) -> tuple[Target, ...]:
    """What was aimed at, as far as it was measured."""
    own = [run for run in runs if run.form == RSMAMBA and run.mask_seconds]
    found: list[Target] = []
    largest = max((run.case.width for run in own if run.case.layout in LAYOUTS), default=0)
    quick = {
        run.case.layout: run
        for run in own
        if run.case.model == NAMES[0] and run.case.width == run.case.height == largest
    }
    if quick:
        speeds = {layout: run.megapixels_per_second or 0.0 for layout, run in quick.items()}
        listed = ", ".join(f"{speed:.1f} {layout}" for layout, speed in speeds.items())
        found.append(
            Target(
                name="megapixels a second to the finished mask",
                aim="16 or more",
                reached=listed,
                met=min(speeds.values()) >= 16,
            )
        )
    if len(quick) == len(LAYOUTS):
        tiled, striped = (quick[layout] for layout in ("tiled deflate", "striped deflate"))
        ratio = (striped.mask_seconds or 0) / (tiled.mask_seconds or 1)
        found.append(
            Target(
                name="striped input against tiled, both deflated",
                aim="1.3 times as long at most",
                reached=f"{ratio:.2f}",
                met=ratio <= 1.3,
            )
        )
    trimmed = [r for r in own if r.case.trim > RADIUS and r.differing is not None]
    if trimmed:
        worst = max(run.differing or 0 for run in trimmed)
        found.append(
            Target(
                name=f"labels unlike a single pass where {RADIUS + 1} pixels are trimmed",
                aim="0",
                reached=str(worst),
                met=worst == 0,
            )
        )
    slopes = [slope for run in own if (slope := height_slope(run, own)) is not None]
    if slopes:
        found.append(
            Target(
                name="memory a pixel of height, at one width",
                aim=f"0 bytes ({_SEEN} at most, what a measurement can tell)",
                reached=f"{max(slopes):+.3f} bytes",
                met=max(slopes) <= _SEEN,
            )
        )
    bounded = [
        (run.peak_bytes / run.allowed_bytes, run)
        for run in own
        if run.peak_bytes is not None and run.allowed_bytes
    ]
    if bounded:
        share, run = max(bounded, key=lambda pair: pair[0])
        allowed = f"{(run.allowed_bytes or 0) / 2**20:,.0f} MiB"
        where = f"{run.case.height:,} x {run.case.width:,}, {allowed}"
        found.append(
            Target(
                name="memory above the loaded process, of what --memory allows",
                aim="100 % at most",
                reached=f"{share:.0%} ({where})",
                met=share <= 1,
            )
        )
    return tuple(found)


def flip_targets(flips: Sequence[Flips]) -> tuple[Target, ...]:
    """What was aimed at with other batch sizes and numbers of threads."""
    if not flips:
        return ()
    worst = max(flip.labels for flip in flips)
    name = "labels that another batch size or number of threads moves"
    return (Target(name=name, aim="0", reached=str(worst), met=worst == 0),)


def height_slope(run: Run, runs: Iterable[Run]) -> float | None:
    """Bytes that a pixel more takes, against the least tall scene of the same width."""
    return _slope(run, [r for r in runs if r.case.width == run.case.width])


def square_slope(run: Run, runs: Iterable[Run]) -> float | None:
    """Bytes that a pixel more takes, against the smallest square."""
    if run.case.height != run.case.width:
        return None
    return _slope(run, [r for r in runs if r.case.height == r.case.width])


def _slope(run: Run, runs: Sequence[Run]) -> float | None:
    like = [
        r
        for r in runs
        if (r.form, r.case.model, r.case.layout, r.allowed_bytes)
        == (run.form, run.case.model, run.case.layout, run.allowed_bytes)
        and r.peak_bytes is not None
    ]
    least = min(like, key=lambda r: r.case.pixels, default=run)
    if run.peak_bytes is None or least.peak_bytes is None or least.case == run.case:
        return None
    return (run.peak_bytes - least.peak_bytes) / (run.case.pixels - least.case.pixels)
