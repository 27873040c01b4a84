"""State-space models for remote sensing: pure PyTorch, knowing nothing of files or maps."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsmamba_models.checkpoint import load_checkpoint, read_meta, save_checkpoint
    from rsmamba_models.checkpoint_meta import CheckpointMeta, ClassInfo, InputSpec, Transform
    from rsmamba_models.errors import (
        ArgumentsError,
        BackendError,
        CheckpointFormatError,
        ImportFailedError,
        ModelsError,
        UnknownModelError,
    )
    from rsmamba_models.importers import import_official
    from rsmamba_models.registry import (
        create_model,
        list_decoders,
        list_encoders,
        list_models,
        model_info,
    )

_HOMES = {
    "load_checkpoint": "checkpoint",
    "read_meta": "checkpoint",
    "save_checkpoint": "checkpoint",
    "CheckpointMeta": "checkpoint_meta",
    "ClassInfo": "checkpoint_meta",
    "InputSpec": "checkpoint_meta",
    "Transform": "checkpoint_meta",
    "ArgumentsError": "errors",
    "BackendError": "errors",
    "CheckpointFormatError": "errors",
    "ImportFailedError": "errors",
    "ModelsError": "errors",
    "UnknownModelError": "errors",
    "import_official": "importers",
    "create_model": "registry",
    "list_decoders": "registry",
    "list_encoders": "registry",
    "list_models": "registry",
    "model_info": "registry",
}

__all__ = [
    "ArgumentsError",
    "BackendError",
    "CheckpointFormatError",
    "CheckpointMeta",
    "ClassInfo",
    "ImportFailedError",
    "InputSpec",
    "ModelsError",
    "Transform",
    "UnknownModelError",
    "create_model",
    "import_official",
    "list_decoders",
    "list_encoders",
    "list_models",
    "load_checkpoint",
    "model_info",
    "read_meta",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    # On first use: importing the package alone must not import torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
