"""Official checkpoints of the published models, by their own key names.

A module a family: it reads the architecture off key names and shapes, renames the keys, and
refuses whatever does not fit.
"""

import importlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rsmamba_models.errors import ImportFailedError

if TYPE_CHECKING:
    from torch import nn

    from rsmamba_models.checkpoint_meta import InputSpec

FAMILIES = ("rs_mamba", "samba", "seg_lstm", "segman", "mamba_diffusion")


def import_official(
    state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str],
    family: str,
    *,
    weights: str = "model",
    **kwargs: Any,
) -> "nn.Module":
    """Build a model from an official state dict.

    Args:
        state_dict_or_path: Official keys to tensors or numpy arrays, bare or under the usual
            wrappers (``state_dict``, ``net``, ``model``, ``module.`` prefixes), or a file that
            holds them (``.pth``, ``.pt``, ``.safetensors``); no code in the file is ever run.
        family: A name of ``FAMILIES``.
        weights: ``model``, what the official code would load; or ``ema``, the moving averages that
            some files hold as well (``state_dict_ema``, ``model_ema``, ``ema_state_dict``).
        **kwargs: What keys and shapes cannot tell, in the official configuration's terms (such as
            ``layer_norm_eps``); what they can tell may be given too and must then agree.

    Returns:
        The model in eval mode, float32, on the CPU.

    Raises:
        ImportFailedError: Unknown family or argument, keys missing, left over, or of another
            shape, a file that cannot be read safely, or one without averages.
        FileNotFoundError: No such file.
    """
    from rsmamba_models.importers.state import read_state

    importer = _importer(family)
    model: nn.Module = importer.build(read_state(state_dict_or_path, weights), **kwargs)
    return model


def official_inputs(model: "nn.Module", family: str) -> "tuple[InputSpec, ...] | None":
    """The images that the official code feeds to a model of so many bands, and how.

    Args:
        model: What ``import_official`` returned.
        family: Its family.

    Returns:
        One an image, with the official band order, mean and divisor; None where the official code
        has none for these bands.

    Raises:
        ImportFailedError: Unknown family.
    """
    find = getattr(_importer(family), "official_inputs", None)
    found: tuple[InputSpec, ...] | None = None if find is None else find(model)
    return found


def _importer(family: str) -> Any:
    name = str(family).lower().replace("-", "_")
    if name not in FAMILIES:
        raise ImportFailedError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    return importlib.import_module(f"rsmamba_models.importers.{name}")
