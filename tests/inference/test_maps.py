"""The map is right: every pixel answered, nodata kept, the place kept, and no seams."""

import warnings

import numpy as np
import pyogrio
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inference_models import Blur, Constant, Pixelwise, meta_of, pixelwise_logits, softmax
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.transform import Affine
from rio_cogeo import cog_validate

from rsmamba_cli.errors import InputError, OutputError
from rsmamba_cli.events import Progress, Started, Warned
from rsmamba_cli.inference import PredictOptions, predict
from rsmamba_cli.raster.grid import Grid
from rsmamba_models import Transform

in_folder = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def mask_of(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def bands_of(path):
    with rasterio.open(path) as dataset:
        return dataset.read()


def run(scene, tmp_path, **options):
    options = {"overwrite": True, **options}
    result = predict(scene, tmp_path / "mask.tif", PredictOptions(**options))
    return result, mask_of(tmp_path / "mask.tif")


def grid_of(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as dataset:
            return Grid.of(dataset)


# every pixel


@in_folder
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 90),
    tile=st.integers(4, 40),
    overlap=st.floats(0, 0.8),
    trim=st.integers(0, 5),
    blend=st.sampled_from(["hann", "average", "crop"]),
    batch=st.integers(1, 5),
)
def test_a_pixelwise_model_gives_what_it_gives_on_the_whole(
    scene_factory, tmp_path, use_model, height, width, tile, overlap, trim, blend, batch
):
    path = scene_factory(height=height, width=width)
    model = use_model(Pixelwise(3, 4), meta_of(3, 4))
    trim = min(trim, (tile - 1) // 2)
    _, mask = run(
        path, tmp_path, tile=tile, overlap=overlap, trim=trim, blend=blend, batch_size=batch
    )
    logits = pixelwise_logits(model, bands_of(path))
    ordered = np.sort(logits, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-3
    np.testing.assert_array_equal(mask[clear], logits.argmax(axis=0)[clear])


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1), (3, 3), (32, 32), (33, 31)])
def test_tiny_and_thin_scenes_are_answered(scene_factory, tmp_path, use_model, shape):
    use_model(Constant(-1.0, 2.0, 1.0), meta_of(3, 3))
    _, mask = run(scene_factory(height=shape[0], width=shape[1]), tmp_path)
    assert mask.shape == shape
    assert (mask == 1).all()


@pytest.mark.parametrize("blend", ["hann", "average", "crop"])
def test_a_constant_comes_out_as_itself_to_the_last_pixel(
    scene_factory, tmp_path, use_model, blend
):
    use_model(Constant(0.4), meta_of(3, 2))
    run(
        scene_factory(height=101, width=77), tmp_path, tile=20, overlap=0.4, trim=3, blend=blend,
        probabilities=tmp_path / "p.tif",
    )  # fmt: skip
    assert (mask_of(tmp_path / "p.tif") == round(250 / (1 + np.exp(-0.4)))).all()


def test_trimming_by_the_receptive_field_is_exact(scene_factory, tmp_path, use_model):
    path = scene_factory(height=150, width=170)
    centred = Transform(offset=(100.0,) * 3, scale=(0.1,) * 3, mean=(0.0,) * 3, std=(1.0,) * 3)
    use_model(Blur(3), meta_of(3, 2, transform=centred))
    outputs = {}
    for name, options in {
        "full": {"tile": "full"},
        "trimmed": {"tile": 40, "trim": 3, "overlap": 0.3},
        "cropped": {"tile": 40, "trim": 3, "overlap": 0.3, "blend": "crop"},
    }.items():
        run(path, tmp_path, probabilities=tmp_path / "p.tif", **options)
        outputs[name] = mask_of(tmp_path / "p.tif")
    assert outputs["full"].std() > 10
    np.testing.assert_array_equal(outputs["trimmed"], outputs["full"])
    np.testing.assert_array_equal(outputs["cropped"], outputs["full"])


