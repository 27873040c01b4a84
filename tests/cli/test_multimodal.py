"""``rsmamba predict`` with optical and radar images, through real files and a real network."""

import numpy as np
import pytest
import rasterio
import torch

from rsmamba_models import (
    CheckpointMeta,
    ClassInfo,
    InputSpec,
    Transform,
    create_model,
    save_checkpoint,
)

SMALL = {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1), "ssm_d_state": 2}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    network = create_model("rsm_ss_nano", task="multimodal", in_chans=(3, 1), **SMALL)
    power = Transform(offset=(0,), scale=(1,), db=True, clip=(-30, 10), mean=(-12,), std=(5,))
    meta = CheckpointMeta(
        architecture=network.architecture,
        arguments=network.arguments,
        task="multimodal",
        inputs=(
            InputSpec(
                name="optical", bands=("red", "green", "blue"), transform=Transform.imagenet8()
            ),
            InputSpec(name="sar", bands=("vv",), transform=power, dtype="float32", missing="zero"),
        ),
        classes=tuple(ClassInfo(value=i, name=f"c{i}", color=(i, 0, 0)) for i in range(2)),
        output="sigmoid",
        tile=64,
        size_multiple=network.size_multiple,
    )
    path = tmp_path_factory.mktemp("model") / "fused.safetensors"
    save_checkpoint(path, network, meta)
    return path


@pytest.fixture
def sar(scene_factory):
    """Power, a little larger than the scene, at another resolution."""
    rng = np.random.default_rng(5)
    values = rng.gamma(2, 0.05, (1, 120, 130)).astype("f4")
    return scene_factory("sar.tif", values=values, gsd=0.7, origin=(499_990.0, 5_700_010.0))


def test_two_files_become_one_map(cli, cli_json, scene_factory, model, sar):
    scene = scene_factory()
    data = cli_json("predict", scene, "--sar", sar, "-m", model)
    assert data["output"].endswith("scene_mask.tif")
    assert data["details"] == {"alignment": "warped", "overlap": 1.0}
    with rasterio.open(scene) as before, rasterio.open("scene_mask.tif") as mask:
        assert (mask.transform, mask.crs, mask.shape) == (
            before.transform,
            before.crs,
            before.shape,
        )
        assert mask.tags()["RSMAMBA_TASK"] == "multimodal"
        assert not (mask.read() == 255).any()
    text = cli("predict", scene, "--sar", sar, "-m", model, "--overwrite").stdout
    assert "100.0% of the map (warped)" in text


def test_a_stacked_file_is_split(cli_json, scene_factory, model):
    rng = np.random.default_rng(1)
    optical = rng.integers(1, 255, (3, 80, 96)).astype("u1")
    power = rng.gamma(2, 0.05, (1, 80, 96)).astype("f4")
    stacked = scene_factory("stacked.tif", values=np.concatenate([optical, power]))
    o, s = scene_factory("o.tif", values=optical), scene_factory("s.tif", values=power)
    cli_json("predict", stacked, "-m", model)
    cli_json("predict", o, "--sar", s, "-m", model)
    with rasterio.open("stacked_mask.tif") as a, rasterio.open("o_mask.tif") as b:
        np.testing.assert_array_equal(a.read(), b.read())


def test_a_missing_image_is_told(cli, scene_factory, model, sar):
    result = cli("predict", scene_factory(), "-m", model)
    assert result.exit_code == 0
    assert "no sar image" in result.stderr
    assert "not given" in result.stdout


def test_radar_alone_needs_a_model_that_allows_it(refuses, model, sar):
    assert "needs optical" in refuses("predict", "--sar", sar, "-m", model)


def test_many_pairs_come_from_a_table(cli_json, scene_factory, model, sar, tmp_path):
    for name in ("a.tif", "b.tif"):
        scene_factory(f"in/{name}")
    (tmp_path / "in" / "list.csv").write_text("scene, sar\na.tif, ../sar.tif\nb.tif,../sar.tif\n")
    data = cli_json("predict", "--pairs", "in/list.csv", "--out-dir", "maps", "-m", model)
    assert not data["failed"]
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["a_mask.tif", "b_mask.tif"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.tif", "b.tif", "--sar", "s.tif"), "--pairs"),
        (("a.tif", "--pairs", "list.csv"), "leave out SCENE"),
        ((), "give a SCENE"),
        (("a.tif", "--sar-bands", "0"), "--sar-bands"),
        (("a.tif", "--sampler", "euler"), "ddim"),
    ],
)
def test_usage_that_makes_no_sense(cli, words, message):
    result = cli("predict", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_sampler_options_are_for_diffusion(refuses, scene_factory, model, sar):
    text = refuses("predict", scene_factory(), "--sar", sar, "-m", model, "--steps", 5)
    assert "diffusion" in text


def test_a_dry_run_lists_both_images(cli, scene_factory, model, sar):
    text = cli("predict", scene_factory(), "--sar", sar, "-m", model, "--dry-run").stdout
    assert "bands of optical" in text
    assert "bands of sar" in text


def test_info_foretells_a_map_of_both_images(cli_json, scene_factory, model, sar):
    scene = scene_factory()
    forecast = cli_json("info", scene, "-m", model, "--sar", sar)["prediction"]
    assert [i["name"] for i in forecast["inputs"]] == ["optical", "sar"]
    assert forecast["windows"] == cli_json("predict", scene, "--sar", sar, "-m", model)["windows"]
