"""``rsmamba bench scaling``: one scene by one worker and by several, and what a scheduler costs.

The scene is drawn, the model is the embedded demonstration model; every worker has one thread of
computation.
"""

import hashlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from affine import Affine

from rsmamba_cli.assets import demo_checkpoint
from rsmamba_cli.bench.records import Machine, _Frozen
from rsmamba_cli.bench.runner import describe_machine
from rsmamba_cli.bench.tables import markdown_table, seconds
from rsmamba_cli.datasets.generator import make_scene
from rsmamba_cli.events import Event, EventHandler, Finished, Progress, Started, ignore_events
from rsmamba_cli.inference import PredictOptions, predict
from rsmamba_cli.inference.plan import Chunk
from rsmamba_cli.inference.worker import RunSpec

SECTION = "bench:scaling"
COLUMNS = (
    "workers",
    "seconds",
    "to the first block",
    "times as fast",
    "efficiency",
    "megapixels/s",
    "same bytes",
)
IN_PROCESS, PROCESSES, CLUSTER = "this process", "local processes", "Dask workers"
_STAGE = "bench"
_GSD = 0.5
_DRAWN = 1024


@dataclass(frozen=True)
class ScalingOptions:
    """How to run.

    Attributes:
        side: of the scene in pixels.
        workers: at most.
        tasks: empty ones that the scheduler is measured with.
        folder: where scene and maps are put for the time being; None takes the system's.
        command: what was typed, for the report.
    """

    side: int = 8192
    workers: int = 2
    tasks: int = 1000
    folder: Path | None = None
    command: str = ""


class Mapped(_Frozen):
    """One way to map the scene.

    Attributes:
        how: which engine.
        workers: processes that compute.
        seconds: for the whole command, the COG included; a cluster is there before.
        first_seconds: until the first block was finished: workers start, import and load.
        windows: that went through the model.
        sha256: of the mask.
    """

    how: str
    workers: int
    seconds: float
    first_seconds: float
    windows: int
    sha256: str


class ScalingReport(_Frozen):
    """Everything that one run found.

    Attributes:
        format: version of this layout.
        command: what was typed, or an equivalent.
        side: of the scene in pixels.
        model: architecture.
        machine: where it ran.
        mapped: the first one is what the others are held against.
        tasks: empty tasks that went through the scheduler.
        task_seconds: for one of them, with all workers at it; None without Dask.
    """

    format: Literal[1] = 1
    command: str
    side: int
    model: str
    machine: Machine
    mapped: tuple[Mapped, ...]
    tasks: int
    task_seconds: float | None

    def speedup(self, mapped: Mapped) -> float:
        """Times as fast as one process."""
        return self.mapped[0].seconds / mapped.seconds

    @property
    def same(self) -> bool:
        """Whether all masks are the same bytes."""
        return len({mapped.sha256 for mapped in self.mapped}) == 1


def run_scaling_bench(
    options: ScalingOptions | None = None, on_event: EventHandler = ignore_events
) -> ScalingReport:
    """Map the scene in every way.

    Args:
        options: how.
        on_event: gets progress.
    """
    options = options or ScalingOptions()
    machine = describe_machine()
    counts = range(2, options.workers + 1)
    dask = importlib.util.find_spec("distributed") is not None
    on_event(Started(_STAGE, total=1 + len(counts) * (1 + dask), unit="map"))
    mapped: list[Mapped] = []
    task_seconds = None
    with tempfile.TemporaryDirectory(prefix="rsmamba-bench-", dir=options.folder) as folder:
        scene, small = Path(folder) / "scene.tif", Path(folder) / "small.tif"
        _draw(scene, options.side)
        _draw(small, min(options.side, _DRAWN))

        def add(how: str, count: int, **engine: Any) -> None:
            on_event(Progress(_STAGE, 0, how if how == IN_PROCESS else f"{count} {how}"))
            mapped.append(_map(scene, how, count, engine))
            on_event(Progress(_STAGE, 1))

        # Imports are not what is measured; those of new processes show in their first block.
        _map(small, IN_PROCESS, 1, {})
        add(IN_PROCESS, 1)
        for workers in counts:
            add(PROCESSES, workers, workers=workers)
        if dask:
            for workers in counts:
                with _cluster(workers) as address:
                    _map(small, CLUSTER, workers, {"scheduler": address})
                    add(CLUSTER, workers, scheduler=address)
                    task_seconds = empty_task_seconds(address, options.tasks)
    on_event(Finished(_STAGE, f"{len(mapped)} maps"))
    return ScalingReport(
        command=options.command,
        side=options.side,
        model=demo_checkpoint("segmentation").stem,
        machine=machine,
        mapped=tuple(mapped),
        tasks=options.tasks,
        task_seconds=task_seconds,
    )


