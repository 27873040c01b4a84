"""The tutorial's commands, run in order as a reader would, in an empty folder."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands have been run; ``rsmamba`` is this working copy."""
    place = tmp_path_factory.mktemp("tutorial")
    programs = tmp_path_factory.mktemp("bin")
    program = programs / "rsmamba"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m rsmamba_cli "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'models'}",
    }
    for block in BLOCKS:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return place


def area(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Brightness of a scene and where its buildings are, (H, W) both."""
    with (
        rasterio.open(folder / "t1.tif") as image,
        rasterio.open(folder / "truth_building.tif") as truth,
    ):
        return image.read().mean(axis=0), truth.read(1) > 0


def f1(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_the_map_is_better_than_rules_without_a_model(folder: Path) -> None:
    brightness, truth = area(folder / "mine")
    levels = np.quantile(brightness, np.linspace(0.02, 0.98, 49))
    level = max(levels, key=lambda level: f1(brightness > level, truth))
    brightness, truth = area(folder / "new")
    floor = max(f1(brightness > level, truth), f1(np.ones_like(truth), truth))
    with (folder / "accuracy.csv").open() as file:
        found = {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}
    assert found["f1"] > floor > 0.2
    with rasterio.open(folder / "map.tif") as source:
        mapped = source.read(1) == 1
    # The outlines are a little simplified; the figure is about that of the pixels' own truth.
    assert found["f1"] == pytest.approx(f1(mapped, truth), abs=0.03)


def test_the_reader_finds_what_the_text_names(folder: Path) -> None:
    for name in ("run/report.html", "run/best.safetensors", "map.gpkg", "map.qml", "accuracy.html"):
        assert (folder / name).stat().st_size > 0, name
