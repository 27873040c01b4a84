"""Tiny datasets and short recipes for training tests."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rsmamba_cli.training import TrainConfig
from rsmamba_cli.training.recipe_files import validate_config

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))

from miniatures import change_folder, segmentation_folder, write_image

SMALLEST = {"dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "ssm_d_state": 2}

ConfigFactory = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def buildings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four bright squares to learn, two to validate, two to test, 64 x 64, coded 0/255."""
    return segmentation_folder(
        tmp_path_factory.mktemp("buildings"), counts={"train": 4, "val": 2, "test": 2}
    )


@pytest.fixture(scope="session")
def changes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `buildings`, with a first date without them."""
    return change_folder(
        tmp_path_factory.mktemp("changes"), counts={"train": 4, "val": 2, "test": 2}
    )


@pytest.fixture(scope="session")
def landcover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes by brightness, 16-bit, five bands, georeferenced; 255 in a corner."""
    root = tmp_path_factory.mktemp("landcover")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            label = np.repeat(np.repeat(rng.integers(0, 3, (4, 4)), 16, 0), 16, 1).astype(np.uint8)
            image = (rng.integers(0, 100, (5, 64, 64)) + 2000 * label.astype(int)).astype(np.uint16)
            label[:8, :8] = 255
            write_image(root / split / "image" / f"t{i}.tif", image, georeferenced=True)
            write_image(root / split / "label" / f"t{i}.tif", label, georeferenced=True)
    return root


@pytest.fixture
def tiny_config(buildings: Path) -> ConfigFactory:
    """A recipe for seconds; keyword arguments replace whole parts' settings."""

    def make(**changes: dict) -> TrainConfig:
        content: dict = {
            "name": "tiny",
            "model": {"name": "rsm_ss_nano", "arguments": SMALLEST},
            "data": {"dataset": "folder", "root": str(buildings), "crop": 32, "batch_size": 2},
            "schedule": {"warmup_steps": 2},
            "loop": {"epochs": 1, "device": "cpu", "log_every": 1, "pictures": 2},
        }
        for part, settings in changes.items():
            if isinstance(settings, dict):
                content[part] = {**content.get(part, {}), **settings}
            else:
                content[part] = settings
        return validate_config(content, "the test", TrainConfig)

    return make
