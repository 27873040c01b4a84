"""What can be asked for, what is refused, and what is warned about."""

import numpy as np
import pytest
from inference_models import Constant, Pixelwise, meta_of

from rsmamba_cli.errors import CheckpointError, InputError
from rsmamba_cli.events import Warned
from rsmamba_cli.inference import PredictOptions, plan_summary, predict
from rsmamba_cli.inference.normalise import normalise
from rsmamba_models import Transform


@pytest.mark.parametrize(
    "options",
    [
        {"tile": 0},
        {"tile": "half"},
        {"overlap": 1.0},
        {"overlap": -0.1},
        {"trim": -1},
        {"blend": "gauss"},
        {"batch_size": 0},
        {"batch_size": "many"},
        {"threads": 0},
        {"precision": "fp8"},
        {"tta": "d5"},
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"nodata_rule": "some"},
        {"grid": "t3"},
        {"min_area": 5.0},
        {"simplify": -1.0, "polygons": "p.gpkg"},
        {"memory": "much"},
        {"memory": "1MiB"},
        {"overlap": float("nan")},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError):
        PredictOptions(**options)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 << 30),
        ("4 GB", 4 << 30),
        ("800m", 800 << 20),
        ("1.5G", 3 << 29),
        (1 << 30, 1 << 30),
    ],
)
def test_memory_is_a_size(text, size):
    assert PredictOptions(memory=text).memory_bytes() == size


def warnings_of(path, tmp_path, **options):
    events = []
    predict(path, tmp_path / "m.tif", PredictOptions(overwrite=True, **options), events.append)
    return " ".join(e.message for e in events if isinstance(e, Warned))


@pytest.mark.parametrize(
    ("dtype", "top", "warns"),
    [
        ("uint8", 255, False),
        ("uint16", 10_000, True),
        ("uint16", 255, False),
        ("int16", 250, False),
        ("float32", 1.0, True),
        ("float32", 255.0, False),
    ],
)
def test_values_unlike_the_training_data_are_warned_about(
    scene_factory, tmp_path, use_model, dtype, top, warns
):
    use_model(Constant(1.0), meta_of(3, 2))
    values = (np.random.default_rng(0).random((3, 50, 50)) * top).astype(dtype)
    text = warnings_of(scene_factory(values=values), tmp_path)
    assert ("was trained on uint8" in text) == warns


@pytest.mark.parametrize(("gsd", "warns"), [(0.5, False), (0.59, False), (0.65, True), (0.2, True)])
def test_another_resolution_is_warned_about(scene_factory, tmp_path, use_model, gsd, warns):
    use_model(Constant(1.0), meta_of(3, 2, gsd=0.5))
    assert ("m a pixel" in warnings_of(scene_factory(gsd=gsd), tmp_path)) == warns


def test_bands_picked_by_name_are_mentioned(scene_factory, tmp_path, checkpoint_factory):
    path = scene_factory(bands=4, photometric="rgb", alpha="unspecified")
    text = warnings_of(path, tmp_path, model=checkpoint_factory(), tile=32)
    assert "bands 1 (red), 2 (green), 3 (blue) are used" in text


def test_trimming_more_than_a_window_is_refused(scene_factory, tmp_path, use_model):
    use_model(Constant(1.0), meta_of(3, 2))
    with pytest.raises(InputError, match="leaves nothing"):
        predict(scene_factory(), tmp_path / "m.tif", PredictOptions(tile=32, trim=16))


def test_a_minimal_area_needs_a_crs(scene_factory, tmp_path, use_model):
    use_model(Constant(1.0), meta_of(3, 2))
    options = PredictOptions(polygons=tmp_path / "p.gpkg", min_area=5)
    with pytest.raises(InputError, match="no CRS to measure with"):
        predict(scene_factory(crs=None), tmp_path / "m.tif", options)


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04 a zip of pickles"])
def test_checkpoints_that_are_none_are_refused(scene_factory, tmp_path, content):
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        predict(scene_factory(), tmp_path / "m.tif", PredictOptions(model=path))
    assert not (tmp_path / "m.tif.partial").exists()


def test_the_summary_foretells_the_run(scene_factory, tmp_path, use_model):
    use_model(Constant(1.0), meta_of(3, 2))
    path = scene_factory(height=100, width=130)
    options = PredictOptions(batch_size=4)
    summary = plan_summary(path, options)
    result = predict(path, tmp_path / "m.tif", options)
    assert summary["windows"] == result.windows
    assert summary["batches"] == -(-result.windows // 4)
    assert summary["window"] == [32, 32]
    assert summary["seconds"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.tif", "scene.tif"]


def test_the_summary_of_two_dates_names_their_overlap(scene_factory, use_model):
    use_model(Constant(1.0), meta_of(3, 2, task="change"))
    t2 = scene_factory("t2.tif", origin=(500_012, 5_700_000))
    summary = plan_summary(scene_factory("t1.tif"), t2=t2, measure=False)
    assert summary["overlap"] == pytest.approx(0.75)
    assert summary["seconds"] is None


@pytest.mark.parametrize("gsd", [0.5, 1.0])
def test_every_output_needs_disk(scene_factory, tmp_path, use_model, gsd):
    use_model(Constant(0.0, 1.0, 2.0), meta_of(3, 3, gsd=0.5))
    path = scene_factory(height=900, width=800, gsd=gsd)
    more = [
        {},
        {"polygons": tmp_path / "m.gpkg"},
        {"uncertainty": tmp_path / "u.tif"},
        {"probabilities": tmp_path / "p.tif"},
    ]
    found = [
        plan_summary(path, PredictOptions(**options), measure=False)["disk_bytes"]
        for options in more
    ]
    assert found == sorted(set(found))


@pytest.mark.parametrize("gsd", [0.5, 1.0])
def test_the_disk_foretold_is_enough_for_noise(scene_factory, tmp_path, use_model, gsd):
    use_model(Pixelwise(3, 3), meta_of(3, 3, gsd=0.5, transform=Transform.unit8(3)))
    path = scene_factory(height=400, width=300, gsd=gsd)
    options = PredictOptions(probabilities=tmp_path / "p.tif", tile=128)
    foretold = plan_summary(path, options, measure=False)["disk_bytes"]
    most = 0

    def look(event):
        nonlocal most
        files = (tmp_path / "m.tif.partial").rglob("*")
        most = max(most, sum(file.stat().st_size for file in files if file.is_file()))

    predict(path, tmp_path / "m.tif", options, look)
    assert 0.2 * foretold < most < 1.3 * foretold


def test_normalised_pixels_are_the_transform_s_and_invalid_ones_zero():
    transform = Transform(offset=(1.0,), scale=(0.5,), mean=(2.0,), std=(4.0,), db=True)
    values = np.array([[[3.0, 0.0], [np.nan, -5.0]]], dtype=np.float32)
    valid = np.array([[True, False], [False, False]])
    np.testing.assert_allclose(
        normalise(values, valid, transform), [[[(10 * np.log10(1.0) - 2) / 4, 0], [0, 0]]]
    )
