"""A STAC item about a finished map: where it is, what its values mean, which model made it."""

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsmamba_cli.errors import OutputError
from rsmamba_cli.raster.blocks import Layer
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.output import SCALE
from rsmamba_cli.report.footprint import footprint
from rsmamba_models import CheckpointMeta

_MEDIA = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".tiff": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".gpkg": "application/geopackage+sqlite3",
    ".geojson": "application/geo+json",
    ".json": "application/geo+json",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
    ".qml": "application/xml",
}
_SCHEMAS = {
    "projection": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "classification": "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "mlm": "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
}
_TASKS = {
    "segmentation": "semantic-segmentation",
    "multimodal": "semantic-segmentation",
    "change": "semantic-segmentation",
}


def check_stac() -> None:
    """Refuse early where pystac is missing.

    Raises:
        OutputError: says what to install.
    """
    import importlib.util

    if importlib.util.find_spec("pystac") is None:
        raise OutputError(
            "--stac needs pystac, which is not installed; run pip install 'rsmamba[stac]'"
        )


def write_stac_item(
    path: Path,
    files: Mapping[str, Path],
    grid: Grid,
    meta: CheckpointMeta,
    layers: Mapping[str, Layer],
    moment: dt.datetime,
    derived_from: list[str],
    checkpoint: Path,
) -> None:
    """Write the item of a map.

    Args:
        path: where to.
        files: outputs under their final names, by role; assets are named relative to the item's
            final folder, that of the mask.
        grid: of the map.
        meta: of the checkpoint.
        layers: of the rasters.
        moment: when the scene was taken, with a time zone.
        derived_from: the scenes.
        checkpoint: the model's file.

    Raises:
        OutputError: it is no valid item, or cannot be written.
    """
    import pystac

    outline, bbox = footprint(grid)
    item = pystac.Item(
        id=files["mask"].stem,
        geometry=outline,
        bbox=bbox,
        datetime=moment,
        properties={**_projection(grid), **_model(meta)},
        stac_extensions=list(_SCHEMAS.values()),
    )
    for scene in derived_from:
        item.add_link(pystac.Link(pystac.RelType.DERIVED_FROM, scene))
    folder = files["mask"].parent
    for role, file in files.items():
        if file == files.get("stac"):
            continue
        href = f"./{file.name}" if file.parent == folder else str(file)
        item.add_asset(role, _asset(role, file, href, meta, layers.get(role)))
    item.add_asset(
        "model",
        pystac.Asset(
            str(checkpoint),
            title=meta.architecture,
            media_type="application/octet-stream",
            roles=["mlm:model", "mlm:weights"],
        ),
    )
    item.set_self_href(None)
    try:
        text = json.dumps(item.to_dict(include_self_link=False), indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def moment_of(scene: str) -> dt.datetime:
    """When a scene was taken: what its tags say, else when its file was last changed (UTC)."""
    from rsmamba_cli.raster.opening import open_dataset

    with open_dataset(scene) as dataset:
        text = dataset.tags().get("TIFFTAG_DATETIME", "")
        names = dataset.files
    try:
        return dt.datetime.strptime(text, "%Y:%m:%d %H:%M:%S").replace(tzinfo=dt.UTC)
    except ValueError:
        local = [Path(name) for name in names if Path(name).exists()]
        seconds = local[0].stat().st_mtime if local else 0.0
        return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _asset(role: str, file: Path, href: str, meta: CheckpointMeta, layer: Layer | None) -> Any:
    import pystac

    fields: dict[str, Any] = {}
    if layer is not None:
        band: dict[str, Any] = {"data_type": layer.dtype, "nodata": layer.fill}
        if role == "mask":
            band["classification:classes"] = classes_of(meta)
            names = ["class"]
        else:
            band["raster:scale"] = SCALE
            names = (
                [c.name for c in meta.classes][-layer.count :]
                if role == "probabilities"
                else ["uncertainty"]
            )
        fields["bands"] = [{"name": name, **band} for name in names]
    return pystac.Asset(
        href,
        title=role,
        media_type=_MEDIA.get(file.suffix.lower()),
        roles=["data"] if layer is not None or role == "polygons" else ["metadata"],
        extra_fields=fields,
    )


def classes_of(meta: CheckpointMeta) -> list[dict[str, Any]]:
    """The classes of a checkpoint as STAC's classification extension writes them."""
    return [
        {
            "value": c.value,
            "name": "".join(x if x.isalnum() or x in "-_" else "-" for x in c.name) or str(c.value),
            "title": c.name,
            "description": c.name,
            "color_hint": "{:02X}{:02X}{:02X}".format(*c.color),
        }
        for c in meta.classes
    ]


def _projection(grid: Grid) -> dict[str, Any]:
    fields: dict[str, Any] = {"proj:shape": list(grid.shape)}
    crs = grid.world_crs
    if crs is not None:
        authority = crs.to_authority()
        fields["proj:code"] = None if authority is None else ":".join(authority)
        if authority is None:
            fields["proj:wkt2"] = crs.to_wkt(version="WKT2_2019")
    if grid.transform is not None:
        fields["proj:transform"] = list(grid.transform[:6])
    if (gsd := grid.gsd_m()) is not None:
        fields["gsd"] = gsd
    return fields


def _model(meta: CheckpointMeta) -> dict[str, Any]:
    channels = [len(spec.bands) for spec in meta.inputs]
    bands = dict.fromkeys(band for spec in meta.inputs for band in spec.bands)
    return {
        # The bands that the inputs name have to be described somewhere.
        "bands": [{"name": band} for band in bands],
        "mlm:name": meta.architecture,
        "mlm:architecture": meta.architecture,
        "mlm:framework": "PyTorch",
        "mlm:tasks": [_TASKS[meta.task]],
        "mlm:input": [
            {
                "name": spec.name,
                "bands": list(spec.bands),
                "input": {
                    "shape": [-1, bands, meta.tile, meta.tile],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
            }
            for spec, bands in zip(meta.inputs, channels, strict=True)
        ],
        "mlm:output": [
            {
                "name": "classes",
                "tasks": [_TASKS[meta.task]],
                "result": {
                    "shape": [-1, meta.logits, meta.tile, meta.tile],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": classes_of(meta),
            }
        ],
        "rsmamba:checkpoint_sha256": meta.sha256,
    }
