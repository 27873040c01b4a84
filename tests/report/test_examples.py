"""Every example runs as it is written (with the embedded checkpoints where it needs them)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))

from miniatures import segmentation_folder

from rsmamba_cli.assets import demo_checkpoint
from rsmamba_cli.errors import CheckpointError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

TRIAL = (
    "--steps", "4", "--refine", "2", "1", "--scenes", "1", "--set", "data.demo.scenes=4", "--set",
    "data.demo.held_out=2", "--set", "data.demo.size=64", "--set", "data.crop=64",
)  # fmt: skip


def run(example: str, *arguments: str) -> str:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "models")))
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(task: str) -> None:
    try:
        demo_checkpoint(task)
    except CheckpointError as error:
        pytest.skip(str(error))


def test_predict_scene(tmp_path: Path) -> None:
    needs("segmentation")
    assert "buildings cover" in run("predict_scene.py", str(tmp_path))
    assert (tmp_path / "buildings.png").is_file()


def test_change_two_dates(tmp_path: Path) -> None:
    needs("change")
    assert "against the truth" in run("change_two_dates.py", str(tmp_path))
    assert (tmp_path / "change.geojson").is_file()


def test_own_dataset(tmp_path: Path) -> None:
    assert "on test: F1" in run("own_dataset.py", str(tmp_path))


@pytest.mark.parametrize("task", ["segmentation", "change"])
def test_train_embedded(tmp_path: Path, task: str) -> None:
    assert "f1" in run("train_embedded.py", "--task", task, "--out", str(tmp_path), *TRIAL)
    assert (tmp_path / f"demo_{task}.safetensors").stat().st_size < 3_000_000


def test_real_data_table(tmp_path: Path) -> None:
    segmentation_folder(tmp_path / "seg_kampala")
    words = (
        "--only",
        "kampala",
        "--seeds",
        "1",
        "2",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "runs"),
    )
    table = run("real_data_table.py", str(tmp_path), *words)
    assert table.splitlines()[-1].startswith("| kampala | 2 |")
    assert run("real_data_table.py", str(tmp_path), *words) == table  # read, not trained again


def test_recipe_speed() -> None:
    words = ("rsmamba-cd", "--crop", "64", "--seconds", "0.1")
    recipe, model, *_, speed, peak = (
        run("recipe_speed.py", *words).splitlines()[-1][2:-2].split(" | ")
    )
    assert (recipe, model) == ("rsmamba-cd", "rsm_cd_tiny")
    assert float(speed) > 0 and float(peak) > 0.1


def test_a_plain_loop_takes_the_course_of_train() -> None:
    differences = [float(line.split()[2]) for line in run("plain_loop.py").splitlines()]
    assert len(differences) == 5 and max(differences) < 1e-6