def _draw(path: Path, side: int) -> None:
    """A drawn scene of the model's pixel size, repeated where it is larger than what is drawn."""
    drawn = make_scene(1, min(side, _DRAWN), min(side, _DRAWN), _GSD).t1
    repeats = -(-side // _DRAWN)
    pixels = np.tile(drawn, (1, repeats, repeats))[:, :side, :side]
    transform = Affine(_GSD, 0, 500_000, 0, -_GSD, 5_700_000)
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8",
        crs="EPSG:32631", transform=transform, tiled=True, compress="deflate",
    ) as dataset:  # fmt: skip
        dataset.write(pixels)


def _map(scene: Path, how: str, workers: int, engine: dict[str, Any]) -> Mapped:
    output = scene.with_name("mask.tif")
    began = time.perf_counter()
    first: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "predict" and not first:
            first.append(time.perf_counter() - began)

    options = PredictOptions(threads=1, **engine)
    result = predict(scene, output, options, note)
    mapped = Mapped(
        how=how,
        workers=workers,
        seconds=time.perf_counter() - began,
        first_seconds=first[0],
        windows=result.windows_computed,
        sha256=hashlib.sha256(output.read_bytes()).hexdigest(),
    )
    output.unlink()
    return mapped


@contextmanager
def _cluster(workers: int) -> Iterator[str]:
    """A Dask cluster of processes on this machine; its scheduler's address."""
    import logging

    from distributed import LocalCluster

    make: Callable[..., Any] = LocalCluster
    with make(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        silence_logs=logging.ERROR,
    ) as cluster:
        yield cluster.scheduler_address


def empty_task_seconds(address: str, tasks: int) -> float:
    """What the scheduler costs a task: tasks with a chunk's arguments that do nothing.

    Args:
        address: of the scheduler.
        tasks: how many.

    Returns:
        Seconds a task, from handing in the first one to having the last result here.
    """
    from distributed import Client

    spec = RunSpec("segmentation", ("scene.tif",), PredictOptions(), (0, 1), "", "", "", "")
    make: Callable[..., Any] = Client
    with make(address, set_as_default=False) as client:
        began = time.perf_counter()
        futures = [
            client.submit(_nothing, spec, Chunk(0, (i,)), key=f"nothing-{i}", pure=False)
            for i in range(tasks)
        ]
        client.gather(futures)
        return (time.perf_counter() - began) / tasks


def _nothing(spec: RunSpec, chunk: Chunk) -> Chunk:
    return chunk


def scaling_facts(report: ScalingReport) -> dict[str, str]:
    """What was measured where, by name."""
    machine = report.machine
    load = "unknown" if machine.load is None else f"{machine.load:.2f}"
    task, scheduler = report.task_seconds, "Dask is not installed"
    if task is not None:
        scheduler = (
            f"{seconds(task)} a task ({report.tasks:,} empty ones), {1 / task:,.0f} tasks a second"
        )
    return {
        "command": report.command,
        "scene": f"{report.side} x {report.side}, {report.mapped[0].windows} windows",
        "model": report.model,
        "processor": f"{machine.processor}, {machine.cores} cores, {machine.system}",
        "load before the run": load,
        "versions": ", ".join(f"{name} {text}" for name, text in machine.versions.items()),
        "scheduler": scheduler,
    }


def scaling_rows(report: ScalingReport) -> list[tuple[str, ...]]:
    """Rows of cells under ``COLUMNS``."""
    first = report.mapped[0]
    rows: list[tuple[str, ...]] = []
    for mapped in report.mapped:
        speedup = report.speedup(mapped)
        rows.append(
            (
                mapped.how if mapped.how == IN_PROCESS else f"{mapped.workers} {mapped.how}",
                f"{mapped.seconds:.1f}",
                f"{mapped.first_seconds:.1f}",
                f"{speedup:.2f}",
                f"{speedup / mapped.workers:.0%}",
                f"{report.side**2 / 1e6 / mapped.seconds:.2f}",
                "yes" if mapped.sha256 == first.sha256 else "NO",
            )
        )
    return rows


def scaling_markdown(report: ScalingReport) -> str:
    """The report as Markdown, without markers."""
    lines = [
        f"- {name}: `{text}`" if name == "command" else f"- {name}: {text}"
        for name, text in scaling_facts(report).items()
    ]
    return (
        "\n".join([*lines, "", *markdown_table(COLUMNS, scaling_rows(report), COLUMNS[1:])]) + "\n"
    )
