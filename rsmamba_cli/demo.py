"""The demonstration: a drawn place on two dates, mapped and compared with the truth.

The two dates are written on different grids, as real ones are, so that ``change`` has to align
them: the second has larger pixels and begins elsewhere.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin

from rsmamba_cli.errors import InputError, OutputError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, ignore_events
from rsmamba_cli.inference import PredictOptions, PredictResult, change, predict
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.vectors import VectorClass, write_polygons

DEFAULT_SIZE = 2048
DEFAULT_SEED = 36
GSD = 0.5
SECOND_GSD = 0.6
CRS_CODE = 32632
"""UTM zone 32 north; the scene is put into a field in southern Germany."""

_WEST, _NORTH = 690_412.0, 5_336_868.0
_MARKER = ".rsmamba-demo.json"
_MARGIN = 24
"""Pixels by which the second image begins earlier and ends later than the first."""

_NOTICE = "drawn by rsmamba demo; not a photograph of a real place"


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration made.

    Attributes:
        folder: where everything lies.
        files: every file by role ("t1", "t2", "buildings", "buildings_polygons", ...).
        metrics: "building_f1", "building_iou", "change_f1", ... against the known truth, 0..1.
        seed: of the place.
        size: pixels a side of the first date.
        seconds: wall time.
        predict: what `rsmamba_cli.inference.predict` returned.
        change: what `rsmamba_cli.inference.change` returned.
    """

    folder: Path
    files: dict[str, Path]
    metrics: dict[str, float]
    seed: int
    size: int
    seconds: float
    predict: PredictResult
    change: PredictResult

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "folder": os.fspath(self.folder),
            "files": {role: os.fspath(path) for role, path in self.files.items()},
            "metrics": self.metrics,
            "seed": self.seed,
            "size": self.size,
            "seconds": self.seconds,
            "predict": self.predict.to_json(),
            "change": self.change.to_json(),
        }


@dataclass(frozen=True)
class ScenePair:
    """The inputs of the demonstration and the truth about them, as files on two grids."""

    t1: Path
    t2: Path
    truth_building: Path
    truth_change: Path
    truth_outlines: Path
    seed: int = field(default=DEFAULT_SEED)

    def files(self) -> dict[str, Path]:
        """Every file by role."""
        return {
            "t1": self.t1,
            "t2": self.t2,
            "truth_building": self.truth_building,
            "truth_outlines": self.truth_outlines,
            "truth_change": self.truth_change,
        }


def run_demo(
    out: Path | str,
    size: int = DEFAULT_SIZE,
    seed: int = DEFAULT_SEED,
    on_event: EventHandler = ignore_events,
    *,
    device: str = "auto",
    overwrite: bool = False,
) -> DemoResult:
    """Draw a scene pair, map its buildings and their changes, and measure both.

    A folder made by an earlier demonstration is used again; files of others in it stay.

    Args:
        out: folder for everything; it may not hold anything else unless ``overwrite``.
        size: pixels a side of the first date (of 0.5 m), at least 64.
        seed: which place is drawn, from 0 up.
        on_event: told what goes on.
        device: as in `PredictOptions`.
        overwrite: use a folder with foreign files in it.

    Returns:
        Paths and metrics.

    Raises:
        InputError: a size or seed out of range.
        OutputError: the folder holds other files, or cannot be written.
        CheckpointError: the installation lacks the embedded checkpoints.
    """
    # Only here: evaluation brings torch along, which nobody needs to draw a scene.
    from rsmamba_cli.evaluation import evaluate_map
    from rsmamba_cli.report import write_change_quicklook, write_quicklook

    begin = time.perf_counter()
    folder = _prepare(Path(out), size, seed, overwrite)
    pair = write_scene_pair(folder, size, seed, on_event)
    files = {
        **pair.files(),
        "buildings": folder / "buildings.tif",
        "buildings_polygons": folder / "buildings.gpkg",
        "buildings_picture": folder / "buildings.png",
        "change": folder / "change.tif",
        "change_polygons": folder / "change.geojson",
        "change_picture": folder / "change.png",
    }
    options = PredictOptions(
        polygons=files["buildings_polygons"],
        simplify=1.0,
        min_area=4.0,
        device=device,
        overwrite=True,
    )
    mapped = predict(pair.t1, files["buildings"], options, on_event)
    options = replace(options, polygons=files["change_polygons"])
    changed = change(pair.t1, pair.t2, files["change"], options, on_event)
    on_event(Started("draw the quick-looks", 2, "picture"))
    write_quicklook(
        pair.t1,
        files["buildings"],
        files["buildings_picture"],
        truth=pair.truth_building,
        overwrite=True,
    )
    on_event(Progress("draw the quick-looks"))
    write_change_quicklook(
        pair.t1,
        pair.t2,
        files["change"],
        files["change_picture"],
        truth=pair.truth_change,
        overwrite=True,
    )
    on_event(Progress("draw the quick-looks"))
    on_event(Finished("draw the quick-looks"))
    metrics: dict[str, float] = {}
    for name, role, truth in (
        ("building", "buildings", pair.truth_building),
        ("change", "change", pair.truth_change),
    ):
        found = evaluate_map(files[role], truth, on_event=on_event)
        for metric in ("f1", "iou", "precision", "recall"):
            metrics[f"{name}_{metric}"] = float(found.metrics[metric])
    return DemoResult(
        folder, files, metrics, seed, size, time.perf_counter() - begin, mapped, changed
    )