def test_the_checkpoint_s_margin_is_trimmed_unless_told_otherwise(
    scene_factory, tmp_path, use_model
):
    path = scene_factory(height=150, width=170)
    centred = Transform(offset=(100.0,) * 3, scale=(0.1,) * 3, mean=(0.0,) * 3, std=(1.0,) * 3)

    def mapped(declared, **asked):
        meta = meta_of(3, 2, transform=centred, trim=declared, tile=40, overlap=0.3)
        use_model(Blur(3), meta)
        run(path, tmp_path, probabilities=tmp_path / "p.tif", **asked)
        return mask_of(tmp_path / "p.tif")

    whole = mapped(0, tile="full")
    np.testing.assert_array_equal(mapped(3), whole)
    np.testing.assert_array_equal(mapped(0, trim=3), whole)
    assert (mapped(3, trim=0) != whole).any()


def test_tile_full_is_one_window(scene_factory, tmp_path, use_model):
    use_model(Constant(1.0), meta_of(3, 2))
    result, _ = run(scene_factory(height=150, width=170), tmp_path, tile="full")
    assert result.windows == 1


def test_ties_go_to_the_lowest_class(scene_factory, tmp_path, use_model):
    use_model(Constant(-2.0, 1.0, 1.0), meta_of(3, 3))
    assert (run(scene_factory(), tmp_path)[1] == 1).all()


# what is not answered


def test_nodata_in_is_nodata_out(scene_factory, tmp_path, use_model):
    values = np.random.default_rng(0).integers(1, 255, (3, 70, 90)).astype(np.uint8)
    values[:, 10:30, 40:60] = 0
    use_model(Constant(3.0), meta_of(3, 2))
    _, mask = run(scene_factory(values=values, nodata=0), tmp_path)
    np.testing.assert_array_equal(mask == 255, (values == 0).all(axis=0))


def test_invalid_pixels_reach_the_model_as_zeros(scene_factory, tmp_path, use_model):
    values = np.full((3, 32, 32), 9, dtype=np.float32)
    values[0, 4, 4] = np.nan
    values[:, 5, 5] = 1e30
    seen = []

    class Spy(Constant):
        def forward(self, image):
            seen.append(image.clone())
            return super().forward(image)

    use_model(Spy(1.0), meta_of(3, 2))
    run(scene_factory(values=values, nodata=1e30), tmp_path)
    assert (seen[0][0, :, 4, 4] == 0).all()
    assert (seen[0][0, :, 5, 5] == 0).all()
    assert (seen[0][0, :, 6, 6] == 9).all()


def test_wholly_invalid_windows_are_never_fed(scene_factory, tmp_path, use_model):
    values = np.zeros((3, 320, 320), dtype=np.uint8)
    values[:, 200:210, 100:110] = 7
    model = use_model(Pixelwise(3, 1), meta_of(3, 2))
    result, mask = run(scene_factory(values=values, nodata=0), tmp_path)
    assert model.windows == result.windows_computed <= 4
    assert (mask != 255).sum() == 100


def test_a_scene_without_valid_pixels_is_all_nodata_with_a_warning(
    scene_factory, tmp_path, use_model
):
    use_model(Constant(3.0), meta_of(3, 2))
    events = []
    path = scene_factory(values=np.zeros((3, 40, 40), dtype=np.uint8), nodata=0)
    result = predict(path, tmp_path / "mask.tif", on_event=events.append)
    assert (mask_of(tmp_path / "mask.tif") == 255).all()
    assert result.pixels_per_class["nodata"] == 1600
    assert any("no answer anywhere" in e.message for e in events if isinstance(e, Warned))


def test_pixels_outside_the_box_are_nodata_and_cost_nothing(scene_factory, tmp_path, use_model):
    model = use_model(Pixelwise(3, 1), meta_of(3, 2))
    path = scene_factory(height=320, width=320, gsd=1.0)
    box = (500_010, 5_699_960, 500_030, 5_699_990)
    whole = run(path, tmp_path)[1]
    model.windows = 0
    _, mask = run(path, tmp_path, bbox=box)
    inside = np.zeros((320, 320), dtype=bool)
    inside[10:40, 10:30] = True
    np.testing.assert_array_equal(mask, np.where(inside, whole, 255))
    assert model.windows <= 4


