"""What lies beside a map: a STAC item that validates, a QGIS style, and a sieved mask."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pytest
import rasterio

from rsmamba_cli.errors import InputError, OutputError
from rsmamba_cli.inference import PredictOptions, predict
from rsmamba_cli.report import stac

pystac = pytest.importorskip("pystac")


@pytest.fixture
def made(scene_factory, checkpoint_factory, tmp_path):
    """Map a scene; returns the folder."""

    def make(classes=3, **options):
        profile = {k: options.pop(k) for k in ("crs",) if k in options}
        scene = scene_factory(height=90, width=120, **profile)
        model = checkpoint_factory(classes=classes, tile=64)
        settings = {"probabilities": tmp_path / "p.tif", **options}
        predict(scene, tmp_path / "m.tif", PredictOptions(model=model, threads=1, **settings))
        return tmp_path

    return make


def item_of(folder):
    return json.loads((folder / "m.json").read_text())


def test_the_item_is_valid_stac(made):
    content = item_of(made(stac=True))
    # The schemas of extensions are on the web; the core's come with the library.
    pystac.validation.validate_dict({**content, "stac_extensions": []})


def test_the_item_has_what_the_extensions_demand(made):
    """By hand: their schemas are on the web."""
    content = item_of(made(stac=True))
    properties, assets = content["properties"], content["assets"].values()
    # projection 2.0
    assert re.fullmatch(r"[A-Z]+:\d+", properties["proj:code"])
    assert len(properties["proj:shape"]) == 2
    assert len(properties["proj:transform"]) in (6, 9)
    # mlm 1.4: the model is an asset, and bands of inputs are described in the item
    wanted = {"mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"}
    assert wanted <= set(properties)
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", properties["mlm:name"])
    assert sum("mlm:model" in asset["roles"] for asset in assets) == 1
    named = {band["name"] for band in properties["bands"]}
    for given in properties["mlm:input"]:
        assert {"name", "bands", "input"} <= set(given)
        assert set(given["bands"]) <= named
    outputs = properties["mlm:output"]
    assert all({"name", "tasks", "result"} <= set(output) for output in outputs)
    for structure in [i["input"] for i in properties["mlm:input"]] + [o["result"] for o in outputs]:
        assert len(structure["shape"]) == len(structure["dim_order"]) == 4
        assert structure["data_type"] == "float32"
    # classification 2.0, and 1.1, which mlm refers to
    listed = [band.get("classification:classes", []) for a in assets for band in a.get("bands", ())]
    for entry in [
        c for classes in [*listed, outputs[0]["classification:classes"]] for c in classes
    ]:
        assert isinstance(entry["value"], int)
        assert entry["description"]
        assert re.fullmatch(r"[0-9A-Za-z\-_]+", entry["name"])
        assert re.fullmatch(r"[0-9A-Fa-f]{6}", entry["color_hint"])


def test_the_footprint_has_corners_only(made):
    (ring,) = item_of(made(stac=True))["geometry"]["coordinates"]
    assert 5 <= len(ring) <= 9


def test_the_item_says_where_the_map_is(made):
    content = item_of(made(stac=True))
    west, south, east, north = content["bbox"]
    assert 2.9 < west < east < 3.1
    assert 51.4 < south < north < 51.5
    properties = content["properties"]
    assert properties["proj:code"] == "EPSG:32631"
    assert properties["proj:shape"] == [90, 120]
    assert properties["proj:transform"] == [0.5, 0.0, 500_000.0, 0.0, -0.5, 5_700_000.0]
    item = pystac.Item.from_dict(content)
    assert item.ext.proj.epsg == 32631


def test_the_item_says_what_the_values_mean(made):
    assets = item_of(made(stac=True))["assets"]
    (band,) = assets["mask"]["bands"]
    assert (band["data_type"], band["nodata"]) == ("uint8", 255)
    assert [c["value"] for c in band["classification:classes"]] == [0, 1, 2]
    assert len(assets["probabilities"]["bands"]) == 3
    assert assets["mask"]["href"] == "./m.tif"


def test_the_item_names_model_and_scene(made):
    content = item_of(made(stac=True))
    assert content["properties"]["mlm:tasks"] == ["semantic-segmentation"]
    assert content["properties"]["mlm:input"][0]["input"]["shape"][1] == 3
    scenes = [link["href"] for link in content["links"] if link["rel"] == "derived_from"]
    assert [scene.rsplit("/", 1)[-1] for scene in scenes] == ["scene.tif"]


def test_a_map_without_a_crs_has_no_footprint(made):
    content = item_of(made(stac=True, crs=None))
    assert content["geometry"] is None
    assert "proj:code" not in content["properties"]
    pystac.validation.validate_dict({**content, "stac_extensions": []})


def test_without_pystac_it_says_what_to_install(made, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OutputError, match=r"rsmamba\[stac\]"):
        stac.check_stac()


def test_the_style_shows_every_class_in_its_colour(made):
    root = ElementTree.parse(made(style=True) / "m.qml").getroot()
    entries = [(e.get("value"), e.get("label"), e.get("color")) for e in root.iter("paletteEntry")]
    assert entries == [
        ("0", "class0", "#000000"),
        ("1", "class1", "#280000"),
        ("2", "class2", "#500000"),
    ]


def test_mask_and_polygons_are_sieved_alike(made, tmp_path):
    with rasterio.open(made(classes=2) / "p.tif") as dataset:
        middle = float(np.median(dataset.read(1))) * 0.004
    polygons = tmp_path / "p.gpkg"
    folder = made(
        classes=2, sieve=True, min_area=3.0, polygons=polygons, threshold=middle, overwrite=True
    )
    with rasterio.open(folder / "m.tif") as dataset:
        mask = dataset.read(1)
    _, _, _, (values, _, areas) = pyogrio.raw.read(folder / "p.gpkg")
    assert (areas >= 3.0).all()
    assert areas.sum() == pytest.approx((mask == 1).sum() * 0.25 / 0.9996**2, rel=1e-6)
    assert set(np.unique(mask)) == {0, 1}
    assert len(values)


def test_sieving_wants_an_area():
    with pytest.raises(InputError, match="--min-area"):
        PredictOptions(sieve=True)