def draw_demo(
    out: Path | str,
    size: int = DEFAULT_SIZE,
    seed: int = DEFAULT_SEED,
    on_event: EventHandler = ignore_events,
    *,
    overwrite: bool = False,
) -> ScenePair:
    """Draw a scene pair and the truth about it, and compute nothing; see `run_demo`.

    Raises:
        InputError: a size or seed out of range.
        OutputError: the folder holds other files, or cannot be written.
    """
    return write_scene_pair(_prepare(Path(out), size, seed, overwrite), size, seed, on_event)


def write_scene_pair(
    folder: Path, size: int, seed: int, on_event: EventHandler = ignore_events
) -> ScenePair:
    """Draw a place on two dates and write both, and the truth, as GeoTIFFs.

    The first date has ``size`` x ``size`` pixels of 0.5 m. The second covers a little more with
    pixels of 0.6 m that share no border with the first one's. The truth has the first one's grid;
    the outlines of its buildings are a GeoPackage, a little simplified as those that people draw.

    Args:
        folder: an existing folder; files of the same names are replaced.
        size: pixels a side of the first date.
        seed: which place.
        on_event: told what goes on.

    Returns:
        The five files.

    Raises:
        OutputError: they cannot be written.
    """
    from rsmamba_cli.datasets.generator import Place
    from rsmamba_cli.datasets.scenery.render import View

    stage = "draw the scene"
    on_event(Started(stage, 3, "step"))
    margin = _MARGIN * GSD
    extent = size * GSD + 2 * margin
    place = Place(seed, extent, extent)
    on_event(Progress(stage, detail="laid out"))
    first = View(margin, margin, GSD, size, size)
    # 1.3 and 2.1 m inside the place's corner: no pixel border of one grid is one of the other.
    left, top = 1.3, 2.1
    side = int((extent - 2 * max(left, top)) / SECOND_GSD)
    second = View(left, top, SECOND_GSD, side, side)
    building = place.building(0, first)
    changed = building ^ place.building(1, first)
    pair = ScenePair(
        folder / "t1.tif",
        folder / "t2.tif",
        folder / "truth_building.tif",
        folder / "truth_change.tif",
        folder / "truth_building.gpkg",
        seed,
    )
    image, _ = place.photograph(0, first)
    _write_raster(pair.t1, image, first)
    on_event(Progress(stage, detail="first date"))
    image, _ = place.photograph(1, second)
    _write_raster(pair.t2, image, second)
    on_event(Progress(stage, detail="second date"))
    _write_raster(pair.truth_building, building[None], first, {1: (214, 40, 40)}, "building")
    _write_outlines(pair.truth_outlines, pair.truth_building, building)
    _write_raster(pair.truth_change, changed[None], first, {1: (230, 40, 40)}, "change")
    on_event(Finished(stage, f"{size} x {size} pixels of {GSD} m"))
    return pair


def _prepare(folder: Path, size: int, seed: int, overwrite: bool) -> Path:
    """Make the folder, or make sure that it is one of ours, and mark it."""
    if size < 64:
        raise InputError(f"the demonstration needs at least 64 pixels a side, not {size}")
    if seed < 0:
        raise InputError(f"the seed is an integer from 0 up, not {seed}")
    marker = folder / _MARKER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = not marker.is_file() and any(folder.iterdir())
        if strangers and not overwrite:
            raise OutputError(
                f"{folder}: holds files that the demonstration did not make; name another folder, "
                "or use --overwrite to add to this one"
            )
        marker.write_text(json.dumps({"size": size, "seed": seed}) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used ({error.strerror or error})") from error
    return folder


def _write_outlines(path: Path, mask: Path, building: npt.NDArray[np.uint8]) -> None:
    """Write the outlines of what is 1 in a mask, under their name only when complete."""
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    temporary.unlink(missing_ok=True)
    with rasterio.open(mask) as source:
        grid = Grid.of(source)
    try:
        write_polygons(
            temporary,
            lambda first, last: building[first:last],
            grid,
            [VectorClass(1, "building")],
            simplify=1.0,
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_raster(
    path: Path,
    array: npt.NDArray[np.uint8],
    view: Any,
    colors: Mapping[int, tuple[int, int, int]] | None = None,
    name: str = "",
) -> None:
    """Write a tiled GeoTIFF at the demonstration's place, under its name only when complete."""
    corner = from_origin(_WEST + view.x, _NORTH - view.y, view.gsd, view.gsd)
    temporary = path.with_name(f".{path.name}.partial")
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": view.height,
        "width": view.width,
        "count": len(array),
        "dtype": "uint8",
        "crs": CRS.from_epsg(CRS_CODE),
        "transform": Affine(*corner[:6]),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "interleave": "pixel" if len(array) > 1 else "band",
    }
    if len(array) == 3:
        profile |= {"photometric": "RGB", "predictor": 2}
    try:
        with rasterio.open(temporary, "w", **profile) as dataset:
            dataset.write(array)
            dataset.update_tags(RSMAMBA_NOTICE=_NOTICE)
            if colors:
                table = {value: (*color, 255) for value, color in colors.items()}
                dataset.write_colormap(1, {0: (0, 0, 0, 255), **table})
                dataset.update_tags(1, **{f"class_{value}": name for value in colors})
        temporary.replace(path)
    except (rasterio.errors.RasterioError, OSError) as error:
        raise OutputError(f"{path}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)
