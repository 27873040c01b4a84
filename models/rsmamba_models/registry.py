"""Every architecture, encoder and decoder by name."""

import difflib
import fnmatch
import importlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from rsmamba_models.errors import ArgumentsError, UnknownModelError
from rsmamba_models.zoo import (
    DecoderEntry,
    EncoderEntry,
    Entry,
    mamba_diffusion,
    rs_mamba,
    samba,
    seg_lstm,
    segman,
)
from rsmamba_models.zoo.decoders import DECODERS
from rsmamba_models.zoo.entry import classifier_entry, segmenter_entry

if TYPE_CHECKING:
    from torch import nn

_FAMILIES = (rs_mamba, samba, seg_lstm, segman, mamba_diffusion)
_ENTRIES: dict[str, Entry] = {e.name: e for family in _FAMILIES for e in family.ENTRIES}
_ENCODERS: dict[str, EncoderEntry] = {e.name: e for family in _FAMILIES for e in family.ENCODERS}
_DECODERS: dict[str, DecoderEntry] = {e.name: e for e in DECODERS}

_T = TypeVar("_T")


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered architectures.

    Beside these, every ``ENCODER_DECODER`` made of a name of ``list_encoders`` and one of
    ``list_decoders`` is an architecture (``rs_mamba_tiny_unet``), and so is every
    ``ENCODER_classifier``.

    Args:
        pattern: Shell-style pattern (``rsm_cd_*``), or a part of the names (``nano``).
    """
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    return [name for name in _ENTRIES if fnmatch.fnmatchcase(name, pattern)]


def list_encoders() -> list[str]:
    """Names of the pyramid encoders."""
    return list(_ENCODERS)


def list_decoders() -> list[str]:
    """Names of the decoders."""
    return list(_DECODERS)


def create_model(
    name: str,
    in_chans: Any = 3,
    num_classes: int = 1,
    *,
    task: str | None = None,
    **overrides: Any,
) -> "nn.Module":
    """Build an architecture with fresh weights.

    Args:
        name: A name from ``list_models``, ``ENCODER_DECODER`` or ``ENCODER_classifier``.
        in_chans: Bands of an image (of each image, where a model takes different ones).
        num_classes: Channels of the logits; 1 is a sigmoid, 2 or more a softmax.
        task: One of the architecture's tasks; None is its own.
        **overrides: Further constructor arguments of the family.

    Raises:
        UnknownModelError: No such name.
        ArgumentsError: Arguments that the architecture does not take.
    """
    entry = get_entry(name)
    builder = entry.builders.get(entry.task if task is None else task)
    if builder is None:
        raise ArgumentsError(f"{name} is for {' or '.join(entry.tasks)}, not for {task}")
    module, class_name = builder
    cls = getattr(importlib.import_module(f"rsmamba_models.{module}"), class_name)
    arguments = {**entry.preset, **overrides, "in_chans": in_chans, "num_classes": num_classes}
    try:
        model: nn.Module = cls(architecture=name, **arguments)
    except TypeError as error:
        raise ArgumentsError(f"{name} cannot be built from these arguments: {error}") from error
    if model.task != entry.task:
        model.arguments["task"] = str(model.task)  # type: ignore[index,operator,assignment]
    return model


def model_info(name: str) -> dict[str, Any]:
    """What an architecture is, without allocating it.

    Returns:
        The fields of ``Entry``, ``tasks``, ``arguments`` (all of them) and ``parameters`` (their
        number, with the bands of ``arguments`` and one class).

    Raises:
        UnknownModelError: No such name.
    """
    import torch

    entry = get_entry(name)
    with torch.device("meta"):
        model = create_model(name)
    parameters = sum(p.numel() for p in model.parameters())
    return {
        **asdict(entry),
        "tasks": entry.tasks,
        "arguments": model.arguments,
        "parameters": parameters,
    }


def get_entry(name: str) -> Entry:
    """The registry's line of a name.

    Raises:
        UnknownModelError: No such name.
    """
    return _composed(name) or _find(name, _ENTRIES, "architecture")


def get_encoder(name: str) -> EncoderEntry:
    """The line of an encoder.

    Raises:
        UnknownModelError: No such name.
    """
    return _find(name, _ENCODERS, "encoder")


def get_decoder(name: str) -> DecoderEntry:
    """The line of a decoder.

    Raises:
        UnknownModelError: No such name.
    """
    return _find(name, _DECODERS, "decoder")


def _composed(name: str) -> Entry | None:
    """The line of an ``ENCODER_DECODER`` or ``ENCODER_classifier`` not registered by itself."""
    if name in _ENTRIES:
        return None
    for encoder in _ENCODERS.values():
        if name == f"{encoder.name}_classifier":
            return classifier_entry(encoder)
        decoder = _DECODERS.get(str(name).removeprefix(f"{encoder.name}_"))
        if decoder and name == f"{encoder.name}_{decoder.name}":
            preset = {"encoder": encoder.name, "decoder": decoder.name}
            return segmenter_entry(name, encoder.family, preset, decoder.paper)
    return None


def _find(name: str, table: Mapping[str, _T], kind: str) -> _T:
    if name not in table:
        near = difflib.get_close_matches(str(name), table, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(table)}"
        raise UnknownModelError(f"no {kind} is called {name!r}; {hint}")
    return table[name]
