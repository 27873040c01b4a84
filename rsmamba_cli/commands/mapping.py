"""What ``predict`` and ``change`` have in common: outputs of many scenes, batches, results."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from rsmamba_cli.commands.flags import Inference, usage_error
from rsmamba_cli.console import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    Console,
    area,
    describe_error,
    size,
)
from rsmamba_cli.errors import InputError, OutputError
from rsmamba_cli.progress import duration

if TYPE_CHECKING:
    from rsmamba_cli.inference import PredictResult

T = TypeVar("T")
_FEW = 8


@dataclass(frozen=True)
class Job:
    """One map to make.

    Attributes:
        inputs: the scene, or the two dates.
        output: the mask.
    """

    inputs: tuple[str, ...]
    output: Path

    @property
    def title(self) -> str:
        """The inputs in words."""
        return " and ".join(self.inputs)


def plan_jobs(
    inputs: Sequence[tuple[str, ...]],
    suffix: str,
    output: Path | None,
    out_dir: Path | None,
    flags: Inference,
) -> list[Job]:
    """Name the output of each input: ``--output``, or stem(s) + suffix in ``out_dir`` or here.

    Raises:
        typer.BadParameter: options that only fit one map with several, or two that exclude each
            other.
        InputError: two outputs would have one name; nothing has been done yet.
    """
    if output is not None and out_dir is not None:
        usage_error("--output names one file and --out-dir a folder: give one of them")
    if len(inputs) > 1:
        single = {
            "--output": output,
            "--probabilities": flags.probabilities,
            "--uncertainty": flags.uncertainty,
            "--polygons": flags.polygons,
        }
        for option, value in single.items():
            if value is not None:
                usage_error("names one file, but there are several maps; use --out-dir", option)
    if output is not None:
        return [Job(inputs[0], output)]
    folder = Path() if out_dir is None else out_dir
    jobs = [Job(names, folder / f"{'_'.join(map(stem, names))}{suffix}") for names in inputs]
    taken = Counter(job.output for job in jobs)
    double = next((job.output for job in jobs if taken[job.output] > 1), None)
    if double is not None:
        names = ", ".join(job.title for job in jobs if job.output == double)
        raise InputError(
            f"{names}: would all become {double}; rename one, or run them into different folders"
        )
    return jobs


def read_pairs(path: Path, names: tuple[str, str]) -> list[tuple[str, str]]:
    """Read the table of ``--pairs``; paths in it are relative to its folder.

    Args:
        path: a CSV file.
        names: of its two columns.

    Raises:
        InputError: no such file, other columns, an incomplete line, or no line at all.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in table.fieldnames or ()]
            if not set(names) <= set(columns):
                raise InputError(
                    f"{path}: the first line must name the columns {' and '.join(names)}; "
                    f"it has {', '.join(columns) or 'none'}"
                )
            table.fieldnames = columns
            pairs = []
            for row in table:
                first, second = ((row[name] or "").strip() for name in names)
                if not (first and second):
                    raise InputError(
                        f"{path}, line {table.line_num}: one of {' and '.join(names)} is empty"
                    )
                pairs.append((_beside(path, first), _beside(path, second)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: the table of pairs cannot be read ({reason})") from error
    if not pairs:
        raise InputError(f"{path}: holds no pairs")
    return pairs


def _beside(table: Path, name: str) -> str:
    """A path in a table; what only GDAL can read (URLs, ``/vsi...``) is left as it is."""
    return name if "://" in name or name.startswith("/") else str(table.parent / name)


def stem(name: str) -> str:
    """The name of a scene without folder and suffix, fit for a file name.

    Also of what only GDAL can read: URLs (without their query) and ``DRIVER:"file":layer``.
    """
    last = re.split(r"[/\\]", name.split("?", 1)[0].rstrip("/\\"))[-1]
    base = last.rsplit(".", 1)[0] if "." in last.strip(".") else last
    return re.sub(r"[^\w.+-]+", "_", base).strip("_") or "scene"


def make_folder(folder: Path | None) -> None:
    """Make the folder of ``--out-dir``.

    Raises:
        OutputError: it cannot be made.
    """
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made a folder ({error.strerror})") from error


def run_jobs(
    console: Console,
    jobs: Sequence[Job],
    run: Callable[[Job], T],
    data: Callable[[T], dict[str, Any]],
    show: Callable[[Job, T], None],
) -> None:
    """Run the jobs one after the other; a failure of one of several does not stop the others.

    Args:
        console: shows results and errors.
        jobs: what to do.
        run: does one.
        data: a result as JSON values.
        show: prints a result.

    Raises:
        typer.Exit: status 3 when some of several failed.
        RsmambaError: the only job failed.
    """
    if len(jobs) == 1:
        result = run(jobs[0])
        console.result(data(result), lambda: show(jobs[0], result))
        return
    results: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for number, job in enumerate(jobs, start=1):
        console.note(f"[{number}/{len(jobs)}] {job.title}")
        try:
            result = run(job)
        except Exception as error:
            status, message = describe_error(error)
            if status == EXIT_INTERRUPTED:
                raise
            console.close_stages()
            console.log_trace()
            console.error(message if job.inputs[0] in message else f"{job.title}: {message}")
            failed.append({"inputs": job.inputs, "error": message})
        else:
            results.append(data(result))
            if not console.json_output:
                console.result(results[-1], partial(show, job, result))
    if console.json_output:
        console.result({"results": results, "failed": failed}, lambda: None)
    if failed:
        console.error(f"{len(failed)} of {len(jobs)} failed")
        raise typer.Exit(EXIT_SOME_FAILED)


def dry_run(
    console: Console, jobs: Sequence[Job], summary: Callable[[Job], dict[str, Any]]
) -> None:
    """Say what the jobs would take, computing nothing.

    Raises:
        typer.Exit: status 3 when some of several could not run.
        RsmambaError: the only job could not run.
    """

    def run(job: Job) -> dict[str, Any]:
        return {"output": str(job.output), **summary(job)}

    def show(job: Job, plan: dict[str, Any]) -> None:
        rows = {"would write": job.output, **plan_rows(plan)}
        console.properties(f"{job.title} (dry run)", rows)

    run_jobs(console, jobs, run, dict, show)


def _memory(plan: dict[str, Any]) -> str:
    beside, model = plan["memory_bytes"], plan["model_memory_bytes"]
    if model is None:
        return f"{size(beside)} beside the model"
    return f"about {size(beside + model)}: {size(model)} for the model, {size(beside)} beside it"


def plan_rows(plan: dict[str, Any]) -> dict[str, Any]:
    """Write what ``plan_summary`` returned for people."""
    tall, wide = plan["window"]
    down, right = plan["stride"]
    seconds, overlap = plan["seconds"], plan["overlap"]
    return {
        "grid": plan["description"],
        **{
            f"bands of {part['name']}" if len(plan["inputs"]) > 1 else "bands": ", ".join(
                f"{name} ({band})"
                for name, band in zip(part["band_names"], part["bands"], strict=False)
            )
            for part in plan["inputs"]
        },
        "overlap": None if overlap is None else f"{overlap:.1%} of the map",
        "model": plan["model"],
        "windows": f"{plan['windows']} of {wide} x {tall} pixels, every {right} x {down}",
        "batches": f"{plan['batches']} of {plan['batch_size']}",
        "computed on": f"{plan['device']}, {plan['precision']}",
        "memory": _memory(plan),
        "disk": f"{size(plan['disk_bytes'])} (free here: {size(plan['disk_free_bytes'])})",
        "time": None if seconds is None else f"about {duration(seconds)}",
    }


def show_result(console: Console, job: Job, result: "PredictResult") -> None:
    """Print one result: what there is in the map, then where it is and how it was made."""
    if result.skipped:
        console.note(f"{result.output}: finished already, left as it is")
        return
    if "shard" in result.details:
        done, blocks = result.details["blocks_done"], result.details["blocks"]
        left = f"; then: rsmamba merge {result.output}" if done < blocks else ""
        console.note(
            f"part {result.details['shard']} is done; {done} of {blocks} blocks of "
            f"{result.output} are finished" + (left or f": rsmamba merge {result.output}")
        )
        return
    total = result.width * result.height
    areas = result.area_m2_per_class
    rows = [
        (
            name,
            f"{count:,}",
            f"{100 * count / total:.2f} %",
            area(areas[name]) if areas and name in areas else "",
        )
        for name, count in result.pixels_per_class.items()
    ]
    console.table(
        ("class", "pixels", "share", "area"),
        rows,
        title=job.title,
        right=("pixels", "share", "area"),
    )
    console.properties(
        "done",
        {
            **_written(result.files),
            "size": f"{result.width} x {result.height} pixels, {result.windows} windows",
            "time": f"{duration(result.seconds)}, {result.megapixels_per_second:.3g} megapixels/s",
            "peak memory": size(result.peak_memory_bytes),
            "model": result.model,
            "computed on": f"{result.device}, {result.precision}, scan: {result.backend}",
            **_details(result.details),
        },
    )


def _written(files: dict[str, Path]) -> dict[str, str]:
    """Output files by role; the many of a mosaic as their number."""
    if len(files) <= _FEW:
        return {role: str(path) for role, path in files.items()}
    folder = next(iter(files.values())).parent
    return {"masks": f"{len(files)} files, most in {folder}"}


def _details(details: dict[str, Any]) -> dict[str, str]:
    """Write how two inputs lie on each other, or which is missing."""
    rows: dict[str, str] = {}
    if "missing" in details:
        rows["not given"] = f"{', '.join(details['missing'])}: zeros in its place"
    if "overlap" in details:
        rows["overlap"] = f"{details['overlap']:.1%} of the map ({details['alignment']})"
    shift = details.get("shift")
    if shift:
        pixels = f"{shift['rows']:+.2f} down, {shift['cols']:+.2f} to the right"
        rows["likely shift"] = f"{pixels} pixels (confidence {shift['confidence']:.2f})"
    return rows
