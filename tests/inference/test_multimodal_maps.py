"""Optical and radar images, in two files or one, become one map on the optical grid."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from multimodal_models import Sampled, Sum, multimodal_meta
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds

from rsmamba_cli.errors import (
    CheckpointError,
    InputError,
    Interrupted,
    OutputError,
    ResumeError,
)
from rsmamba_cli.events import Progress, Warned
from rsmamba_cli.inference import PredictOptions, change, plan_summary, predict
from rsmamba_cli.raster.grid import Grid

UTM = CRS.from_epsg(32631)
SHAPE = (70, 90)
OPTICAL = Grid(*SHAPE, Affine(2, 0, 500_000, 0, -2, 5_700_000), UTM)


@pytest.fixture
def sums(use_model):
    return use_model(Sum(), multimodal_meta())


@pytest.fixture
def optical(scene_factory):
    rng = np.random.default_rng(1)
    return scene_factory(
        "optical.tif", values=rng.integers(1, 80, (3, *SHAPE)).astype("uint8"), gsd=2.0
    )


@pytest.fixture
def sar(scene_factory):
    """Radar on the optical grid."""
    rng = np.random.default_rng(2)
    return scene_factory("sar.tif", values=rng.uniform(1, 25, (1, *SHAPE)).astype("f4"), gsd=2.0)


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read()


def run(scene, tmp_path, name="m.tif", **options):
    events = []
    result = predict(scene, tmp_path / name, PredictOptions(**options), events.append)
    warnings = [e.message for e in events if isinstance(e, Warned)]
    return result, read(tmp_path / name)[0], warnings


def expected(optical, sar):
    return (10 * sar.sum(axis=0) > optical.sum(axis=0, dtype=float)).astype(np.uint8)


def write_world(path, grid, value, dtype="float32", nodata=None):
    """Write ``value(x, y)`` of the pixel centres, in metres from OPTICAL's upper left corner."""
    rows, cols = np.mgrid[0 : grid.height, 0 : grid.width] + 0.5
    x, y = grid.pixel_to_world(rows, cols)
    if grid.world_crs != UTM:
        x, y = (
            np.reshape(v, rows.shape)
            for v in transform_points(grid.world_crs, UTM, x.ravel(), y.ravel())
        )
    values = np.asarray(value(x - 500_000, 5_700_000 - y), dtype=dtype)[None]
    with rasterio.open(
        path, "w", driver="GTiff", count=1, dtype=dtype, nodata=nodata, **grid.profile()
    ) as sink:
        sink.write(values)
    return path


def around(crs, pixels):
    """A grid of another CRS that covers OPTICAL with a margin."""
    left, bottom, right, top = transform_bounds(UTM, crs, *OPTICAL.bounds)
    wide, tall = (right - left) * 0.1, (top - bottom) * 0.1
    left, right, bottom, top = left - wide, right + wide, bottom - tall, top + tall
    step = (right - left) / pixels
    return Grid(int((top - bottom) / step), pixels, Affine(step, 0, left, 0, -step, top), crs)


GRIDS = {
    "offset": Grid(80, 100, Affine(2, 0, 499_990.7, 0, -2, 5_700_010.3), UTM),
    "finer": Grid(190, 240, Affine(0.8, 0, 499_995, 0, -0.8, 5_700_005), UTM),
    "coarser": Grid(40, 50, Affine(5, 0, 499_980, 0, -5, 5_700_020), UTM),
    "south-up": Grid(80, 100, Affine(2, 0, 499_990, 0, 2, 5_699_850), UTM),
    "degrees": around(CRS.from_epsg(4326), 120),
    "next zone": around(CRS.from_epsg(32632), 130),
}


# two files or one


def test_the_map_follows_both_images(optical, sar, tmp_path, sums):
    result, mask, warnings = run(optical, tmp_path, sar=sar)
    np.testing.assert_array_equal(mask, expected(read(optical), read(sar)))
    assert result.details == {"alignment": "same", "overlap": 1.0}
    assert not warnings


@pytest.mark.parametrize(
    "options",
    [{}, {"bands": (1, 2, 3, 4)}, {"bands": (1, 2, 3), "sar_bands": (4,)}],
    ids=["in order", "all named", "both named"],
)
def test_a_stacked_file_gives_the_same_map(optical, sar, tmp_path, sums, scene_factory, options):
    stacked = scene_factory(
        "stacked.tif", values=np.concatenate([read(optical), read(sar)]).astype("f4"), gsd=2.0
    )
    _, mask, _ = run(stacked, tmp_path, **options)
    np.testing.assert_array_equal(mask, expected(read(optical), read(sar)))


