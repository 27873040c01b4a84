"""Many sheets are one seamless scene: each gets the part of the map that the whole would have."""

import json
import time
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.windows import Window

from rsmamba_cli.errors import InputError, OutputError, ResumeError
from rsmamba_cli.inference import PredictOptions, merge, predict, predict_mosaic
from rsmamba_cli.raster.sheets import find_sheets

SIDE = 64


@pytest.fixture
def model(checkpoint_factory):
    return checkpoint_factory(tile=64, classes=3)


@pytest.fixture
def whole(scene_factory):
    """A scene, wholly valid but for what the mosaic's missing sheet will leave open."""
    return scene_factory("whole.tif", height=3 * SIDE, width=4 * SIDE, nodata=0, seed=3)


@pytest.fixture
def sheets(whole, tmp_path):
    """The scene in sheets of 64 x 64 pixels; one is missing, and is blank in the scene."""
    folder = tmp_path / "sheets"
    folder.mkdir()
    with rasterio.open(whole, "r+") as source:
        source.write(np.zeros((3, SIDE, SIDE), np.uint8), window=Window(SIDE, SIDE, SIDE, SIDE))
    for i in range(3):
        for j in range(4):
            if (i, j) != (1, 1):
                cut(whole, folder / f"s{i}{j}.tif", i * SIDE, j * SIDE)
    return folder


def cut(scene, path, row, col, height=SIDE, width=SIDE, add=0):
    window = Window(col, row, width, height)
    with rasterio.open(scene) as source:
        profile = source.profile | {
            "height": height,
            "width": width,
            "transform": source.window_transform(window),
        }
        with rasterio.open(path, "w", **profile) as sheet:
            sheet.write(source.read(window=window) + np.uint8(add))


def mapped(sheets, out, model, **options):
    out.mkdir(exist_ok=True)
    settings = PredictOptions(model=model, threads=1, **options)
    return predict_mosaic([sheets], out, settings)


def mask_of(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1), dataset.transform


def bytes_of(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.tif"))}


def test_each_sheet_is_its_part_of_the_whole_map(whole, sheets, model, tmp_path):
    predict(whole, tmp_path / "whole_mask.tif", PredictOptions(model=model, threads=1))
    expected, _ = mask_of(tmp_path / "whole_mask.tif")
    mapped(sheets, tmp_path / "out", model)
    found = sorted((tmp_path / "out").glob("*_mask.tif"))
    assert len(found) == 11
    for path in found:
        i, j = int(path.stem[1]), int(path.stem[2])
        values, transform = mask_of(path)
        with rasterio.open(sheets / f"s{i}{j}.tif") as sheet:
            assert transform == sheet.transform
        part = expected[i * SIDE : (i + 1) * SIDE, j * SIDE : (j + 1) * SIDE]
        np.testing.assert_array_equal(values, part)


@pytest.mark.parametrize("how", [{"workers": 2}, {"shard": 3}])
def test_the_masks_do_not_depend_on_who_computes(sheets, model, tmp_path, how):
    mapped(sheets, tmp_path / "a", model)
    if "shard" in how:
        for i in range(1, 4):
            mapped(sheets, tmp_path / "b", model, shard=(i, 3))
        merge(tmp_path / "b" / "rsmamba-mosaic")
    else:
        mapped(sheets, tmp_path / "b", model, **how)
    assert bytes_of(tmp_path / "b") == bytes_of(tmp_path / "a")


def test_polygons_cross_the_borders_of_sheets(sheets, model, tmp_path):
    mapped(sheets, tmp_path / "out", model, polygons=tmp_path / "p.gpkg")
    _, _, geometry, (values, _, _) = pyogrio.raw.read(tmp_path / "p.gpkg")
    area = shapely.area(shapely.from_wkb(geometry)).sum()
    masks = [mask_of(p)[0] for p in (tmp_path / "out").glob("*_mask.tif")]
    assert area == pytest.approx(sum(((m == 1) | (m == 2)).sum() for m in masks) * 0.25)
    assert len(values)


def replace_sheet(whole, path, add):
    time.sleep(0.01)
    i, j = int(path.stem[1]), int(path.stem[2])
    cut(whole, path, i * SIDE, j * SIDE, add=add)


def test_an_update_makes_what_a_fresh_run_makes(whole, sheets, model, tmp_path):
    mapped(sheets, tmp_path / "out", model, tile=32, overlap=0.25)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    replace_sheet(whole, sheets / "s03.tif", add=60)
    result = mapped(sheets, tmp_path / "out", model, tile=32, overlap=0.25, update=True)
    mapped(sheets, tmp_path / "fresh", model, tile=32, overlap=0.25)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "fresh")
    assert 0 < result.windows_computed < result.windows / 2
    far = "s20_mask.tif"
    assert (tmp_path / "out" / far).stat().st_mtime_ns == before[far]


def test_a_new_sheet_is_an_update_too(whole, sheets, model, tmp_path):
    mapped(sheets, tmp_path / "out", model)
    cut(whole, sheets / "s11.tif", SIDE, SIDE, add=90)
    mapped(sheets, tmp_path / "out", model, update=True)
    mapped(sheets, tmp_path / "fresh", model)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "fresh")
    assert (tmp_path / "out" / "s11_mask.tif").exists()


def test_an_update_without_changes_computes_nothing(sheets, model, tmp_path):
    mapped(sheets, tmp_path / "out", model)
    assert mapped(sheets, tmp_path / "out", model, update=True).windows_computed == 0


def test_an_update_with_other_options_is_refused(sheets, model, tmp_path):
    mapped(sheets, tmp_path / "out", model)
    with pytest.raises(ResumeError, match="--overwrite"):
        mapped(sheets, tmp_path / "out", model, update=True, blend="average")


