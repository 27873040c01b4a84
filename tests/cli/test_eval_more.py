"""``rsmamba eval``: files, comparing, calibrating, submissions, several processes."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Bright squares, labels 0/255; one name that HTML must not take literally."""
    generator = np.random.default_rng(0)
    for split in ("val", "test"):
        for name in ("a_1", "a_2", "b_1", "<b>"):
            label = np.zeros((64, 64), np.uint8)
            row, column = generator.integers(0, 32, 2)
            label[row : row + 28, column : column + 28] = 255
            image = (generator.integers(0, 80, (64, 64, 3)) + label[..., None] // 2).astype("uint8")
            for folder, array in (("image", image), ("label", label)):
                path = tmp_path / "tiles" / split / folder / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return tmp_path / "tiles"


@pytest.fixture
def words(checkpoint_factory, tiles: Path) -> tuple[object, ...]:
    where = ("--dataset", "folder", "--data", tiles, "--device", "cpu")
    return ("eval", checkpoint_factory(), *where)


def test_csv_and_page(cli_json, cli, words, tmp_path: Path) -> None:
    files = ("--csv", tmp_path / "f.csv", "--report", tmp_path / "r.html")
    found = cli_json(*words, *files)
    rows = list(csv.DictReader((tmp_path / "f.csv").open()))
    assert float(next(r["value"] for r in rows if r["metric"] == "oa")) == pytest.approx(
        found["metrics"]["oa"], abs=1e-6
    )
    page = (tmp_path / "r.html").read_text()
    assert len(re.findall("data:image/png", page)) == 8
    assert "&lt;b&gt;" in page and "<b>" not in page and "http" not in page
    assert cli(*words, *files).exit_code == 1
    assert cli(*words, *files, "--overwrite").exit_code == 0


def test_two_processes_find_what_one_does(words, cli_json) -> None:
    alone = cli_json(*words, "--batch-size", "1")
    line = [*map(str, words), "--devices", "2", "--batch-size", "1", "--json", "--quiet"]
    path = f"{ROOT}{os.pathsep}{ROOT / 'models'}"
    done = subprocess.run(
        [sys.executable, "-m", "rsmamba_cli", *line],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    pair = json.loads(done.stdout)
    assert alone.pop("seconds") and pair.pop("seconds")
    assert pair == alone


def test_comparing_in_words(cli, cli_json, words, checkpoint_factory, tmp_path: Path) -> None:
    other = checkpoint_factory(threshold=0.7)
    shown = cli(*words, "--against", other, "--report", tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert "boundary_iou" in page and "true objects found" in page and "only 4 units" in page
    assert shown.exit_code == 0 and "McNemar" in shown.stdout and "boundary_iou" in shown.stdout
    found = cli_json(*words, "--against", other, "--scenes", "^(.)")
    assert found["units"] == 3


def test_calibrating_then_predicting(cli, cli_json, words, scene_factory, tmp_path: Path) -> None:
    new = tmp_path / "new.safetensors"
    found = cli_json(*words, "--calibrate", "-o", new)
    before, after = found["metrics"]["nll"]
    assert after < before
    scene = scene_factory()
    cli_json("predict", scene, "-o", tmp_path / "old.tif", "-m", words[1])
    cli_json("predict", scene, "-o", tmp_path / "new.tif", "-m", new)
    assert cli(*words, "--calibrate", "-o", tmp_path / "x", "--split", "test").exit_code == 1


@pytest.mark.parametrize(
    "more",
    [
        ("--calibrate",),
        ("-o", "x"),
        ("--calibrate", "-o", "x", "--against", "y"),
        ("--against", "y", "--fail-under", "f1=1"),
    ],
)
def test_what_does_not_go_together(cli, words, more) -> None:
    assert cli(*words, *more).exit_code == 2


def test_a_submission_has_indices_from_0_at_its_root(
    cli_json, checkpoint_factory, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    for number, part in enumerate(("Rural", "Urban")):
        path = tmp_path / "Test" / part / "images_png" / f"{number}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(generator.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(path)
    model = checkpoint_factory(classes=7)
    target = tmp_path / "out.zip"
    words = ("eval", model, "--dataset", "folder", "--data", tmp_path, "--device", "cpu")
    assert cli_json(*words, "--submission", target)["images"] == 2
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == ["0.png", "1.png"]
        mask = np.asarray(Image.open(io.BytesIO(archive.read("1.png"))))
    assert mask.dtype == np.uint8 and mask.shape == (64, 64) and mask.max() <= 6
