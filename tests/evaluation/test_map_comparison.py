"""Two maps against one truth."""

import json
import math
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from miniatures import write_image
from rasterio.transform import from_origin
from typer.testing import CliRunner

from rsmamba_cli.app import app
from rsmamba_cli.errors import InputError
from rsmamba_cli.evaluation import compare_maps, evaluate_map, map_counts
from rsmamba_cli.evaluation.bootstrap import mcnemar

CRS = "EPSG:32633"
X, Y = 500000.0, 5000000.0


def raster(path: Path, array: np.ndarray, pixel: float = 1.0, **profile) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"crs": CRS, "transform": from_origin(X, Y, pixel, pixel)}
    return write_image(path, array.astype(np.uint8), **place, **profile)


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A truth of three classes, a map that is wrong in a tenth of it, one in a third."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (24, 32))
    maps = [np.where(rng.random(truth.shape) < p, (truth + 1) % 3, truth) for p in (0.1, 0.33)]
    return (*maps, truth)


@pytest.fixture
def files(tmp_path: Path, arrays) -> tuple[Path, Path, Path]:
    names = ("good.tif", "bad.tif", "truth.tif")
    return tuple(raster(tmp_path / n, a) for n, a in zip(names, arrays, strict=True))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_counts, "BLOCK", 8)


def test_both_have_the_figures_that_they_have_alone(files) -> None:
    good, bad, truth = files
    found = compare_maps(good, bad, truth, rounds=0)
    for path, which in ((good, "first"), (bad, "second")):
        alone = evaluate_map(path, truth, rounds=0).metrics
        assert {n: getattr(d, which) for n, d in found.differences.items()} == pytest.approx(alone)


def test_what_only_one_has_right_is_counted_and_tested(files, arrays) -> None:
    good, bad, truth = arrays
    found = compare_maps(*files)
    a, b = ((m == truth) for m in (good, bad))
    assert found.pixels_only == ((a & ~b).sum(), (b & ~a).sum())
    assert found.pixels_p == mcnemar(*found.pixels_only)
    assert found.units == 12
    oa = found.differences["oa"]
    assert oa.low < oa.second - oa.first < oa.high < 0 and oa.p < 0.01


def test_a_map_does_not_differ_from_itself(files) -> None:
    found = compare_maps(files[0], files[0], files[2])
    assert found.pixels_only == (0, 0) and found.pixels_p == 1
    assert all(d.low == d.high == 0 and d.p == 1 for d in found.differences.values())


def test_a_second_map_on_another_grid_is_warped(tmp_path: Path, files, arrays) -> None:
    fine = raster(tmp_path / "fine.tif", np.kron(arrays[1], np.ones((2, 2))), pixel=0.5)
    found = compare_maps(files[0], fine, files[2], rounds=0)
    plain = compare_maps(*files, rounds=0)
    assert found.differences == plain.differences
    assert any("second map was warped to the first map's grid" in note for note in found.notes)


def test_pixels_that_one_map_lacks_count_for_neither(tmp_path: Path, files, arrays) -> None:
    holes = arrays[1].copy()
    holes[:, 20:] = 200
    second = raster(tmp_path / "holes.tif", holes, nodata=200)
    found = compare_maps(files[0], second, files[2], rounds=0)
    left = raster(tmp_path / "left.tif", arrays[0][:, :20])
    alone = evaluate_map(left, files[2], rounds=0).metrics
    assert found.differences["oa"].first == alone["oa"]
    assert any(f"{24 * 12} pixels left out" in note for note in found.notes)


def test_masks_of_either_coding_are_the_same(tmp_path: Path, arrays) -> None:
    masks = [a > 0 for a in arrays]
    coded = [m * f for m, f in zip(masks, (1, 255, 255), strict=True)]
    paths = [raster(tmp_path / f"{i}.tif", array) for i, array in enumerate(coded)]
    found = compare_maps(*paths, rounds=0)
    assert found.differences["oa"].second == (masks[1] == masks[2]).mean()