def test_a_finished_mosaic_is_resumed_at_once(sheets, model, tmp_path):
    mapped(sheets, tmp_path / "out", model)
    assert mapped(sheets, tmp_path / "out", model, resume=True).skipped


def test_existing_masks_are_not_overwritten(sheets, model, tmp_path):
    mapped(sheets, tmp_path / "out", model)
    with pytest.raises(OutputError, match="--update"):
        mapped(sheets, tmp_path / "out", model)


def test_where_sheets_overlap_the_first_valid_pixel_counts(whole, sheets, model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    cut(whole, other / "a.tif", 0, 0, 100, 100)
    cut(whole, other / "b.tif", 40, 20, 100, 120, add=70)
    options = PredictOptions(model=model, threads=1)
    for name, order in (("ab", ("a", "b")), ("ba", ("b", "a"))):
        (tmp_path / name).mkdir()
        predict_mosaic([other / f"{x}.tif" for x in order], tmp_path / name, options)
    first, _ = mask_of(tmp_path / "ab" / "a_mask.tif")
    again, _ = mask_of(tmp_path / "ab" / "b_mask.tif")
    np.testing.assert_array_equal(first[40:, 20:], again[:60, :80])


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"gsd": 0.6}, "lattice"),
        ({"origin": (500_000.2, 5_700_000.0)}, "lattice"),
        ({"crs": "EPSG:32632"}, "lattice"),
        ({"bands": 2}, "2 bands"),
        ({"dtype": "uint16"}, "uint16"),
    ],
)
def test_sheets_that_do_not_fit_are_refused_by_name(
    scene_factory, sheets, model, tmp_path, profile, words
):
    odd = scene_factory("odd.tif", height=SIDE, width=SIDE, **profile)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=words) as caught:
        predict_mosaic([sheets, odd], tmp_path / "out", PredictOptions(model=model))
    assert "odd.tif" in str(caught.value)


def test_equal_stems_are_refused(sheets, model, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "s00.tif").write_bytes((sheets / "s00.tif").read_bytes())
    with pytest.raises(InputError, match="different stems"):
        predict_mosaic([sheets, tmp_path / "x"], tmp_path, PredictOptions(model=model))


# what stands for sheets


def test_folders_patterns_and_files_stand_for_sheets(sheets):
    everything = [str(p) for p in sorted(sheets.glob("*.tif"))]
    assert find_sheets([str(sheets)]) == everything
    assert find_sheets([str(sheets / "s0*.tif")]) == everything[:4]
    assert find_sheets([everything[3], everything[0], everything[3]]) == [
        everything[3],
        everything[0],
    ]


def test_an_index_file_stands_for_sheets(sheets, tmp_path):
    names = [f"sheets/{p.name}" for p in sorted(sheets.glob("*.tif"))]
    boxes = shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)] * len(names)))
    pyogrio.raw.write(
        tmp_path / "index.gpkg", boxes, [np.array(names, dtype=object)], ["location"],
        geometry_type="Polygon", crs="EPSG:32631",
    )  # fmt: skip
    assert [Path(p).name for p in find_sheets([str(tmp_path / "index.gpkg")])] == [
        Path(n).name for n in names
    ]


def test_stac_items_stand_for_their_data(sheets, tmp_path):
    items = [
        {
            "type": "Feature",
            "stac_version": "1.1.0",
            "id": p.stem,
            "assets": {
                "thumbnail": {"href": "t.png", "roles": ["thumbnail"]},
                "image": {"href": f"./sheets/{p.name}", "type": "image/tiff", "roles": ["data"]},
            },
        }
        for p in sorted(sheets.glob("*.tif"))
    ]
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    assert [Path(p).name for p in find_sheets([str(path)])] == sorted(
        p.name for p in sheets.glob("*.tif")
    )


def test_a_vrt_stands_for_its_sources(sheets, tmp_path):
    vrt = tmp_path / "m.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1">'
        '<SimpleSource><SourceFilename relativeToVRT="1">sheets/s00.tif</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    assert [Path(p).name for p in find_sheets([str(vrt)])] == ["s00.tif"]


def test_nothing_is_no_mosaic(tmp_path):
    with pytest.raises(InputError, match="no sheets"):
        find_sheets([str(tmp_path)])


# updating one scene


def test_one_scene_is_updated_where_it_changed(whole, model, tmp_path):
    options = {"model": model, "threads": 1, "tile": 32, "updatable": True}
    output = tmp_path / "m.tif"
    predict(whole, output, PredictOptions(**options, probabilities=tmp_path / "p.tif"))
    with rasterio.open(whole, "r+") as scene:
        scene.write(np.full((3, 10, 12), 17, np.uint8), window=Window(50, 60, 12, 10))
    result = predict(
        whole, output, PredictOptions(**options, probabilities=tmp_path / "p.tif", update=True)
    )
    fresh = tmp_path / "fresh.tif"
    predict(whole, fresh, PredictOptions(**options, probabilities=tmp_path / "fresh_p.tif"))
    assert output.read_bytes() == fresh.read_bytes()
    assert (tmp_path / "p.tif").read_bytes() == (tmp_path / "fresh_p.tif").read_bytes()
    assert 0 < result.windows_computed < result.windows / 2


def test_a_map_without_its_cells_cannot_be_updated(whole, model, tmp_path):
    predict(whole, tmp_path / "m.tif", PredictOptions(model=model, threads=1))
    with pytest.raises(ResumeError, match="--updatable"):
        predict(
            whole,
            tmp_path / "m.tif",
            PredictOptions(model=model, threads=1, update=True, updatable=True),
        )
