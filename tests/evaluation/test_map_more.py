"""Maps against points, in folders, by objects; intervals from blocks."""

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin
from rasterio.warp import transform

from rsmamba_cli.errors import InputError
from rsmamba_cli.evaluation import evaluate_map, map_counts

CRS = "EPSG:32633"
X, Y = 500000.0, 5000000.0


def raster(path: Path, array: np.ndarray, **tags: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = array.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=1,
        dtype="uint8",
        crs=CRS,
        transform=from_origin(X, Y, 2, 2),
    ) as sink:
        sink.write(array.astype(np.uint8), 1)
        sink.update_tags(1, **tags)
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """20 x 20 pixels of 2 m; class 2 from column 10 on, class 1 before."""
    array = np.ones((20, 20))
    array[:, 10:] = 2
    return raster(tmp_path / "map.tif", array, class_1="field", class_2="wood")


POINTS = [(1, 1, 1), (19.9, 39.9, 1), (20.1, 5, 2), (30, 30, 1), (90, 5, 1)]
"""Metres right of and below the corner, and the true class: three right, one wrong, one outside."""


def table(path: Path, names: tuple[str, str, str], rows: list[tuple[object, ...]]) -> Path:
    path.write_text("\n".join([",".join(names), *(",".join(map(str, r)) for r in rows)]) + "\n")
    return path


@pytest.mark.parametrize("kind", ["map.csv", "world.csv", "names.csv", "world.gpkg"])
def test_points(kind: str, scene: Path, tmp_path: Path) -> None:
    xs, ys = zip(*[(X + x, Y - y) for x, y, _ in POINTS], strict=True)
    classes = [c for _, _, c in POINTS]
    if kind == "map.csv":
        path = table(tmp_path / kind, ("x", "Y", "class"), list(zip(xs, ys, classes, strict=True)))
    else:
        lon, lat = transform(CRS, "EPSG:4326", xs, ys)
        if kind == "world.gpkg":
            path = tmp_path / kind
            pyogrio.raw.write(
                path,
                shapely.to_wkb(shapely.points(lon, lat)),
                [np.array(classes)],
                ["class"],
                geometry_type="Point",
                crs="EPSG:4326",
            )
        else:
            named = ["", "field", "wood"]
            texts = [named[c] if kind == "names.csv" else c for c in classes]
            rows = list(zip(lon, lat, texts, strict=True))
            path = table(tmp_path / kind, ("lon", "lat", "class"), rows)
    result = evaluate_map(scene, path)
    assert result.class_names == ("field", "wood")
    assert result.confusion.tolist() == [[2, 1], [0, 1]]
    assert any("1 points" in note and "beside" in note for note in result.notes)
    assert result.units == 4 and result.intervals["oa"][1] == 1


def test_tables_without_places_or_with_unknown_classes_are_refused(
    scene: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="needs columns x and y"):
        evaluate_map(scene, table(tmp_path / "a.csv", ("a", "y", "class"), [(1, 2, 3)]))
    with pytest.raises(InputError, match="'marsh' in 'class' is neither"):
        evaluate_map(scene, table(tmp_path / "b.csv", ("x", "y", "class"), [(X, Y, "marsh")]))
    with pytest.raises(InputError, match="no number"):
        evaluate_map(scene, table(tmp_path / "c.csv", ("x", "y", "class"), [("?", Y, 1)]))


def test_folders_are_compared_file_by_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = generator.integers(0, 2, (2, 3, 8, 8))
    for guess, truth, name in zip(*arrays, "abc", strict=True):
        raster(tmp_path / "p" / f"{name}.tif", guess)
        raster(tmp_path / "t" / f"{name}.tif", truth)
    result = evaluate_map(tmp_path / "p", tmp_path / "t")
    assert result.confusion.trace() == (arrays[0] == arrays[1]).sum()
    assert (result.tiles, result.units) == (3, 3)
    (tmp_path / "t/b.tif").unlink()
    with pytest.raises(InputError, match="no truth for 1 of the maps: b"):
        evaluate_map(tmp_path / "p", tmp_path / "t")


def test_blocks_are_the_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = np.random.default_rng(0).integers(0, 2, (2, 20, 20))
    pair = [raster(tmp_path / f"{i}.tif", a) for i, a in enumerate(arrays)]
    whole = evaluate_map(*pair)
    monkeypatch.setattr(map_counts, "BLOCK", 8)
    blocks = evaluate_map(*pair)
    assert (whole.units, whole.intervals, blocks.units) == (1, {}, 9)
    assert np.array_equal(whole.confusion, blocks.confusion)
    low, high = blocks.intervals["oa"]
    assert low < blocks.metrics["oa"] < high


