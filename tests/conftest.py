"""What several test folders need: one thread, small scenes, an untrained checkpoint."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

SceneFactory = Callable[..., Path]
CheckpointFactory = Callable[..., Path]

SMALLEST: dict[str, Any] = {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1), "ssm_d_state": 2}
"""Arguments of a model that runs in milliseconds."""


def pytest_configure() -> None:
    """One thread, here and in processes that tests start: several test runs share a machine.

    What the user's shell says must not decide what the tests do.
    """
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in [n for n in os.environ if n.startswith("RSMAMBA_")]:
        del os.environ[name]
    if not torch.cuda.is_available():
        _interpret_triton()


def _interpret_triton() -> None:
    """Import Triton in its interpreter's form, which is settled by whoever imports it first."""
    if importlib.util.find_spec("triton") is not None and "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1"
        importlib.import_module("triton.language")
        del os.environ["TRITON_INTERPRET"]


@pytest.fixture
def scene_factory(tmp_path: Path) -> SceneFactory:
    """Make GeoTIFFs: ``scene_factory("a.tif", height=80, width=96, nodata=0, ...) -> Path``.

    ``values`` (bands, H, W) replaces the random content; ``alpha`` marks the last band as alpha;
    further keyword arguments go to ``rasterio.open``.
    """

    def make(
        name: str = "scene.tif",
        *,
        height: int = 80,
        width: int = 96,
        bands: int = 3,
        dtype: str = "uint8",
        crs: str | None = "EPSG:32631",
        origin: tuple[float, float] = (500_000.0, 5_700_000.0),
        gsd: float = 0.5,
        values: np.ndarray | None = None,
        seed: int = 0,
        alpha: bool = False,
        **profile: Any,
    ) -> Path:
        if values is None:
            rng = np.random.default_rng(seed)
            values = rng.integers(1, 200, (bands, height, width)).astype(dtype)
        if crs is not None:
            profile.setdefault("transform", from_origin(*origin, gsd, gsd))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        count, height, width = values.shape
        with rasterio.open(
            path,
            "w",
            **{"driver": "GTiff", "crs": crs, **profile},
            count=count,
            height=height,
            width=width,
            dtype=values.dtype.name,
        ) as sink:
            sink.write(values)
            if alpha:
                colors = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)[: count - 1]
                sink.colorinterp = [*colors, ColorInterp.alpha]
        return path

    return make


@pytest.fixture(scope="session")
def checkpoint_factory(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFactory:
    """Make tiny untrained checkpoints: ``checkpoint_factory("change", bands=3, classes=2)``.

    The same arguments give the same file; ``more`` goes to the metadata.
    """
    folder = tmp_path_factory.mktemp("checkpoints")
    made: dict[str, Path] = {}

    def make(task: str = "segmentation", *, bands: int = 3, classes: int = 2, **more: Any) -> Path:
        key = repr((task, bands, classes, sorted(more.items())))
        if key not in made:
            made[key] = _save_untrained(
                folder / f"{task}_{len(made)}.safetensors", task, bands, classes, more
            )
        return made[key]

    return make


def _save_untrained(path: Path, task: str, bands: int, classes: int, more: dict[str, Any]) -> Path:
    from rsmamba_models import (
        CheckpointMeta,
        ClassInfo,
        InputSpec,
        Transform,
        create_model,
        save_checkpoint,
    )

    torch.manual_seed(0)
    name = "rsm_cd_nano" if task == "change" else "rsm_ss_nano"
    model = create_model(
        name, in_chans=bands, num_classes=1 if classes == 2 else classes, **SMALLEST
    )
    names = ("red", "green", "blue") if bands == 3 else tuple(f"b{n}" for n in range(bands))
    inputs = ("t1", "t2") if task == "change" else ("image",)
    content: dict[str, Any] = {
        "architecture": model.architecture,
        "arguments": model.arguments,
        "task": task,
        "inputs": tuple(
            InputSpec(name=i, bands=names, transform=Transform.unit8(bands)) for i in inputs
        ),
        "classes": tuple(
            ClassInfo(value=n, name=f"class{n}", color=(40 * n, 0, 0)) for n in range(classes)
        ),
        "output": "sigmoid" if classes == 2 else "softmax",
        "tile": 64,
        "size_multiple": model.size_multiple,
    }
    save_checkpoint(path, model, CheckpointMeta(**{**content, **more}))
    return path