def test_bands_of_a_stacked_file_are_found_by_name(optical, sar, tmp_path, sums, scene_factory):
    image = read(optical).astype("f4")
    values = np.concatenate([read(sar), image[::-1], image[:1] * 0 - 7])
    stacked = scene_factory("stacked.tif", values=values, gsd=2.0)
    with rasterio.open(stacked, "r+") as dataset:
        dataset.descriptions = ("VV", "blue", "green", "red", "angle")
    _, mask, warnings = run(stacked, tmp_path)
    np.testing.assert_array_equal(mask, expected(read(optical), read(sar)))
    assert any("by their names" in text for text in warnings)


def test_bands_of_the_radar_file_can_be_chosen(optical, sar, tmp_path, sums, scene_factory):
    two = scene_factory("two.tif", values=np.concatenate([read(sar) * 0, read(sar)]), gsd=2.0)
    with pytest.raises(InputError, match="wants 1"):
        run(optical, tmp_path, sar=two)
    _, mask, _ = run(optical, tmp_path, sar=two, sar_bands=(2,))
    np.testing.assert_array_equal(mask, expected(read(optical), read(sar)))


def test_an_alpha_band_is_not_taken_for_radar_in_silence(tmp_path, use_model, scene_factory):
    use_model(Sum(), multimodal_meta(missing="zero"))
    path = scene_factory("rgba.tif", bands=4, alpha=True)
    with pytest.raises(InputError, match="alpha"):
        run(path, tmp_path)


# other grids


@pytest.mark.parametrize("name", GRIDS)
def test_radar_of_any_grid_lands_on_the_optical_one(name, tmp_path, sums, scene_factory):
    optical = scene_factory("o.tif", values=np.full((3, *SHAPE), 100, "uint8"), gsd=2.0)
    # 10 x + 5 y > 300, a slanted border in world coordinates.
    sar = write_world(tmp_path / "s.tif", GRIDS[name], lambda x, y: x + y / 2)
    result, mask, _ = run(optical, tmp_path, sar=sar)
    rows, cols = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]] + 0.5
    margin = 10 * (2 * cols + rows) - 300
    clear = np.abs(margin) > 10  # half a pixel
    np.testing.assert_array_equal(mask[clear], margin[clear] > 0)
    assert result.details["alignment"] == "warped" or name in ("south-up",)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert Grid.of(dataset) == OPTICAL


@pytest.mark.parametrize("nodata", [None, -9999.0], ids=["untagged NaN", "tagged"])
@pytest.mark.parametrize("name", ["offset", "finer", "degrees"])
def test_no_data_is_smeared_into_valid_pixels(name, nodata, tmp_path, sums, scene_factory):
    # Just enough for class 1: 10 * 10.0 against 99.
    optical = scene_factory("o.tif", values=np.full((3, *SHAPE), 33, "uint8"), gsd=2.0)
    hole = np.nan if nodata is None else nodata
    sar = write_world(
        tmp_path / "s.tif",
        GRIDS[name],
        lambda x, y: np.where((x > 40) & (x < 90) & (y > 30) & (y < 80), hole, 10.0),
        nodata=nodata,
    )
    _, mask, _ = run(optical, tmp_path, sar=sar)
    assert set(np.unique(mask)) == {1, 255}
    # x = 2 col + 1: columns 20 to 44 and rows 15 to 39 have their centre in the hole.
    assert (mask[15:40, 20:45] == 255).all()
    near = np.full(SHAPE, True)
    near[12:43, 17:48] = False
    assert (mask[near] == 1).all()


def test_validity_of_both_is_united(optical, sar, tmp_path, sums, scene_factory):
    image, radar = read(optical), read(sar)
    image[:, :10] = 0
    radar[:, :, :12] = 255
    a = scene_factory("a.tif", values=image, gsd=2.0, nodata=0)
    b = scene_factory("b.tif", values=radar, gsd=2.0)
    _, mask, _ = run(a, tmp_path, sar=b, sar_nodata=255)
    wanted = expected(image, radar)
    wanted[:10] = 255
    wanted[:, :12] = 255
    np.testing.assert_array_equal(mask, wanted)