@pytest.mark.parametrize("outlines", [False, True])
def test_objects(tmp_path: Path, outlines: bool) -> None:
    guess = np.zeros((20, 20))
    guess[2:6, 2:10] = guess[12:16, 2:6] = 1
    truth = np.zeros((20, 20))
    truth[2:6, 2:6] = truth[2:6, 6:10] = truth[12:16, 3:7] = 1
    boxes = [shapely.box(X + 2 * a, Y - 12, X + 2 * a + 8, Y - 4) for a in (2, 6)]
    boxes.append(shapely.box(X + 6, Y - 32, X + 14, Y - 24))
    if outlines:
        path = tmp_path / "t.gpkg"
        wkb = shapely.to_wkb(np.array(boxes))
        pyogrio.raw.write(path, wkb, [], [], geometry_type="Polygon", crs=CRS)
    else:
        path = raster(tmp_path / "t.tif", truth)
    found = evaluate_map(raster(tmp_path / "p.tif", guess), path, objects=True).metrics
    # Two outlines that touch are one region of a raster; one region covers half of both.
    assert found["object_recall"] == pytest.approx(2 / 3 if outlines else 1)
    assert found["object_precision"] == pytest.approx(1)


def test_objects_outside_the_area_do_not_count(tmp_path: Path) -> None:
    guess = np.zeros((20, 20))
    guess[2:6, 2:6] = guess[2:6, 12:16] = 1
    truth = np.zeros((20, 20))
    truth[2:6, 2:6] = 1
    area = tmp_path / "a.gpkg"
    left = shapely.to_wkb(np.array([shapely.box(X, Y - 40, X + 20, Y)]))
    pyogrio.raw.write(area, left, [], [], geometry_type="Polygon", crs=CRS)
    pair = raster(tmp_path / "p.tif", guess), raster(tmp_path / "t.tif", truth)
    assert evaluate_map(*pair, objects=True).metrics["object_precision"] == 0.5
    assert evaluate_map(*pair, area, objects=True).metrics["object_precision"] == 1


@pytest.mark.parametrize("outlines", [False, True])
def test_the_worst_blocks_are_painted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outlines: bool
) -> None:
    monkeypatch.setattr(map_counts, "BLOCK", 10)
    truth = np.zeros((20, 20))
    truth[12:16, 12:18] = 1
    guess = truth.copy()
    guess[:4, 10:15] = 1  # 20 pixels too much in the upper right block
    guess[12:14, 12:17] = 0  # 10 missed in the lower right one
    path = tmp_path / "t.gpkg"
    if outlines:
        box = shapely.to_wkb(np.array([shapely.box(X + 24, Y - 32, X + 36, Y - 24)]))
        pyogrio.raw.write(path, box, [], [], geometry_type="Polygon", crs=CRS)
    else:
        path = raster(tmp_path / "t.tif", truth)
    prediction = raster(tmp_path / "p.tif", guess)
    area = tmp_path / "a.gpkg"
    inside = shapely.to_wkb(np.array([shapely.box(X, Y - 40, X + 40, Y - 2)]))
    pyogrio.raw.write(area, inside, [], [], geometry_type="Polygon", crs=CRS)
    found = evaluate_map(prediction, path, area, pictures=2)
    assert [shown.stem for shown in found.worst] == ["p, row 0, column 10", "p, row 10, column 10"]
    assert [shown.wrong for shown in found.worst] == [15 / 90, 10 / 100]
    assert len(found.random) == 2
    first, second = (shown.picture for shown in found.worst)
    assert first.shape == (10, 3 * 10 + 2 * 4, 3)
    colors = {"right": 245, "missed": [0, 90, 200], "too much": [210, 50, 30], "left out": 128}
    errors = first[:, 28:]
    assert (errors[1:4, :5] == colors["too much"]).all() and (errors[0] == colors["left out"]).all()
    assert (errors[4:] == colors["right"]).all()
    assert (second[:, 28:][2:4, 2:7] == colors["missed"]).all()
    assert (second[2:6, 2:8] == 255).all() and (second[6:, :10] == 0).all()  # the truth
    # What was left out is counted once, whatever is painted.
    assert found.notes == evaluate_map(prediction, path, area).notes


def test_points_have_no_pictures(scene: Path, tmp_path: Path) -> None:
    points = table(tmp_path / "p.csv", ("x", "y", "class"), [(X + 1, Y - 1, 1), (X + 30, Y - 1, 2)])
    found = evaluate_map(scene, points, pictures=3)
    assert found.worst == found.random == ()
