"""Prediction: scenes in, maps out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsmamba_cli.inference.api import change, merge, plan_summary, predict, predict_mosaic
    from rsmamba_cli.inference.options import PredictOptions, PredictResult

_HOMES = {
    "PredictOptions": "options",
    "PredictResult": "options",
    "change": "api",
    "merge": "api",
    "plan_summary": "api",
    "predict": "api",
    "predict_mosaic": "api",
}

__all__ = [
    "PredictOptions",
    "PredictResult",
    "change",
    "merge",
    "plan_summary",
    "predict",
    "predict_mosaic",
]


def __getattr__(name: str) -> Any:
    """Load the API on first use: options alone need neither torch nor GDAL."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