def test_what_radar_does_not_cover_has_no_answer(optical, sar, tmp_path, sums, scene_factory):
    part = scene_factory("p.tif", values=read(sar)[:, :, 40:], gsd=2.0, origin=(500_080, 5_700_000))
    result, mask, warnings = run(optical, tmp_path, sar=part)
    assert result.details["overlap"] == pytest.approx(50 / 90)
    assert (mask[:, :40] == 255).all()
    assert not (mask[:, 40:] == 255).any()
    assert any("the two images overlap on 55.6%" in text for text in warnings)


def test_images_far_apart_are_refused(optical, sar, tmp_path, sums, scene_factory):
    far = scene_factory("far.tif", values=read(sar), gsd=2.0, origin=(700_000, 5_700_000))
    with pytest.raises(InputError, match="do not overlap"):
        run(optical, tmp_path, sar=far)


# a missing modality


def test_a_missing_input_is_refused_by_default(optical, sar, tmp_path, sums, scene_factory):
    with pytest.raises(InputError, match=r"needs sar \(vv\).*--sar FILE.*one file of 4 bands"):
        run(optical, tmp_path)
    with pytest.raises(InputError, match="needs optical"):
        run(None, tmp_path, sar=sar)
    with pytest.raises(InputError, match=r"has 2 bands.*wants 4 \(red.*vv\).*--sar FILE"):
        run(scene_factory("two.tif", bands=2), tmp_path)
    assert not (tmp_path / "m.tif").exists()


def test_a_missing_input_is_zero_where_the_checkpoint_says_so(optical, sar, tmp_path, use_model):
    use_model(Sum(), multimodal_meta(missing="zero"))
    result, mask, warnings = run(optical, tmp_path)
    assert (mask == 0).all()
    assert result.details == {"missing": ["sar"]}
    assert any("no sar image" in text for text in warnings)
    result, mask, _ = run(None, tmp_path, "s.tif", sar=sar)
    assert (mask == 1).all()
    assert result.details == {"missing": ["optical"]}


def test_zeros_are_zeros_after_normalisation(optical, tmp_path, use_model):
    """A transform that moves 0 elsewhere does not move what is missing."""
    meta = multimodal_meta(missing="zero")
    spec = meta.inputs[1]
    moved = spec.model_copy(update={"transform": spec.transform.model_copy(update={"mean": (-9,)})})
    use_model(Sum(), meta.model_copy(update={"inputs": (meta.inputs[0], moved)}))
    _, mask, _ = run(optical, tmp_path)
    assert (mask == 0).all()


# what does not go together


def test_radar_is_refused_for_other_models(optical, sar, tmp_path, checkpoint_factory):
    with pytest.raises(CheckpointError, match=r"segmentation model.*leave out --sar"):
        run(optical, tmp_path, sar=sar, model=checkpoint_factory())
    with pytest.raises(CheckpointError, match="no model for two modalities is embedded"):
        run(optical, tmp_path, sar=sar)
    with pytest.raises(InputError, match="options of predict"):
        change(optical, optical, tmp_path / "m.tif", PredictOptions(sar=sar))


def test_the_output_may_not_be_the_radar_image(optical, sar, tmp_path, sums):
    with pytest.raises(OutputError, match="also an input"):
        predict(optical, sar, PredictOptions(sar=sar, overwrite=True))


@pytest.mark.parametrize("option", [{"sampler": "ddpm"}, {"steps": 5}, {"seed": 0}])
def test_models_without_a_sampler_refuse_its_options(optical, sar, tmp_path, sums, option):
    with pytest.raises(InputError, match="diffusion"):
        run(optical, tmp_path, sar=sar, **option)


@pytest.mark.parametrize("option", [{"sampler": "euler"}, {"steps": 0}, {"seed": -1}])
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(InputError, match=f"--{next(iter(option))}"):
        PredictOptions(**option)


# sampling


SAMPLER = {"name": "ddim", "steps": 3}


@pytest.fixture
def sampled(use_model):
    return use_model(Sampled(), multimodal_meta(sampler=SAMPLER))


@pytest.fixture
def faint(optical, sar, scene_factory):
    """Images that leave the decision to the noise."""
    zero = scene_factory("zero.tif", values=np.zeros((3, *SHAPE), "uint8"), gsd=2.0)
    return zero, scene_factory("dark.tif", values=np.zeros((1, *SHAPE), "f4"), gsd=2.0)


def probabilities(faint, tmp_path, name="m.tif", **options):
    scene, sar = faint
    more = {"probabilities": tmp_path / f"p_{name}", "overwrite": True, **options}
    predict(scene, tmp_path / name, PredictOptions(sar=sar, **more))
    return (tmp_path / name).read_bytes(), read(more["probabilities"])