def test_points(tmp_path: Path, files, arrays) -> None:
    rows, cols = np.mgrid[0:24:5, 0:32:5].reshape(2, -1)
    places = zip(rows, cols, strict=True)
    table = ["x,y,class"]
    table += [f"{X + c + 0.5},{Y - r - 0.5},{arrays[2][r, c]}" for r, c in places]
    (tmp_path / "p.csv").write_text("\n".join(table))
    found = compare_maps(files[0], files[1], tmp_path / "p.csv")
    assert found.units == len(rows)
    for which, array in (("first", arrays[0]), ("second", arrays[1])):
        expected = (array == arrays[2])[rows, cols].mean()
        assert getattr(found.differences["oa"], which) == pytest.approx(expected)


def test_folders_and_scenes(tmp_path: Path, arrays) -> None:
    for name in ("a_1", "a_2", "b_1"):
        for folder, array in zip(("good", "bad", "truth"), arrays, strict=True):
            raster(tmp_path / folder / f"{name}.tif", array)
    folders = [tmp_path / n for n in ("good", "bad", "truth")]
    assert compare_maps(*folders).units == 36
    assert compare_maps(*folders, scenes="^(.)_").units == 2
    assert evaluate_map(folders[0], folders[2], scenes="^(.)_").units == 2
    with pytest.raises(InputError, match="finds nothing in the tile name"):
        compare_maps(*folders, scenes="z")
    (tmp_path / "bad/b_1.tif").unlink()
    with pytest.raises(InputError, match="bad holds no second map for 1 of the maps: b_1"):
        compare_maps(*folders)
    with pytest.raises(InputError, match="is a folder of maps"):
        compare_maps(folders[0], tmp_path / "bad/a_1.tif", folders[2])


def test_objects_that_only_one_found(tmp_path: Path) -> None:
    truth = np.zeros((24, 32))
    truth[2:8, 2:8] = truth[12:18, 2:8] = truth[2:8, 20:26] = 1
    one, two = truth.copy(), truth.copy()
    one[12:18] = 0
    two[2:8] = 0
    paths = [raster(tmp_path / f"{i}.tif", a) for i, a in enumerate((one, two, truth))]
    found = compare_maps(*paths, objects=True)
    assert found.objects_only == (2, 1) and found.objects_p == mcnemar(2, 1)
    recall = found.differences["object_recall"]
    assert (recall.first, recall.second) == pytest.approx((2 / 3, 1 / 3))
    assert math.isnan(recall.p)


def test_from_the_command_line(tmp_path: Path, arrays) -> None:
    masks = [a > 0 for a in arrays]
    good, bad = (raster(tmp_path / f"{i}.tif", m) for i, m in enumerate(masks[:2]))
    truth = tmp_path / "truth.gpkg"
    places = np.argwhere(masks[2]).tolist()
    boxes = [shapely.box(X + c, Y - r - 1, X + c + 1, Y - r) for r, c in places]
    wkb = shapely.to_wkb(np.array(boxes))
    pyogrio.raw.write(truth, wkb, [], [], geometry_type="Polygon", crs=CRS)
    words = ["eval", "--prediction", good, "--against", bad, "--truth", truth]
    files = ["--csv", tmp_path / "f.csv", "--report", tmp_path / "r.html"]
    shown = CliRunner().invoke(app, [*map(str, words + files)])
    assert shown.exit_code == 0 and "McNemar" in shown.stdout, shown.output
    page = (tmp_path / "r.html").read_text()
    assert "McNemar" in page and "kappa" in page and "http" not in page
    assert (tmp_path / "f.csv").read_text().startswith("metric,first,second,low,high,p\n")
    found = json.loads(CliRunner().invoke(app, [*map(str, words), "--json"]).stdout)
    assert found["pixels_only"] == list(compare_maps(good, bad, truth).pixels_only)
    refused = CliRunner().invoke(app, [*map(str, words), "--fail-under", "f1=0.5"])
    assert refused.exit_code == 2
    refused = CliRunner().invoke(app, [*map(str, words[:3]), *map(str, words[5:]), "--calibrate"])
    assert refused.exit_code == 2
