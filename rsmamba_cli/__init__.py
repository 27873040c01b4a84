"""rsmamba: state-space segmentation and change detection for remote-sensing scenes of any size.

The names in ``__all__`` are the supported Python API, next to those of ``rsmamba_models``. They are
loaded when first used, so that ``import rsmamba_cli`` costs nothing.

Example:
    >>> import rsmamba_cli
    >>> options = rsmamba_cli.PredictOptions(model="buildings.safetensors", overwrite=True)
    >>> result = rsmamba_cli.predict("scene.tif", "mask.tif", options)  # doctest: +SKIP
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rsmamba_cli.errors import (
    CheckpointError,
    DatasetError,
    DeviceError,
    InputError,
    Interrupted,
    OutputError,
    ResumeError,
    RsmambaError,
)
from rsmamba_cli.events import Event, EventHandler, Finished, Progress, Started, Warned

if TYPE_CHECKING:
    from rsmamba_cli.datasets import catalogue, get_dataset, open_split
    from rsmamba_cli.datasets.generator import make_scene
    from rsmamba_cli.demo import run_demo
    from rsmamba_cli.evaluation import calibrate, compare, compare_maps, evaluate, evaluate_map
    from rsmamba_cli.inference import (
        PredictOptions,
        PredictResult,
        change,
        merge,
        plan_summary,
        predict,
        predict_mosaic,
    )
    from rsmamba_cli.inference.predictor import Predictor
    from rsmamba_cli.raster.scene import open_scene
    from rsmamba_cli.training import TrainConfig, load_recipe, train

try:
    __version__ = version("rsmamba")
except PackageNotFoundError:  # a source tree on sys.path that was never installed
    __version__ = "0.1.0+source"

_LAZY = {
    "PredictOptions": "rsmamba_cli.inference",
    "PredictResult": "rsmamba_cli.inference",
    "Predictor": "rsmamba_cli.inference.predictor",
    "TrainConfig": "rsmamba_cli.training",
    "calibrate": "rsmamba_cli.evaluation",
    "catalogue": "rsmamba_cli.datasets",
    "change": "rsmamba_cli.inference",
    "compare": "rsmamba_cli.evaluation",
    "compare_maps": "rsmamba_cli.evaluation",
    "evaluate": "rsmamba_cli.evaluation",
    "evaluate_map": "rsmamba_cli.evaluation",
    "get_dataset": "rsmamba_cli.datasets",
    "load_recipe": "rsmamba_cli.training",
    "make_scene": "rsmamba_cli.datasets.generator",
    "merge": "rsmamba_cli.inference",
    "open_scene": "rsmamba_cli.raster.scene",
    "open_split": "rsmamba_cli.datasets",
    "plan_summary": "rsmamba_cli.inference",
    "predict": "rsmamba_cli.inference",
    "predict_mosaic": "rsmamba_cli.inference",
    "run_demo": "rsmamba_cli.demo",
    "train": "rsmamba_cli.training",
}

__all__ = [
    "CheckpointError",
    "DatasetError",
    "DeviceError",
    "Event",
    "EventHandler",
    "Finished",
    "InputError",
    "Interrupted",
    "OutputError",
    "PredictOptions",
    "PredictResult",
    "Predictor",
    "Progress",
    "ResumeError",
    "RsmambaError",
    "Started",
    "TrainConfig",
    "Warned",
    "__version__",
    "calibrate",
    "catalogue",
    "change",
    "compare",
    "compare_maps",
    "evaluate",
    "evaluate_map",
    "get_dataset",
    "load_recipe",
    "make_scene",
    "merge",
    "open_scene",
    "open_split",
    "plan_summary",
    "predict",
    "predict_mosaic",
    "run_demo",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds ``name`` when it is first asked for (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the API whether or not it has been loaded."""
    return sorted({*globals(), *__all__})
