"""Miniature files and untrained models for evaluation tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))

from miniatures import segmentation_folder


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright squares, 64 x 64, coded 0/255: five to validate on, four to test on."""
    return segmentation_folder(tmp_path_factory.mktemp("tiles"), counts={"val": 5, "test": 4})


@pytest.fixture
def model(checkpoint_factory) -> Path:
    """An untrained model of two classes."""
    return checkpoint_factory()
