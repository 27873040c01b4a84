"""``rsmamba predict`` and ``rsmamba change`` through real files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def segmenter(checkpoint_factory) -> Path:
    return checkpoint_factory("segmentation")


@pytest.fixture
def detector(checkpoint_factory) -> Path:
    return checkpoint_factory("change")


@pytest.fixture
def demo_models(checkpoint_factory, monkeypatch) -> None:
    """Stand in for the embedded checkpoints, so that these tests do not depend on them."""
    monkeypatch.setattr(
        "rsmamba_cli.assets.demo_checkpoint", lambda task: checkpoint_factory(task, demo=True)
    )


def test_default_output_and_its_grid(cli, scene_factory, segmenter, tmp_path) -> None:
    scene = scene_factory("in/scene.tif")
    assert cli("predict", scene, "-m", segmenter).exit_code == 0
    with rasterio.open(scene) as before, rasterio.open(tmp_path / "scene_mask.tif") as mask:
        assert mask.profile["dtype"] == "uint8"
        assert (mask.crs, mask.transform, mask.shape) == (
            before.crs,
            before.transform,
            before.shape,
        )


def test_result_as_json(cli_json, scene_factory, segmenter) -> None:
    data = cli_json("predict", scene_factory(), "-o", "mask.tif", "-m", segmenter)
    assert Path(data["output"]).name == "mask.tif"
    assert sum(data["pixels_per_class"].values()) == 80 * 96
    assert (data["width"], data["height"]) == (96, 80)


def test_result_as_tables(cli, scene_factory, segmenter) -> None:
    text = cli("predict", scene_factory(), "-m", segmenter).stdout
    assert "scene_mask.tif" in text
    assert "class0" in text
    assert "peak memory" in text


def test_quiet_says_nothing(cli, scene_factory, segmenter) -> None:
    result = cli("predict", scene_factory(), "-m", segmenter, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_the_demo_model_warns_even_when_quiet(cli, scene_factory, demo_models) -> None:
    result = cli("predict", scene_factory(), "--quiet")
    assert result.exit_code == 0, result.output
    assert "demonstration" in result.stderr
    with rasterio.open("scene_mask.tif") as mask:
        assert "RSMAMBA_DEMO" in mask.tags()


def test_the_model_comes_from_the_environment(cli, scene_factory, segmenter) -> None:
    result = cli("predict", scene_factory(), env={"RSMAMBA_MODEL": str(segmenter)})
    assert result.exit_code == 0
    assert "demonstration" not in result.stderr


def test_more_outputs(cli_json, scene_factory, segmenter) -> None:
    data = cli_json(
        *("predict", scene_factory(), "-m", segmenter, "--polygons", "p.geojson"),
        *("--probabilities", "p.tif", "--uncertainty", "u.tif", "--threshold", "0.4"),
    )
    assert set(data["files"]) == {"mask", "polygons", "probabilities", "uncertainty"}
    assert all(Path(path).is_file() for path in data["files"].values())


def test_options_reach_the_map(cli, scene_factory, segmenter) -> None:
    scene = scene_factory(height=100, width=100)
    left, top = 500_000.0, 5_700_000.0
    box = f"{left},{top - 50},{left + 10},{top}"
    words = ("--tile", 32, "--overlap", 0.5, "--blend", "average", "--batch-size", 2, "--trim", 2)
    result = cli("predict", scene, "-m", segmenter, "--bbox", box, *words)
    assert result.exit_code == 0, result.output
    with rasterio.open("scene_mask.tif") as mask:
        options = json.loads(mask.tags()["RSMAMBA_OPTIONS"])
        answered = mask.read(1) != 255
    assert (options["tile"], options["stride"], options["trim"]) == ([32, 32], [16, 16], 2)
    assert (options["blend"], options["batch_size"]) == ("average", 2)
    assert answered[:, :20].all()
    assert not answered[:, 20:].any()


def test_bands_are_chosen(cli, scene_factory, segmenter) -> None:
    scene = scene_factory(bands=4)
    assert cli("predict", scene, "-m", segmenter, "--bands", "4,3,2").exit_code == 0


def test_nodata_and_mask(cli_json, scene_factory, segmenter) -> None:
    values = np.full((3, 80, 96), 100, np.uint8)
    values[:, :10] = 7
    scene = scene_factory(values=values)
    clouds = np.zeros((1, 80, 96), np.uint8)
    clouds[:, -5:] = 1
    mask = scene_factory("clouds.tif", values=clouds)
    data = cli_json("predict", scene, "-m", segmenter, "--nodata", 7, "--mask", mask)
    assert data["pixels_per_class"]["nodata"] == 15 * 96


def test_several_scenes_into_a_folder(cli, cli_json, scene_factory, segmenter, tmp_path) -> None:
    scenes = [scene_factory(f"{name}.tif", seed=n) for n, name in enumerate("ab")]
    data = cli_json("predict", *scenes, "-m", segmenter, "--out-dir", tmp_path / "new" / "maps")
    assert [Path(r["output"]).name for r in data["results"]] == ["a_mask.tif", "b_mask.tif"]
    assert data["failed"] == []


def test_one_bad_scene_does_not_stop_the_others(cli, scene_factory, segmenter, tmp_path) -> None:
    good = [scene_factory(f"{name}.tif") for name in "ac"]
    result = cli("predict", good[0], "b.tif", good[1], "-m", segmenter, "--out-dir", "maps")
    assert result.exit_code == 3
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["a_mask.tif", "c_mask.tif"]
    assert "b.tif" in result.stderr
    assert "1 of 3 failed" in result.stderr


def test_failures_of_a_batch_as_json(cli, scene_factory, segmenter) -> None:
    good = scene_factory("a.tif")
    result = cli("predict", good, "b.tif", "-m", segmenter, "--out-dir", "maps", "--json")
    assert result.exit_code == 3
    data = json.loads(result.stdout)
    assert [f["inputs"] for f in data["failed"]] == [["b.tif"]]
    assert len(data["results"]) == 1


def test_equal_stems_are_refused_before_any_work(refuses, scene_factory, segmenter) -> None:
    scenes = [scene_factory(f"{folder}/s.tif") for folder in "xy"]
    message = refuses("predict", *scenes, "-m", segmenter, "--out-dir", "maps")
    assert "s_mask.tif" in message
    assert not Path("maps").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("a.tif", "b.tif", "-o", "m.tif"),
        ("a.tif", "-o", "m.tif", "--out-dir", "maps"),
        ("a.tif", "b.tif", "--polygons", "p.gpkg"),
        ("a.tif", "--tile", "0"),
        ("a.tif", "--overlap", "1"),
        ("a.tif", "--bands", "red"),
        ("a.tif", "--bbox", "1,2,3"),
        ("a.tif", "--blend", "magic"),
        ("a.tif", "--resume", "--overwrite"),
        ("a.tif", "--no-such-option"),
        (),
    ],
)
def test_usage_errors(cli, words) -> None:
    assert cli("predict", *words).exit_code == 2


def test_an_existing_output_is_kept(refuses, scene_factory, segmenter) -> None:
    Path("scene_mask.tif").write_text("precious")
    assert "--overwrite" in refuses("predict", scene_factory(), "-m", segmenter)
    assert Path("scene_mask.tif").read_text() == "precious"


def test_overwrite(cli, scene_factory, segmenter) -> None:
    Path("scene_mask.tif").write_text("worthless")
    assert cli("predict", scene_factory(), "-m", segmenter, "--overwrite").exit_code == 0
    assert rasterio.open("scene_mask.tif").count == 1


def test_skip_existing(cli_json, scene_factory, segmenter) -> None:
    words = ("predict", scene_factory(), "-m", segmenter)
    cli_json(*words)
    before = Path("scene_mask.tif").stat().st_mtime_ns
    assert cli_json(*words, "--skip-existing")["skipped"] is True
    assert Path("scene_mask.tif").stat().st_mtime_ns == before


def test_resuming_a_finished_run_is_success(cli_json, scene_factory, segmenter) -> None:
    words = ("predict", scene_factory(), "-m", segmenter)
    cli_json(*words)
    assert cli_json(*words, "--resume")["skipped"] is True


def test_dry_run_writes_nothing(cli_json, scene_factory, segmenter, tmp_path) -> None:
    scene = scene_factory()
    data = cli_json("predict", scene, "-m", segmenter, "--out-dir", "maps", "--dry-run")
    assert data["windows"] > 1
    assert data["memory_bytes"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


def test_dry_run_in_words(cli, scene_factory, segmenter) -> None:
    text = cli("predict", scene_factory(), "-m", segmenter, "--dry-run").stdout
    assert "windows of 64 x 64" in text.replace("  ", " ") or "of 64 x 64 pixels" in text


def test_change_of_two_grids(cli_json, scene_factory, detector) -> None:
    t1 = scene_factory("old.tif", height=90, width=90)
    t2 = scene_factory("new.tif", gsd=0.7, origin=(499_999.3, 5_700_001.1), seed=1)
    data = cli_json("change", t1, t2, "-m", detector)
    assert Path(data["output"]).name == "old_new_change.tif"
    assert (data["width"], data["height"]) == (90, 90)
    assert data["details"]["overlap"] > 0.5
    other = cli_json("change", t1, t2, "-m", detector, "--grid", "t2", "-o", "other.tif")
    assert (other["width"], other["height"]) == (96, 80)


def test_change_of_a_table_of_pairs(cli_json, scene_factory, detector, tmp_path) -> None:
    for name in ("a1", "a2", "b1", "b2"):
        scene_factory(f"in/{name}.tif")
    table = tmp_path / "in" / "pairs.csv"
    table.write_text("t1,t2\na1.tif,a2.tif\nb1.tif,b2.tif\n")
    data = cli_json("change", "--pairs", table, "--out-dir", "maps", "-m", detector)
    assert len(data["results"]) == 2
    assert Path("maps/b1_b2_change.tif").is_file()


@pytest.mark.parametrize("words", [(), ("a.tif",), ("a.tif", "b.tif", "--pairs", "p.csv")])
def test_change_needs_two_scenes_or_a_table(cli, words) -> None:
    assert cli("change", *words).exit_code == 2


def test_change_dry_run(cli_json, scene_factory, detector) -> None:
    t1, t2 = scene_factory("a.tif"), scene_factory("b.tif")
    assert cli_json("change", t1, t2, "-m", detector, "--dry-run")["overlap"] == pytest.approx(1)


def test_an_interrupted_run_is_resumed(scene_factory, segmenter, tmp_path) -> None:
    scene = scene_factory(height=320, width=128)
    words = ["predict", str(scene), "-m", str(segmenter), "--tile", "32", "--overlap", "0.5"]
    command = [sys.executable, "-m", "rsmamba_cli", *words, "--threads", "1", "--batch-size", "1"]
    paths = os.pathsep.join((str(ROOT), str(ROOT / "models")))
    settings = {
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": paths},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    process = subprocess.Popen(command, **settings)
    journal = tmp_path / "scene_mask.tif.partial" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        # A band of windows is done with the one below it: of three, two need not be repeated.
        if journal.is_file() and len(journal.read_text().splitlines()) >= 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "scene_mask.tif").exists()
    done = subprocess.run([*command, "--resume", "--json"], **settings, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["windows_computed"] < result["windows"]