def test_noise_does_not_depend_on_batches_or_memory(faint, tmp_path, sampled):
    scene, sar = faint
    base = {"tile": 32, "probabilities": tmp_path / "p.tif", "overwrite": True}
    found = []
    for more in ({"batch_size": 1}, {"batch_size": 3}, {"batch_size": 7}):
        predict(scene, tmp_path / "m.tif", PredictOptions(sar=sar, **base, **more))
        found.append((read(tmp_path / "m.tif"), read(tmp_path / "p.tif")))
    for mask, probability in found[1:]:
        np.testing.assert_array_equal(mask, found[0][0])
        np.testing.assert_array_equal(probability, found[0][1])
    assert len(np.unique(found[0][1])) > 50


def test_an_area_is_that_part_of_the_whole(faint, tmp_path, sampled):
    whole = probabilities(faint, tmp_path)[1]
    part = probabilities(faint, tmp_path, bbox=(500_090, 5_699_900, 500_150, 5_699_950))[1]
    inside = part != 255
    assert inside.sum() == 30 * 25
    np.testing.assert_array_equal(part[inside], whole[inside])


def test_an_interrupted_run_goes_on_to_the_same_bytes(faint, tmp_path, sampled):
    scene, sar = faint
    options = PredictOptions(sar=sar, tile=32, batch_size=2, seed=4)
    predict(scene, tmp_path / "calm.tif", options)

    def stop(event):
        if isinstance(event, Progress) and event.stage == "predict":
            stop.windows += event.advance
            if stop.windows >= 9:
                stop.windows = -(10**9)
                os.kill(os.getpid(), signal.SIGTERM)

    stop.windows = 0
    with pytest.raises(Interrupted, match="--resume"):
        predict(scene, tmp_path / "m.tif", options, stop)
    for changed, words in (
        ({"seed": 5}, "sampler seed was 4 and is now 5"),
        ({"steps": 8}, "sampler steps"),
        ({"sampler": "ddpm"}, "sampler name"),
        ({"sar_bands": (1,), "sar_nodata": 9.0}, "inputs 1 nodata|inputs 2 nodata"),
    ):
        with pytest.raises(ResumeError, match=words):
            predict(scene, tmp_path / "m.tif", replace(options, resume=True, **changed))
    result = predict(scene, tmp_path / "m.tif", replace(options, resume=True))
    assert result.windows_computed < result.windows
    assert (tmp_path / "m.tif").read_bytes() == (tmp_path / "calm.tif").read_bytes()


def test_seed_sampler_and_steps_decide_the_map_and_are_recorded(faint, tmp_path, sampled):
    first = probabilities(faint, tmp_path, seed=1)[1]
    np.testing.assert_array_equal(probabilities(faint, tmp_path, seed=1)[1], first)
    for more in ({"seed": 2}, {"seed": 1, "steps": 9}, {"seed": 1, "sampler": "ddpm"}):
        assert (probabilities(faint, tmp_path, **more)[1] != first).mean() > 0.5
    with rasterio.open(tmp_path / "m.tif") as dataset:
        tag = dataset.tags()["RSMAMBA_OPTIONS"]
    assert '"sampler":{"name":"ddpm","seed":1,"steps":3}' in tag


def test_windows_have_noise_of_their_own(faint, tmp_path, sampled):
    found = probabilities(faint, tmp_path, tile=20, overlap=0.0, blend="crop")[1][0]
    assert (found[:20, :20] != found[:20, 20:40]).mean() > 0.9
    assert (found[:20, :20] != found[20:40, :20]).mean() > 0.9


@pytest.mark.parametrize("tta", ["flip", "d4"])
def test_augmentation_turns_the_noise_along(faint, tmp_path, sampled, tta):
    """`Sampled` treats all directions alike, so its views agree when they see the same noise."""
    plain = probabilities(faint, tmp_path)[1]
    turned = probabilities(faint, tmp_path, tta=tta)[1]
    assert np.abs(plain.astype(int) - turned).max() <= 1


def test_settings_that_the_model_refuses_are_told(faint, tmp_path, sampled):
    with pytest.raises(CheckpointError, match="at most 100 steps"):
        probabilities(faint, tmp_path, steps=101)


def test_a_plan_can_be_made_without_running(faint, tmp_path, sampled):
    scene, sar = faint
    plan = plan_summary(scene, PredictOptions(sar=sar, seed=3))
    assert [part["name"] for part in plan["inputs"]] == ["optical", "sar"]
    assert plan["overlap"] == 1.0
    assert plan["seconds"] > 0
