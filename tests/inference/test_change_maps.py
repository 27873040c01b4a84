"""Two dates on different grids become one map on the grid that was asked for."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from inference_models import meta_of
from torch import nn

from rsmamba_cli.errors import CheckpointError, InputError
from rsmamba_cli.events import Warned
from rsmamba_cli.inference import PredictOptions, change, predict
from rsmamba_cli.raster.grid import Grid
from rsmamba_models import Transform

UNIT = Transform(offset=(0.0,) * 3, scale=(1.0,) * 3, mean=(0.0,) * 3, std=(1.0,) * 3)


class Brighter(nn.Module):
    """Change where the second date is brighter by more than 50."""

    def forward(self, first, second):
        return ((second - first).mean(dim=1, keepdim=True) - 50) / 5


@pytest.fixture
def brighter(use_model):
    return use_model(Brighter(), meta_of(3, 2, task="change", transform=UNIT))


def blocky(seed, height=120, width=140):
    """A texture of 10-pixel blocks, 20 to 120."""
    small = np.random.default_rng(seed).integers(20, 120, (3, height // 10, width // 10))
    return np.kron(small, np.ones((1, 10, 10))).astype(np.uint8)


@pytest.fixture
def pair(scene_factory):
    """Two dates of one place; a square of 30 pixels became brighter by 100."""
    first = blocky(0)
    second = first.copy()
    second[:, 40:70, 50:80] += 100
    return scene_factory("t1.tif", values=first, gsd=1.0), second


def run(t1, t2, tmp_path, **options):
    events = []
    result = change(t1, t2, tmp_path / "c.tif", PredictOptions(**options), events.append)
    with rasterio.open(tmp_path / "c.tif") as dataset:
        return (
            result,
            dataset.read(1),
            Grid.of(dataset),
            [e for e in events if isinstance(e, Warned)],
        )


def square(shape=(120, 140)):
    expected = np.zeros(shape, dtype=np.uint8)
    expected[40:70, 50:80] = 1
    return expected


def test_dates_on_one_grid_are_compared_pixel_by_pixel(scene_factory, tmp_path, brighter, pair):
    t1, second = pair
    result, mask, _, warnings = run(t1, scene_factory("t2.tif", values=second, gsd=1.0), tmp_path)
    np.testing.assert_array_equal(mask, square())
    assert result.details["alignment"] == "same"
    assert not warnings


def test_a_shifted_extent_is_nodata_where_one_date_is_missing(
    scene_factory, tmp_path, brighter, pair
):
    t1, second = pair
    t2 = scene_factory("t2.tif", values=second[:, 20:, 30:], gsd=1.0, origin=(500_030, 5_699_980))
    result, mask, _, warnings = run(t1, t2, tmp_path)
    expected = square()
    expected[:20] = 255
    expected[:, :30] = 255
    np.testing.assert_array_equal(mask, expected)
    assert result.details["overlap"] == pytest.approx(100 * 110 / (120 * 140))
    assert any("overlap on" in w.message for w in warnings)


@pytest.mark.parametrize(
    "t2_grid",
    [
        Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000),
        Affine(1, 0, 500_000, 0, 1, 5_699_880),
    ],
    ids=["finer", "south-up"],
)
def test_another_grid_gives_the_same_change(scene_factory, tmp_path, brighter, pair, t2_grid):
    t1, second = pair
    values = np.kron(second, np.ones((1, 2, 2), "uint8")) if t2_grid.a < 1 else second[:, ::-1]
    t2 = scene_factory("t2.tif", values=np.ascontiguousarray(values), transform=t2_grid)
    _, mask, grid, _ = run(t1, t2, tmp_path)
    assert grid.transform == Affine(1, 0, 500_000, 0, -1, 5_700_000)
    # Bilinear warping softens the outermost pixels of the square.
    assert (mask != square()).sum() <= 4 * 30
    assert (mask[42:68, 52:78] == 1).all()


def test_the_grid_of_the_second_date_can_be_asked_for(scene_factory, tmp_path, brighter, pair):
    t1, second = pair
    t2 = scene_factory("t2.tif", values=np.kron(second, np.ones((1, 2, 2), "uint8")), gsd=0.5)
    _, mask, grid, _ = run(t1, t2, tmp_path, grid="t2")
    assert grid.shape == (240, 280)
    assert (mask[84:136, 104:156] == 1).all()
    assert (mask == 1).sum() == pytest.approx(3600, rel=0.1)


def test_masks_of_both_dates_are_united(scene_factory, tmp_path, brighter, pair):
    t1, second = pair
    with rasterio.open(t1) as dataset:
        first = dataset.read()
    first[:, :10] = 0
    second[:, :, :10] = 0
    t1 = scene_factory("a.tif", values=first, gsd=1.0, nodata=0)
    t2 = scene_factory("b.tif", values=second, gsd=1.0, nodata=0)
    _, mask, _, _ = run(t1, t2, tmp_path)
    expected = square()
    expected[:10] = 255
    expected[:, :10] = 255
    np.testing.assert_array_equal(mask, expected)


def test_a_shift_is_reported_and_not_applied(scene_factory, tmp_path, brighter):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 200, 200))
    for axis in (1, 2):
        noise = sum(np.roll(noise, k, axis) for k in range(-2, 3)) / 5
    first = (100 + 100 * noise).clip(1, 250).astype(np.uint8)
    t1 = scene_factory("t1.tif", values=first, gsd=2.0)
    t2 = scene_factory("t2.tif", values=np.roll(first, (3, -4), (1, 2)), gsd=2.0)
    result, _, _, warnings = run(t1, t2, tmp_path)
    shift = result.details["shift"]
    assert (shift["rows"], shift["cols"]) == (pytest.approx(3, abs=0.2), pytest.approx(-4, abs=0.2))
    assert shift["metres"] == pytest.approx(10, abs=0.5)
    assert any("shifted by 5.0 pixels" in w.message for w in warnings)


def test_plain_images_of_one_size_are_paired(scene_factory, tmp_path, brighter):
    first = blocky(0)
    second = first.copy()
    second[:, 40:70, 50:80] += 100
    t1 = scene_factory("t1.png", values=first, crs=None, driver="PNG")
    t2 = scene_factory("t2.png", values=second, crs=None, driver="PNG")
    _, mask, grid, _ = run(t1, t2, tmp_path)
    np.testing.assert_array_equal(mask, square())
    assert not grid.has_georeference


def test_scenes_far_apart_leave_nothing_behind(scene_factory, tmp_path, brighter, pair):
    t1, second = pair
    t2 = scene_factory("t2.tif", values=second, gsd=1.0, origin=(700_000, 5_700_000))
    with pytest.raises(InputError, match="do not overlap"):
        run(t1, t2, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t1.tif", "t2.tif"]


def test_commands_want_models_of_their_own_task(scene_factory, tmp_path, checkpoint_factory):
    path = scene_factory()
    with pytest.raises(CheckpointError, match="use `rsmamba change`"):
        predict(path, tmp_path / "m.tif", PredictOptions(model=checkpoint_factory("change")))
    with pytest.raises(CheckpointError, match="use `rsmamba predict`"):
        change(path, path, tmp_path / "m.tif", PredictOptions(model=checkpoint_factory()))


def test_an_untrained_network_runs_end_to_end(scene_factory, tmp_path, checkpoint_factory, pair):
    t1, second = pair
    t2 = scene_factory("t2.tif", values=second, gsd=1.0, origin=(500_000.4, 5_700_000.3))
    result, mask, _, _ = run(t1, t2, tmp_path, model=checkpoint_factory("change"), batch_size=2)
    assert set(np.unique(mask)) <= {0, 1, 255}
    assert sum(result.pixels_per_class.values()) == 120 * 140