# where it lies

CORNERS = ((0, 0, 10.0, 50.0), (0, 96, 10.1, 50.01), (80, 0, 9.99, 49.92), (80, 96, 10.09, 49.93))
PLACES = {
    "north-up": {"crs": "EPSG:32631"},
    "south-up": {"crs": "EPSG:32631", "transform": Affine(0.5, 0, 5e5 + 0.1, 0, 0.5, 5e6)},
    "rotated": {"crs": "EPSG:32631", "transform": Affine(0.4, 0.1, 5e5, 0.2, -0.5, 5e6)},
    "geographic": {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, 10.1, 0, -1e-5, 50.3)},
    "custom crs": {"crs": CRS.from_string("+proj=laea +lat_0=41 +lon_0=7 +ellps=GRS80")},
    "control points": {
        "crs": "EPSG:4326",
        "gcps": [GroundControlPoint(*c) for c in CORNERS],
        "transform": None,
    },
    "rpcs": {
        "crs": None,
        "rpcs": RPC(
            err_bias=1.0, err_rand=0.5, height_off=10.0, height_scale=500.0, lat_off=50.0,
            lat_scale=0.1, line_den_coeff=[1.0] + [0.0] * 19,
            line_num_coeff=[0.0, 0.0, -1.0] + [0.0] * 17, line_off=40.0, line_scale=40.0,
            long_off=10.0, long_scale=0.1, samp_den_coeff=[1.0] + [0.0] * 19,
            samp_num_coeff=[0.0, 1.0] + [0.0] * 18, samp_off=50.0, samp_scale=50.0,
        ),
    },
    "transform only": {"crs": None, "transform": Affine(0.4, 0.1, 5e5, 0.2, -0.5, 5e6)},
    "nowhere": {"crs": None},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("place", PLACES)
