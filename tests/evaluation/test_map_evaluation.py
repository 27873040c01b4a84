"""One map against another, on one grid or two, and what their values mean."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from miniatures import write_image
from rasterio.transform import from_origin
from rasterio.warp import transform as reproject

from rsmamba_cli.errors import InputError
from rsmamba_cli.evaluation import evaluate_map

CRS = "EPSG:32633"
ORIGIN = (500000.0, 5000000.0)


def raster(path: Path, array: np.ndarray, pixel: float = 1.0, **profile) -> Path:
    profile = {"crs": CRS, "transform": from_origin(*ORIGIN, pixel, pixel), **profile}
    return write_image(path, array.astype(profile.pop("dtype", "uint8")), **profile)


@pytest.fixture
def squares() -> tuple[np.ndarray, np.ndarray]:
    """A truth of 20 x 10 pixels and a prediction shifted by two: TP 160, FP 40, FN 40."""
    truth = np.zeros((40, 50), np.uint8)
    truth[10:30, 20:30] = 1
    return truth, np.roll(truth, 2, axis=1)


def outline(path: Path, rings: list[list[tuple[float, float]]], crs: str = CRS, **fields) -> Path:
    """Write polygons given in pixels of the default grid."""
    features = []
    for i, ring in enumerate(rings):
        xs, ys = zip(*[(ORIGIN[0] + x, ORIGIN[1] - y) for x, y in ring], strict=True)
        if crs != CRS:
            xs, ys = reproject(CRS, crs, xs, ys)
        values = {name: column[i] for name, column in fields.items()}
        geometry = {"type": "Polygon", "coordinates": [list(zip(xs, ys, strict=True))]}
        features.append({"type": "Feature", "properties": values, "geometry": geometry})
    name = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{crs.split(':')[1]}"}}
    path.write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "crs": {"type": "name", "properties": name["properties"]},
                "features": features,
            }
        )
    )
    return path


def box(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]


def test_known_figures(tmp_path: Path, squares) -> None:
    truth, guess = squares
    result = evaluate_map(raster(tmp_path / "p.tif", guess), raster(tmp_path / "t.tif", truth))
    assert result.confusion.tolist() == [[2000 - 240, 40], [40, 160]]
    assert result.metrics["precision"] == pytest.approx(0.8)
    assert result.metrics["iou"] == pytest.approx(160 / 240)
    assert result.pixels == 2000


@pytest.mark.parametrize(("ours", "theirs"), [(1, 255), (255, 1), (255, 255)])
def test_masks_coded_0_255_are_understood_and_said_so(
    tmp_path: Path, squares, ours: int, theirs: int
) -> None:
    truth, guess = squares
    result = evaluate_map(
        raster(tmp_path / "p.tif", guess * ours), raster(tmp_path / "t.tif", truth * theirs)
    )
    assert result.metrics["f1"] == pytest.approx(0.8)
    assert any("255 is the positive class" in note for note in result.notes)


def test_what_a_file_declares_as_no_data_is_left_out_and_said_so(tmp_path: Path, squares) -> None:
    truth, guess = squares
    guess = guess.copy()
    guess[:, :22] = 255
    result = evaluate_map(
        raster(tmp_path / "p.tif", guess, nodata=255), raster(tmp_path / "t.tif", truth)
    )
    assert result.pixels == 40 * 28
    assert any("255 is declared as no data, 880 pixels left out" in n for n in result.notes)


def test_a_mask_whose_only_positive_value_is_declared_no_data_is_pointed_out(
    tmp_path: Path, squares
) -> None:
    truth, guess = squares
    result = evaluate_map(
        raster(tmp_path / "p.tif", guess), raster(tmp_path / "t.tif", truth * 255, nodata=255)
    )
    assert any("remove the declaration" in note for note in result.notes)


def test_0_1_and_255_is_ambiguous_until_the_user_decides(tmp_path: Path, squares) -> None:
    truth, guess = squares
    truth = truth.copy()
    truth[0] = 255
    paths = raster(tmp_path / "p.tif", guess), raster(tmp_path / "t.tif", truth)
    with pytest.raises(InputError, match="0, 1 and 255"):
        evaluate_map(*paths)
    result = evaluate_map(*paths, ignore=(255,))
    assert result.pixels == 39 * 50
    assert any("50 pixels with an ignored value" in note for note in result.notes)


def test_one_class_against_all_others(tmp_path: Path, squares) -> None:
    truth, guess = squares
    result = evaluate_map(
        raster(tmp_path / "p.tif", guess + 3), raster(tmp_path / "t.tif", truth + 3), positive=4
    )
    assert result.metrics["f1"] == pytest.approx(0.8)


def test_many_classes_with_names_from_the_map(tmp_path: Path) -> None:
    truth = np.repeat(np.arange(4, dtype=np.uint8)[None], 8, axis=0)
    path = raster(tmp_path / "p.tif", truth)
    with rasterio.open(path, "r+") as sink:
        sink.update_tags(1, CLASS_2="water")
    result = evaluate_map(path, raster(tmp_path / "t.tif", truth))
    assert result.class_names == ("class 0", "class 1", "water", "class 3")
    assert result.metrics["miou"] == 1


def test_a_truth_on_another_grid_is_warped_by_nearest_neighbour(tmp_path: Path, squares) -> None:
    truth, guess = squares
    fine = np.repeat(np.repeat(truth, 2, 0), 2, 1)
    result = evaluate_map(
        raster(tmp_path / "p.tif", guess), raster(tmp_path / "t.tif", fine, pixel=0.5)
    )
    assert result.confusion.tolist() == [[1760, 40], [40, 160]]
    assert any("warped" in note for note in result.notes)


def test_what_the_truth_does_not_cover_does_not_count(tmp_path: Path, squares) -> None:
    truth, guess = squares
    result = evaluate_map(
        raster(tmp_path / "p.tif", guess), raster(tmp_path / "t.tif", truth[:, :25])
    )
    assert result.pixels == 40 * 25


def test_maps_that_do_not_overlap_are_refused(tmp_path: Path, squares) -> None:
    truth, guess = squares
    far = from_origin(600000, 5000000, 1, 1)
    with pytest.raises(InputError, match="no pixel in common"):
        evaluate_map(
            raster(tmp_path / "p.tif", guess), raster(tmp_path / "t.tif", truth, transform=far)
        )


@pytest.mark.parametrize("crs", [CRS, "EPSG:4326"])
def test_outlines_are_rasterised_in_any_crs(tmp_path: Path, squares, crs: str) -> None:
    _, guess = squares
    truth = outline(tmp_path / "t.geojson", [box(20, 10, 30, 30)], crs)
    result = evaluate_map(raster(tmp_path / "p.tif", guess), truth)
    assert result.confusion.tolist() == [[1760, 40], [40, 160]]


def test_outlines_with_an_attribute_are_classes(tmp_path: Path) -> None:
    guess = np.zeros((40, 50))
    guess[:10, :10], guess[20:30, :10] = 1, 2
    truth = outline(tmp_path / "t.geojson", [box(0, 0, 10, 10), box(0, 20, 10, 30)], kind=[1, 2])
    result = evaluate_map(raster(tmp_path / "p.tif", guess), truth, attribute="kind")
    assert result.metrics["miou"] == 1


def test_an_area_limits_what_counts(tmp_path: Path, squares) -> None:
    truth, guess = squares
    area = outline(tmp_path / "a.geojson", [box(22, 0, 30, 40)])
    result = evaluate_map(
        raster(tmp_path / "p.tif", guess), raster(tmp_path / "t.tif", truth), aoi=area
    )
    assert result.pixels == 8 * 40
    assert result.metrics["f1"] == 1


def test_rows_are_read_in_bands_without_a_difference(
    tmp_path: Path, squares, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, guess = squares
    prediction = raster(tmp_path / "p.tif", guess)
    outlines = outline(tmp_path / "t.geojson", [box(20, 10, 30, 30)])
    whole = evaluate_map(prediction, outlines)
    monkeypatch.setattr("rsmamba_cli.evaluation.map_counts.BLOCK", 7)
    assert np.array_equal(evaluate_map(prediction, outlines).confusion, whole.confusion)


def test_plain_images_of_one_size_are_compared_by_pixel(tmp_path: Path, squares) -> None:
    truth, guess = squares
    paths = write_image(tmp_path / "p.png", guess), write_image(tmp_path / "t.png", truth * 255)
    assert evaluate_map(*paths).metrics["f1"] == pytest.approx(0.8)
    with pytest.raises(InputError, match="neither has a georeference"):
        evaluate_map(paths[0], write_image(tmp_path / "u.png", truth[:20]))


def test_one_with_and_one_without_georeference_need_one_size(tmp_path: Path, squares) -> None:
    truth, guess = squares
    plain = write_image(tmp_path / "t.png", truth)
    result = evaluate_map(raster(tmp_path / "p.tif", guess), plain)
    assert any("only one" in note for note in result.notes)
    with pytest.raises(InputError, match="their sizes differ"):
        evaluate_map(raster(tmp_path / "p.tif", guess), write_image(tmp_path / "u.png", truth[:9]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "missing.tif", "does not exist"),
        (lambda p: raster(p / "x.tif", np.full((40, 50), 0.5), dtype="float32"), "fractions"),
        (lambda p: raster(p / "x.tif", np.zeros((3, 40, 50))), "3 bands; a class raster has one"),
        (lambda p: (p / "x.txt").write_text("x") and p / "x.txt", "neither as a raster nor"),
    ],
)
def test_what_is_no_truth_is_refused(tmp_path: Path, squares, make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_map(raster(tmp_path / "p.tif", squares[1]), make(tmp_path))


def test_nothing_found_and_nothing_there_is_undefined(tmp_path: Path) -> None:
    nothing = np.zeros((8, 8))
    result = evaluate_map(raster(tmp_path / "p.tif", nothing), raster(tmp_path / "t.tif", nothing))
    assert result.to_json()["metrics"]["f1"] is None
    assert any("undefined" in note for note in result.notes)
