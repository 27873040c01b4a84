"""``rsmamba info``: what the toolkit sees in a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rsmamba_cli.commands.flags import Output, command_app, parse_tile, spread_flags
from rsmamba_cli.commands.mapping import plan_rows
from rsmamba_cli.console import EXIT_FAILED, Console, area, running
from rsmamba_cli.errors import InputError, RsmambaError

app = command_app()

_STRIPE = 1024
"""Rows of a map that are counted at a time."""
_PROVENANCE = "RSMAMBA_"


@app.command()
@spread_flags
def info(
    *,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A scene, or a map made by this toolkit.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            metavar="FILE|demo",
            help="Forecast for this checkpoint. Default: the embedded demonstration model.",
        ),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="N|full",
            help="Forecast for this window side; full: one pass. Default: the checkpoint's.",
        ),
    ] = None,
    sar: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Forecast with this radar image, for models of optical and radar."
        ),
    ] = None,
    scene: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Of a map: compare grid and nodata with its scene."),
    ] = None,
    out: Output,
) -> None:
    """Show what the toolkit sees in a scene or in one of its masks.

    Of a scene: grid, bands, nodata, blocks, and what predicting it will take. Of a map made by this
    toolkit: how it was made, the share and area of each class, and whether it is as it should be.
    Exit status 1 where it is not.
    """
    side = parse_tile(tile)
    with running(**out.settings()) as console:
        refuse_models(file)
        data = file_facts(file)
        if "provenance" not in data:
            data["prediction"] = forecast(file, model, side, sar)
        elif "classes" in data:
            from rsmamba_cli.report.map_checks import check_map

            data["checks"] = [vars(check) for check in check_map(file, scene)]
        console.result(data, lambda: _show(console, data))
        if any(check["good"] is False for check in data.get("checks", ())):
            raise typer.Exit(EXIT_FAILED)


def refuse_models(file: str) -> None:
    """Point to the command for checkpoints.

    Raises:
        InputError: ``file`` is named like weights.
    """
    suffix = Path(file).suffix.lower()
    if suffix == ".safetensors":
        raise InputError(f"{file}: is a checkpoint; see `rsmamba checkpoint show {file}`")
    if suffix in (".pth", ".pt", ".ckpt"):
        raise InputError(
            f"{file}: holds weights; `rsmamba checkpoint import {file} --family NAME` makes a "
            "checkpoint of them"
        )


def file_facts(file: str) -> dict[str, Any]:
    """Describe a raster, and what is in it if the toolkit made it.

    Raises:
        InputError: it cannot be opened, or is damaged.
    """
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    from rsmamba_cli.raster.opening import open_dataset

    with open_dataset(file) as dataset:
        try:
            data = {"file": file, **raster_facts(dataset)}
            tags = {name: str(value) for name, value in dataset.tags().items()}
            if f"{_PROVENANCE}VERSION" in tags:
                data |= map_facts(dataset, tags)
        except (RasterioError, CPLE_BaseError) as error:
            # GDAL reads some of a damaged file's tags only when they are asked for.
            raise InputError(f"{file}: its description cannot be read ({error})") from error
    return data


def raster_facts(dataset: Any) -> dict[str, Any]:
    """Describe the grid, the bands and the layout of an open rasterio dataset."""
    from rsmamba_cli.raster.grid import Grid

    grid = Grid.of(dataset)
    bands = [
        {
            "band": number,
            "name": dataset.descriptions[number - 1] or "",
            "color": dataset.colorinterp[number - 1].name,
            "dtype": str(dataset.dtypes[number - 1]),
            "nodata": _number(dataset.nodatavals[number - 1]),
            "mask": [flag.name for flag in dataset.mask_flag_enums[number - 1]],
            "block": list(dataset.block_shapes[number - 1]),
        }
        for number in range(1, dataset.count + 1)
    ]
    compression = dataset.profile.get("compress")
    return {
        "driver": dataset.driver,
        "width": grid.width,
        "height": grid.height,
        "crs": None if grid.world_crs is None else grid.world_crs.to_string(),
        "transform": None if grid.transform is None else list(grid.transform[:6]),
        "control_points": len(grid.gcps),
        "rpcs": grid.rpcs is not None,
        "bounds": list(grid.bounds) if grid.has_georeference else None,
        "metres_a_pixel": grid.gsd_m(),
        "bands": bands,
        "overviews": list(dataset.overviews(1)),
        "compression": None if compression is None else str(compression),
    }


def map_facts(dataset: Any, tags: Mapping[str, str]) -> dict[str, Any]:
    """Describe one of the toolkit's own outputs: provenance, and what a class map holds.

    Args:
        dataset: the open map.
        tags: its tags.
    """
    provenance = {
        name.removeprefix(_PROVENANCE).lower(): value
        for name, value in sorted(tags.items())
        if name.startswith(_PROVENANCE)
    }
    names = {
        int(name.removeprefix("CLASS_")): str(value)
        for name, value in dataset.tags(1).items()
        if name.startswith("CLASS_") and name.removeprefix("CLASS_").isdigit()
    }
    if not names:  # probabilities and uncertainty hold quantities, not classes
        return {"provenance": provenance, "scales": list(dataset.scales)}
    return {"provenance": provenance, "classes": _class_counts(dataset, names)}


def _class_counts(dataset: Any, names: Mapping[int, str]) -> list[dict[str, Any]]:
    import numpy as np
    from rasterio.windows import Window

    from rsmamba_cli.raster.grid import Grid
    from rsmamba_cli.raster.opening import reading

    table = Grid.of(dataset).area_table()
    values = dict(sorted(names.items()))
    nodata = dataset.nodatavals[0]
    if nodata is not None:
        values[int(nodata)] = "nodata"
    pixels = dict.fromkeys(values, 0)
    areas = dict.fromkeys(values, 0.0)
    for row in range(0, dataset.height, _STRIPE):
        rows = min(_STRIPE, dataset.height - row)
        with reading(dataset.name, row, rows):
            stripe = dataset.read(1, window=Window(0, row, dataset.width, rows))
        for value in values:
            selected = stripe == value
            pixels[value] += int(np.count_nonzero(selected))
            if table is not None:
                areas[value] += table.sum_where(selected, row)
    total = dataset.width * dataset.height
    return [
        {
            "value": value,
            "name": name,
            "pixels": pixels[value],
            "share": pixels[value] / total,
            "area_m2": None if table is None else areas[value],
        }
        for value, name in values.items()
    ]


def forecast(
    file: str,
    model: str | None,
    tile: int | Literal["full"] | None = None,
    sar: str | None = None,
) -> dict[str, Any]:
    """Say what predicting a scene would take, or why it cannot be predicted."""
    from rsmamba_cli.inference import PredictOptions, plan_summary

    chosen = None if model in (None, "", "demo") else Path(str(model))
    try:
        return plan_summary(file, PredictOptions(model=chosen, tile=tile, sar=sar))
    except RsmambaError as error:
        return {"error": str(error)}


def _number(value: float | None) -> float | str | None:
    if value is None:
        return None
    return value if value - value == 0 else str(value)


def _text(value: float | str | None) -> str:
    return f"{value:g}" if isinstance(value, float | int) else value or ""


def _show(console: Console, data: Mapping[str, Any]) -> None:
    bounds = data["bounds"]
    placed = data["crs"] or "no CRS"
    if data["control_points"]:
        placed += f", by {data['control_points']} control points"
    elif data["rpcs"]:
        placed += ", by RPCs"
    elif data["transform"] is None:
        placed = "no georeference"
    console.properties(
        str(data["file"]),
        {
            "format": ", ".join(filter(None, (data["driver"], data["compression"]))),
            "size": f"{data['width']} x {data['height']} pixels",
            "CRS": placed,
            "pixel": f"{data['metres_a_pixel']:.4g} m" if data["metres_a_pixel"] else None,
            "bounds": None if bounds is None else ", ".join(f"{value:.10g}" for value in bounds),
            "overviews": ", ".join(map(str, data["overviews"])),
        },
    )
    console.table(
        ("band", "name", "colour", "type", "nodata", "mask", "block"),
        [
            (
                band["band"],
                band["name"],
                band["color"],
                band["dtype"],
                _text(band["nodata"]),
                ", ".join(band["mask"]),
                "{1} x {0}".format(*band["block"]),
            )
            for band in data["bands"]
        ],
    )
    if "provenance" in data:
        console.properties(
            "made by rsmamba",
            {name.replace("_", " "): value for name, value in data["provenance"].items()},
        )
    if "classes" in data:
        console.table(
            ("value", "class", "pixels", "share", "area"),
            [
                (
                    part["value"],
                    part["name"],
                    f"{part['pixels']:,}",
                    f"{100 * part['share']:.2f} %",
                    "" if part["area_m2"] is None else area(part["area_m2"]),
                )
                for part in data["classes"]
            ],
            right=("value", "pixels", "share", "area"),
        )
    if "checks" in data:
        words = {True: "good", False: "NOT GOOD", None: ""}
        console.table(
            ("check", "", "what was found"),
            [(c["name"], words[c["good"]], c["detail"]) for c in data["checks"]],
        )
    if "prediction" in data:
        plan = data["prediction"]
        rows = {"not possible": plan["error"]} if "error" in plan else plan_rows(plan)
        console.properties("to predict it", rows)
