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

FAMILIES = ("rs_mamba", "samba", "seg_lstm", "segman", "mamba_diffusion")


def import_official(
    state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str], family: str, **kwargs: Any
) -> "nn.Module":
    """Build a model from an official state dict.

    Args:
        state_dict_or_path: Official keys to tensors or numpy arrays, bare or under the usual
            wrappers (``state_dict``, ``net``, ``model``, ``module.`` prefixes), or a file that
            holds them (``.pth``, ``.pt``, ``.safetensors``); no code in the file is ever run.
        family: A name of ``FAMILIES``.
        **kwargs: What keys and shapes cannot tell, in the official configuration's terms (such as
            ``layer_norm_eps``); what they can tell may be given too and must then agree.

    Returns:
        The model in eval mode, float32, on the CPU.

    Raises:
        ImportFailedError: Unknown family or argument, keys missing, left over, or of another
            shape, or a file that cannot be read safely.
        FileNotFoundError: No such file.
    """
    from rsmamba_models.importers.state import read_state

    name = str(family).lower().replace("-", "_")
    if name not in FAMILIES:
        raise ImportFailedError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    importer = importlib.import_module(f"rsmamba_models.importers.{name}")
    model: nn.Module = importer.build(read_state(state_dict_or_path), **kwargs)
    return model
