"""Every architecture by name."""

import fnmatch
import importlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rsmamba_models.errors import ArgumentsError, UnknownModelError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Entry:
    """One registered architecture.

    Attributes:
        name: What ``create_model`` takes.
        family: The paper's models it belongs to.
        task: ``segmentation``, ``change`` or ``multimodal``.
        module: Module of ``rsmamba_models`` that holds the class.
        class_name: The class.
        preset: Constructor arguments that make this size.
        paper: Where it is from.
    """

    name: str
    family: str
    task: str
    module: str
    class_name: str
    preset: dict[str, Any] = field(default_factory=dict)
    paper: str = ""


_RS_MAMBA_SIZES: dict[str, dict[str, Any]] = {
    # This project's own, for laptops: a float16 checkpoint below 3 MB.
    "nano": {
        "dims": (24, 48, 96, 192),
        "depths": (1, 1, 2, 1),
        "ssm_d_state": 4,
        "ssm_ratio": 1.0,
        "drop_path_rate": 0.0,
    },
    "tiny": {},
    "small": {"depths": (2, 2, 27, 2)},
    "base": {"depths": (2, 2, 27, 2), "dims": (128, 256, 512, 1024)},
}
# The official classes' own defaults of stochastic depth.
_RS_MAMBA_TASKS: dict[str, tuple[str, str, float]] = {
    "ss": ("segmentation", "RSMambaSegmenter", 0.1),
    "cd": ("change", "RSMambaChangeDetector", 0.2),
}

_ENTRIES = {
    entry.name: entry
    for short, (task, class_name, drop_path) in _RS_MAMBA_TASKS.items()
    for size, preset in _RS_MAMBA_SIZES.items()
    for entry in [
        Entry(
            name=f"rsm_{short}_{size}",
            family="rs_mamba",
            task=task,
            module="rs_mamba",
            class_name=class_name,
            preset={"drop_path_rate": drop_path, **preset},
            paper="RS-Mamba, arXiv 2404.02668",
        )
    ]
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered architectures.

    Args:
        pattern: Shell-style pattern (``rsm_cd_*``), or a part of the names (``nano``).
    """
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    return [name for name in _ENTRIES if fnmatch.fnmatchcase(name, pattern)]


def create_model(
    name: str, in_chans: int = 3, num_classes: int = 1, **overrides: Any
) -> "nn.Module":
    """Build an architecture with fresh weights.

    Args:
        name: A name from ``list_models``.
        in_chans: Bands of an image.
        num_classes: Channels of the logits; 1 is a sigmoid, 2 or more a softmax.
        **overrides: Further constructor arguments of the family.

    Raises:
        UnknownModelError: No such name.
        ArgumentsError: Arguments that the architecture does not take.
    """
    entry = get_entry(name)
    cls = getattr(importlib.import_module(f"rsmamba_models.{entry.module}"), entry.class_name)
    arguments = {**entry.preset, **overrides, "in_chans": in_chans, "num_classes": num_classes}
    try:
        model: nn.Module = cls(architecture=name, **arguments)
    except TypeError as error:
        raise ArgumentsError(f"{name} cannot be built from these arguments: {error}") from error
    return model


def model_info(name: str) -> dict[str, Any]:
    """What an architecture is, without allocating it.

    Returns:
        The fields of ``Entry``, ``arguments`` (all of them) and ``parameters`` (their number, with
        3 bands and one class).

    Raises:
        UnknownModelError: No such name.
    """
    import torch

    entry = get_entry(name)
    with torch.device("meta"):
        model = create_model(name)
    parameters = sum(p.numel() for p in model.parameters())
    return {**asdict(entry), "arguments": model.arguments, "parameters": parameters}


def get_entry(name: str) -> Entry:
    """The registry's line of a name.

    Raises:
        UnknownModelError: No such name.
    """
    if name not in _ENTRIES:
        import difflib

        near = difflib.get_close_matches(str(name), _ENTRIES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(_ENTRIES)}"
        raise UnknownModelError(f"no architecture is called {name!r}; {hint}")
    return _ENTRIES[name]
