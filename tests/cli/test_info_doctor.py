"""``rsmamba info``, ``doctor`` and ``demo``."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _embedded(checkpoint_factory, monkeypatch) -> None:
    """Stand in for the embedded checkpoints, so that these tests do not depend on them."""
    monkeypatch.setattr(
        "rsmamba_cli.assets.demo_checkpoint", lambda task: checkpoint_factory(task, demo=True)
    )


def test_info_on_a_scene(cli_json, scene_factory) -> None:
    data = cli_json("info", scene_factory(bands=3, nodata=0))
    assert (data["width"], data["height"], data["crs"]) == (96, 80, "EPSG:32631")
    assert data["metres_a_pixel"] == pytest.approx(0.5, rel=2e-3)
    assert [band["nodata"] for band in data["bands"]] == [0, 0, 0]
    assert data["prediction"]["windows"] > 1


def test_info_foretells_memory_of_one_pass(cli, cli_json, scene_factory) -> None:
    scene = scene_factory()
    tiles, whole = cli_json("info", scene), cli_json("info", scene, "--tile", "full")
    assert whole["prediction"]["windows"] == 1
    assert whole["prediction"]["window"] == [96, 96]
    least = tiles["prediction"]["model_memory_bytes"]
    assert whole["prediction"]["model_memory_bytes"] > least > 24 << 20
    assert "for the model" in cli("info", scene, "--tile", "full").stdout


def test_info_in_words(cli, scene_factory) -> None:
    text = cli("info", scene_factory(bands=4, alpha=True, dtype="uint16")).stdout
    assert "alpha" in text
    assert "uint16" in text
    assert "to predict it" in text


def test_info_says_why_a_scene_cannot_be_predicted(cli, scene_factory) -> None:
    result = cli("info", scene_factory(bands=5))
    assert result.exit_code == 0
    assert "not possible" in result.stdout


def test_info_on_a_scene_without_a_place(cli, scene_factory) -> None:
    assert "no georeference" in cli("info", scene_factory(crs=None)).stdout


def test_info_with_nan_as_nodata(cli, cli_json, scene_factory) -> None:
    scene = scene_factory(dtype="float32", nodata=float("nan"))
    assert cli_json("info", scene)["bands"][0]["nodata"] == "nan"
    assert cli("info", scene).exit_code == 0


def test_info_on_a_map_of_ours(cli, cli_json, scene_factory, checkpoint_factory) -> None:
    values = np.full((3, 80, 96), 50, np.uint8)
    values[:, :, :24] = 0
    scene = scene_factory(values=values, nodata=0)
    made = cli_json("predict", scene, "-m", checkpoint_factory("segmentation"))
    data = cli_json("info", made["output"])
    assert data["provenance"]["architecture"] == "rsm_ss_nano"
    pixels = {part["name"]: part["pixels"] for part in data["classes"]}
    assert pixels == made["pixels_per_class"]
    areas = {part["name"]: part["area_m2"] for part in data["classes"]}
    for name, area in made["area_m2_per_class"].items():
        assert areas[name] == pytest.approx(area)
    assert "made by rsmamba" in cli("info", made["output"]).stdout


def test_info_on_probabilities_of_ours(cli_json, scene_factory, checkpoint_factory) -> None:
    model = checkpoint_factory("segmentation")
    cli_json("predict", scene_factory(), "-m", model, "--probabilities", "p.tif")
    data = cli_json("info", "p.tif")
    assert data["scales"] == [0.004]
    assert "classes" not in data


def test_info_on_a_checkpoint_names_the_right_command(refuses, checkpoint_factory) -> None:
    assert "rsmamba checkpoint show" in refuses("info", checkpoint_factory("segmentation"))


def test_info_on_weights_names_the_right_command(refuses) -> None:
    assert "rsmamba checkpoint import" in refuses("info", "best.pth")


@pytest.mark.parametrize("content", [None, b"text"])
def test_info_on_no_raster(refuses, content) -> None:
    if content is not None:
        Path("file.tif").write_bytes(content)
    assert "file.tif" in refuses("info", "file.tif")


def test_doctor(cli_json) -> None:
    data = cli_json("doctor")
    assert data["broken"] == []
    assert data["ops"]["selective scan"]["used"]["cpu"] in data["ops"]["selective scan"]["forms"]
    assert "verified" in data["checkpoints"]["change"]
    assert data["versions"]["gdal"]


def test_doctor_in_words(cli) -> None:
    text = cli("doctor").stdout
    assert "selective scan" in text
    assert "free" in text


def test_doctor_finds_a_missing_checkpoint(cli, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("rsmamba_cli.assets.demo_checkpoint", lambda task: tmp_path / "none")
    result = cli("doctor")
    assert result.exit_code == 1
    assert "embedded checkpoint" in result.stderr


def test_doctor_shows_a_forced_back_end(cli_json, monkeypatch) -> None:
    monkeypatch.setenv("RSMAMBA_SCAN", "torch")
    assert cli_json("doctor")["ops"]["selective scan"]["used"]["cpu"] == "torch"


def test_doctor_refuses_an_unknown_back_end(cli, monkeypatch) -> None:
    monkeypatch.setenv("RSMAMBA_SCAN", "magic")
    result = cli("doctor")
    assert result.exit_code == 1
    assert "magic" in result.stderr


def test_demo(cli_json) -> None:
    data = cli_json("demo", "--size", 96, "--out", "place", "--device", "cpu")
    assert all(Path(path).is_file() for path in data["files"].values())
    assert 0 <= data["metrics"]["building_f1"] <= 1


def test_demo_names_its_files_and_scores(cli) -> None:
    result = cli("demo", "--size", 96, "--out", "place", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "change.geojson" in result.stdout
    assert "precision" in result.stdout


def test_demo_does_not_write_among_other_files(refuses) -> None:
    Path("place").mkdir()
    Path("place/precious").write_text("")
    assert "place" in refuses("demo", "--size", 96, "--out", "place")
