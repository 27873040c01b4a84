"""A scene of another pixel size than the model's: seen at the model's size, mapped at its own."""

import numpy as np
import pytest
import rasterio
from inference_models import Constant, Pixelwise, meta_of
from rasterio.windows import Window

from rsmamba_cli.errors import InputError
from rsmamba_cli.events import Warned
from rsmamba_cli.inference import PredictOptions, merge, plan_summary, predict, predict_mosaic


def mapped(scene, output, on_event=lambda event: None, **options):
    predict(scene, output, PredictOptions(threads=1, **options), on_event)
    with rasterio.open(output) as dataset:
        return dataset.read(1), dataset.transform, dataset.crs


@pytest.mark.parametrize(("gsd", "seen"), [(0.25, 0.5), (1.0, 0.5), (0.7, 0.5), (0.2, 0.7)])
def test_the_map_lies_on_the_scene_s_grid(use_model, scene_factory, tmp_path, gsd, seen):
    use_model(Constant(0.0, 1.0, 0.5), meta_of(3, 3, gsd=seen))
    scene = scene_factory(height=70, width=90, gsd=gsd)
    values, transform, crs = mapped(scene, tmp_path / "m.tif")
    with rasterio.open(scene) as dataset:
        assert (values.shape, transform, crs) == (dataset.shape, dataset.transform, dataset.crs)
    assert (values == 1).all()


def test_nodata_is_the_scene_s_to_the_pixel(use_model, scene_factory, tmp_path):
    use_model(Constant(0.0, 1.0, 0.5), meta_of(3, 3, gsd=1.0))
    scene = scene_factory(height=70, width=90, gsd=0.4, nodata=0)
    with rasterio.open(scene, "r+") as dataset:
        dataset.write(np.zeros((3, 33, 21), np.uint8), window=Window(11, 17, 21, 33))
    values, _, _ = mapped(scene, tmp_path / "m.tif")
    expected = np.full((70, 90), 1, np.uint8)
    expected[17:50, 11:32] = 255
    np.testing.assert_array_equal(values, expected)


def test_an_aoi_is_followed_to_the_pixel(use_model, scene_factory, tmp_path):
    use_model(Constant(0.0, 1.0, 0.5), meta_of(3, 3, gsd=1.0))
    scene = scene_factory(height=70, width=90, gsd=0.4)
    box = (500_000 + 5 * 0.4, 5_700_000 - 41 * 0.4, 500_000 + 33 * 0.4, 5_700_000 - 7 * 0.4)
    values, _, _ = mapped(scene, tmp_path / "m.tif", bbox=box)
    expected = np.full((70, 90), 255, np.uint8)
    expected[7:41, 5:33] = 1
    np.testing.assert_array_equal(values, expected)


def test_smooth_scenes_are_mapped_as_at_their_own_size(use_model, scene_factory, tmp_path):
    """The answer of a pixelwise model varies slowly here, so both ways agree but for borders."""
    rows, cols = np.mgrid[0:120, 0:120]
    waves = 100 + 50 * np.sin(rows / 25) * np.cos(cols / 31)
    values = np.stack([waves, waves[::-1], 180 - waves]).astype(np.uint8)
    scene = scene_factory(values=values, gsd=0.3)
    use_model(Pixelwise(3, 3), meta_of(3, 3, gsd=0.3))
    own, _, _ = mapped(scene, tmp_path / "own.tif")
    use_model(Pixelwise(3, 3), meta_of(3, 3, gsd=0.6))
    other, _, _ = mapped(scene, tmp_path / "other.tif")
    assert len(np.unique(own)) > 1
    assert (own == other).mean() > 0.97


def test_it_is_said_and_can_be_forbidden(use_model, scene_factory, tmp_path):
    scene = scene_factory(gsd=0.3)
    model = use_model(Pixelwise(3, 3), meta_of(3, 3, gsd=0.6))
    for resample, words in ((True, "sees it at 0.6 m"), (False, "expect it to miss things")):
        said = []
        mapped(scene, tmp_path / f"{resample}.tif", said.append, resample=resample)
        assert any(words in e.message for e in said if isinstance(e, Warned))
    assert model.windows > 0


