"""Which parameters learn, how fast, and with how much decay."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from rsmamba_cli.errors import InputError
from rsmamba_cli.training.recipe import OptimiserPart

_SCAN = ("A_log", "D", "dt_bias")
"""Parameters of a scan, for which 0 is no neutral value."""


def make_optimiser(model: nn.Module, tuning: OptimiserPart) -> torch.optim.Optimizer:
    """AdamW or SGD over `parameter_groups`.

    Raises:
        InputError: see `parameter_groups`.
    """
    groups = parameter_groups(model, tuning)
    if tuning.kind == "sgd":
        return torch.optim.SGD(
            groups, lr=tuning.lr, momentum=tuning.momentum, nesterov=tuning.nesterov
        )
    return torch.optim.AdamW(groups, lr=tuning.lr, betas=tuning.betas)


def parameter_groups(model: nn.Module, tuning: OptimiserPart) -> list[dict[str, Any]]:
    """Sort the parameters that learn by weight decay and learning rate.

    Args:
        model: whose parameters; those that do not require a gradient are left out.
        tuning: ``no_decay``, ``lr_factors`` and ``layer_decay`` decide.

    Returns:
        Groups with "params", "weight_decay" and "lr_factor", by which the scheduled rate is
        multiplied.

    Raises:
        InputError: nothing learns, a pattern of ``lr_factors`` matches nothing, or there is no
            encoder whose layers could be told apart.
    """
    depth = {} if tuning.layer_decay is None else encoder_depths(model)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for pattern in tuning.lr_factors:
        _require(model, pattern, "optimiser.lr_factors")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        chosen = (f for pattern, f in tuning.lr_factors.items() if matches(name, [pattern]))
        factor = next(chosen, 1.0) * (tuning.layer_decay or 1.0) ** depth.get(name, 0)
        decays = not _spared(name, parameter, tuning.no_decay)
        groups.setdefault((decays, factor), []).append(parameter)
    if not groups:
        raise InputError("optimiser.freeze leaves nothing to learn; freeze less.")
    return [
        {
            "params": parameters,
            "weight_decay": tuning.weight_decay if decays else 0.0,
            "lr_factor": factor,
        }
        for (decays, factor), parameters in groups.items()
    ]


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits a parameter's dotted name, or that of a module it is in."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)


def _spared(name: str, parameter: nn.Parameter, patterns: Sequence[str] | None) -> bool:
    """Whether a parameter does not decay."""
    if patterns is not None:
        return matches(name, patterns)
    return parameter.ndim < 2 or name.rsplit(".", 1)[-1] in _SCAN


def encoder_depths(model: nn.Module) -> dict[str, int]:
    """How far below the decoder each parameter of ``model.encoder`` is, 1 for its last layer.

    Layers are those of `layers_of`; what is in none of them (stems, norms) is one layer a module.
    Layers count in the order in which they were made.

    Raises:
        InputError: the model has no encoder.
    """
    encoder = encoder_of(model, "optimiser.layer_decay")
    names = [name for name, _ in layers_of(encoder)]
    depths: dict[str, int] = {}
    place: dict[str, int] = {}
    for name, _ in encoder.named_parameters():
        layer = next((n for n in names if name.startswith(f"{n}.")), name.rpartition(".")[0])
        place[f"encoder.{name}"] = depths.setdefault(layer, len(depths))
    return {name: len(depths) - index for name, index in place.items()}


def layers_of(encoder: nn.Module) -> list[tuple[str, nn.Module]]:
    """The blocks that an encoder repeats, with their dotted names.

    These are the entries of its lists, a ``ModuleList`` or a ``Sequential`` of composed modules;
    where an entry holds such lists itself (a stage), the entries in there.
    """
    lists = {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, nn.ModuleList)
        or (isinstance(module, nn.Sequential) and all(any(m.children()) for m in module))
    }
    entries = [
        (f"{name}.{index}" if name else index, entry)
        for name, group in lists.items()
        for index, entry in group.named_children()
    ]
    return [
        (name, entry)
        for name, entry in entries
        if name not in lists and not any(other.startswith(f"{name}.") for other in lists)
    ]


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Stop parameters from learning.

    Args:
        model: changed in place.
        patterns: names of modules (``encoder``) or shell-style patterns of parameters.

    Returns:
        The modules that are frozen as a whole. They are to be kept in eval mode, so that their
        statistics stay and no path is dropped.

    Raises:
        InputError: a pattern matches nothing.
    """
    for pattern in patterns:
        _require(model, pattern, "optimiser.freeze")
    for name, parameter in model.named_parameters():
        if matches(name, patterns):
            parameter.requires_grad_(False)
    if not patterns:
        return []
    return [
        module
        for module in model.modules()
        if any(True for _ in module.parameters())
        and not any(p.requires_grad for p in module.parameters())
    ]


def _require(model: nn.Module, pattern: str, setting: str) -> None:
    """Refuse a pattern that matches no parameter.

    Raises:
        InputError: naming the parts of the model.
    """
    if not any(matches(name, [pattern]) for name, _ in model.named_parameters()):
        parts = ", ".join(name for name, _ in model.named_children())
        raise InputError(
            f"{setting}: {pattern} matches no parameter of the model; its parts are {parts}."
        )


def encoder_of(model: nn.Module, setting: str) -> nn.Module:
    """The encoder of a model.

    Raises:
        InputError: it has none.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise InputError(f"{setting} needs a model with an encoder, which this one has not.")
    return encoder