def test_the_map_lies_exactly_where_the_scene_does(scene_factory, tmp_path, use_model, place):
    use_model(Constant(1.0), meta_of(3, 2))
    path = scene_factory(**PLACES[place])
    run(path, tmp_path)
    assert grid_of(tmp_path / "mask.tif") == grid_of(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.tif", "scene.tif"]


@pytest.mark.parametrize("place", ["nowhere", "transform only"])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_without_crs_is_warned_about(scene_factory, tmp_path, use_model, place):
    use_model(Constant(1.0), meta_of(3, 2))
    events = []
    result = predict(scene_factory(**PLACES[place]), tmp_path / "m.tif", on_event=events.append)
    assert any("outputs have none" in e.message for e in events if isinstance(e, Warned))
    assert result.area_m2_per_class is None


# what it says


def test_the_mask_is_a_valid_cog_that_explains_itself(scene_factory, tmp_path, use_model):
    use_model(Constant(0.0, 1.0, 0.0), meta_of(3, 3, values=(0, 7, 9), licence="CC0"))
    run(scene_factory(height=700, width=600), tmp_path, tile=256)
    assert cog_validate(tmp_path / "mask.tif", strict=True)[0]
    with rasterio.open(tmp_path / "mask.tif") as dataset:
        assert (dataset.dtypes, dataset.nodata) == (("uint8",), 255)
        assert dataset.tags(1) == {"CLASS_0": "class 0", "CLASS_7": "class 7", "CLASS_9": "class 9"}
        assert dataset.colormap(1)[9] == (2, 4, 6, 255)
        tags = dataset.tags()
        assert (dataset.read(1) == 7).all()
    assert tags["RSMAMBA_CHECKPOINT_SHA256"] == "0" * 64
    assert tags["RSMAMBA_ARCHITECTURE"] == "fake"
    assert tags["RSMAMBA_LICENCE"] == "CC0"
    assert '"blend":"hann"' in tags["RSMAMBA_OPTIONS"]
    assert "RSMAMBA_DEMO" not in tags
    assert str(tmp_path) not in "".join(tags.values())


def test_class_values_beyond_eight_bits_make_a_wider_mask(scene_factory, tmp_path, use_model):
    use_model(Constant(0.0, 1.0, 0.0), meta_of(3, 3, values=(0, 255, 1000)))
    values = np.ones((3, 40, 40), dtype=np.uint8)
    values[:, 0, 0] = 0
    _, mask = run(scene_factory(values=values, nodata=0), tmp_path)
    assert mask.dtype == np.uint16
    assert (mask[0, 0], mask[1, 1]) == (65535, 255)


def test_a_demonstration_model_warns_and_tags(scene_factory, tmp_path, use_model):
    use_model(Constant(1.0), meta_of(3, 2, demo=True))
    events = []
    predict(scene_factory(), tmp_path / "mask.tif", on_event=events.append)
    assert any(e.essential for e in events if isinstance(e, Warned))
    with rasterio.open(tmp_path / "mask.tif") as dataset:
        assert "demonstration" in dataset.tags()["RSMAMBA_DEMO"]


def test_probabilities_are_those_of_the_model(scene_factory, tmp_path, use_model):
    path = scene_factory(height=50, width=60, values=None)
    model = use_model(Pixelwise(3, 4), meta_of(3, 4, temperature=80.0))
    run(path, tmp_path, probabilities=tmp_path / "p.tif")
    expected = softmax(pixelwise_logits(model, bands_of(path)) / 80)
    with rasterio.open(tmp_path / "p.tif") as dataset:
        found = dataset.read() * dataset.scales[0]
        assert dataset.descriptions[3] == "probability of class 3"
        assert dataset.nodata == 255
    np.testing.assert_allclose(found, expected, atol=0.0021)


def test_uncertainty_is_the_normalised_entropy(scene_factory, tmp_path, use_model):
    path = scene_factory(height=50, width=60)
    model = use_model(Pixelwise(3, 4), meta_of(3, 4, temperature=80.0))
    run(path, tmp_path, uncertainty=tmp_path / "u.tif")
    p = softmax(pixelwise_logits(model, bands_of(path)) / 80)
    np.testing.assert_allclose(
        mask_of(tmp_path / "u.tif") * 0.004, -(p * np.log(p)).sum(axis=0) / np.log(4), atol=0.0021
    )


def test_binary_uncertainty_is_one_at_a_half(scene_factory, tmp_path, use_model):
    use_model(Constant(0.0), meta_of(3, 2))
    run(scene_factory(), tmp_path, uncertainty=tmp_path / "u.tif")
    assert (mask_of(tmp_path / "u.tif") == 250).all()


@pytest.mark.parametrize(("threshold", "answer"), [(None, 0), (0.55, 1), (0.65, 0)])
def test_the_threshold_of_user_or_checkpoint_decides(
    scene_factory, tmp_path, use_model, threshold, answer
):
    use_model(Constant(np.log(0.6 / 0.4)), meta_of(3, 2, threshold=0.7))
    _, mask = run(scene_factory(), tmp_path, threshold=threshold)
    assert (mask == answer).all()


def test_a_threshold_for_many_classes_is_refused(scene_factory, tmp_path, use_model):
    use_model(Constant(0.0, 0.0, 0.0), meta_of(3, 3))
    with pytest.raises(InputError, match="two classes"):
        run(scene_factory(), tmp_path, threshold=0.5)


def test_pixels_and_areas_are_counted(scene_factory, tmp_path, use_model):
    values = np.full((3, 100, 80), 1, dtype=np.uint8)
    values[:, :25] = 200
    values[:, :, :8] = 0
    model = use_model(Pixelwise(3, 1), meta_of(3, 2))
    model.conv.weight.data[:] = 1.0
    model.conv.bias.data[:] = -100.0
    result, _ = run(scene_factory(values=values, nodata=0, gsd=2.0), tmp_path)
    assert result.pixels_per_class == {"class 0": 75 * 72, "class 1": 25 * 72, "nodata": 800}
    assert result.area_m2_per_class["class 1"] == pytest.approx(25 * 72 * 4, rel=2e-3)
    assert result.to_json()["files"]["mask"].endswith("mask.tif")


def test_polygons_cover_what_the_mask_does(scene_factory, tmp_path, use_model):
    model = use_model(Pixelwise(3, 1), meta_of(3, 2))
    path = scene_factory(height=120, width=140)
    result, mask = run(path, tmp_path, polygons=tmp_path / "p.gpkg")
    _, _, _, (value, name, area) = pyogrio.raw.read(tmp_path / "p.gpkg")
    assert model.windows
    assert set(value) == {1}
    assert set(name) == {"class 1"}
    assert area.sum() == pytest.approx(result.area_m2_per_class["class 1"], rel=1e-5)
    assert (mask == 1).any()


def test_progress_adds_up_to_what_was_announced(scene_factory, tmp_path, use_model):
    use_model(Constant(1.0), meta_of(3, 2))
    events = []
    values = np.ones((3, 300, 200), dtype=np.uint8)
    values[:, :, :100] = 0
    predict(
        scene_factory(values=values, nodata=0), tmp_path / "m.tif",
        PredictOptions(batch_size=3), events.append,
    )  # fmt: skip
    for stage in ("predict", "write"):
        total = next(e.total for e in events if isinstance(e, Started) and e.stage == stage)
        assert total == sum(
            e.advance for e in events if isinstance(e, Progress) and e.stage == stage
        )


# outputs that are there already


def test_an_existing_output_is_not_overwritten(scene_factory, tmp_path, use_model):
    use_model(Constant(1.0), meta_of(3, 2))
    (tmp_path / "mask.tif").write_text("precious")
    with pytest.raises(OutputError, match="--overwrite"):
        predict(scene_factory(), tmp_path / "mask.tif")
    assert (tmp_path / "mask.tif").read_text() == "precious"


def test_an_existing_output_can_be_skipped(scene_factory, tmp_path, use_model):
    use_model(Constant(1.0), meta_of(3, 2))
    (tmp_path / "mask.tif").write_text("precious")
    result = predict(scene_factory(), tmp_path / "mask.tif", PredictOptions(skip_existing=True))
    assert result.skipped
    assert (tmp_path / "mask.tif").read_text() == "precious"


def test_an_output_is_never_an_input(scene_factory, tmp_path, use_model):
    use_model(Constant(1.0), meta_of(3, 2))
    path = scene_factory()
    before = path.read_bytes()
    (tmp_path / "link.tif").symlink_to(path)
    for output in (path, tmp_path / "link.tif"):
        with pytest.raises(OutputError, match="also an input"):
            predict(path, output, PredictOptions(overwrite=True))
    assert path.read_bytes() == before


def test_a_symbolic_link_keeps_pointing_where_it_did(scene_factory, tmp_path, use_model):
    use_model(Constant(1.0), meta_of(3, 2))
    (tmp_path / "real").mkdir()
    (tmp_path / "link.tif").symlink_to(tmp_path / "real" / "mask.tif")
    predict(scene_factory(), tmp_path / "link.tif")
    assert (tmp_path / "link.tif").is_symlink()
    assert (mask_of(tmp_path / "real" / "mask.tif") == 1).all()


@pytest.mark.parametrize(
    ("output", "more"),
    [
        ("mask.png", {}),
        ("mask.tif", {"probabilities": "p.jp2"}),
        ("mask.tif", {"polygons": "p.shp"}),
        ("mask.tif", {"probabilities": "mask.tif"}),
        ("nowhere/mask.tif", {}),
    ],
)
def test_names_that_cannot_be_written_are_refused(scene_factory, tmp_path, use_model, output, more):
    use_model(Constant(1.0), meta_of(3, 2))
    more = {key: tmp_path / value for key, value in more.items()}
    with pytest.raises(OutputError):
        predict(scene_factory(), tmp_path / output, PredictOptions(**more))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scene.tif"]