def test_more_than_fourfold_is_refused(use_model, scene_factory, tmp_path):
    use_model(Pixelwise(3, 3), meta_of(3, 3, gsd=2.1))
    with pytest.raises(InputError, match="fourfold"):
        mapped(scene_factory(gsd=0.5), tmp_path / "m.tif")
    mapped(scene_factory(gsd=0.5), tmp_path / "m.tif", resample=False)


def test_the_windows_are_those_of_the_coarser_grid(use_model, scene_factory):
    use_model(Pixelwise(3, 3), meta_of(3, 3, gsd=1.0))
    scene = scene_factory(height=256, width=256, gsd=0.5)
    fewer = plan_summary(scene, PredictOptions(), measure=False)["windows"]
    more = plan_summary(scene, PredictOptions(resample=False), measure=False)["windows"]
    assert fewer < more / 3


@pytest.mark.parametrize("gsd", [0.25, 1.0])
def test_the_bytes_do_not_depend_on_the_engine(scene_factory, checkpoint_factory, tmp_path, gsd):
    model = checkpoint_factory(tile=32, classes=3, gsd=0.5)
    scene = scene_factory(height=150, width=130, gsd=gsd)
    made = []
    for name, more in (("a", {}), ("b", {"workers": 2}), ("c", {"memory": "256MiB"})):
        probabilities = tmp_path / f"{name}_p.tif"
        options = PredictOptions(model=model, threads=1, probabilities=probabilities, **more)
        predict(scene, tmp_path / f"{name}.tif", options)
        made.append(((tmp_path / f"{name}.tif").read_bytes(), probabilities.read_bytes()))
    for i in (1, 2):
        predict(
            scene, tmp_path / "d.tif", PredictOptions(model=model, threads=1, shard=(i, 2),
            probabilities=tmp_path / "d_p.tif"),
        )  # fmt: skip
    merge(tmp_path / "d.tif")
    made.append(((tmp_path / "d.tif").read_bytes(), (tmp_path / "d_p.tif").read_bytes()))
    assert made[1:] == made[:1] * 3


def test_a_mosaic_is_seen_at_the_model_s_size_too(scene_factory, checkpoint_factory, tmp_path):
    model = checkpoint_factory(tile=32, classes=3, gsd=1.0)
    whole = scene_factory(height=96, width=128, gsd=0.5)
    predict(whole, tmp_path / "whole_m.tif", PredictOptions(model=model, threads=1))
    (tmp_path / "out").mkdir()
    for j in (0, 1):
        with rasterio.open(whole) as source:
            window = Window(64 * j, 0, 64, 96)
            profile = source.profile | {"width": 64, "transform": source.window_transform(window)}
            with rasterio.open(tmp_path / f"s{j}.tif", "w", **profile) as sheet:
                sheet.write(source.read(window=window))
    sheets = [tmp_path / "s0.tif", tmp_path / "s1.tif"]
    predict_mosaic(sheets, tmp_path / "out", PredictOptions(model=model, threads=1))
    with rasterio.open(tmp_path / "whole_m.tif") as dataset:
        expected = dataset.read(1)
    for j in (0, 1):
        with rasterio.open(tmp_path / "out" / f"s{j}_mask.tif") as dataset:
            np.testing.assert_array_equal(dataset.read(1), expected[:, 64 * j : 64 * (j + 1)])


def test_updating_a_resampled_map_is_refused(use_model, scene_factory, tmp_path):
    use_model(Pixelwise(3, 2), meta_of(3, 2, gsd=0.5))
    scene = scene_factory(gsd=1.0)
    with pytest.raises(InputError, match=r"own pixel size.*--overwrite"):
        predict(scene, tmp_path / "m.tif", PredictOptions(update=True))
