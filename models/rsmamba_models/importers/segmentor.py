"""Whole mmsegmentation models: a backbone, a decode head, perhaps an auxiliary head."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from rsmamba_models.errors import ArgumentsError, ImportFailedError
from rsmamba_models.importers.mmseg import official_head_key, read_head
from rsmamba_models.importers.state import check_config, load_renamed
from rsmamba_models.registry import create_model

_M = TypeVar("_M", bound=nn.Module)
_PARTS = {"encoder": "backbone", "decoder": "decode_head", "auxiliary": "auxiliary_head"}
_MODEL_IDLE = ("type", "data_preprocessor", "pretrained", "train_cfg", "test_cfg", "init_cfg")
# Terms of parity manifests that describe the case, not the network.
_NOTES = ("component", "official_config", "output_subsample", "full_grads")
# Terms of the heads that may stand beside the backbone's.
_OF_BOTH_HEADS = ("num_classes", "dropout_ratio", "align_corners")
_OF_DECODER = ("pool_scales",)


@dataclass(frozen=True)
class Backbone:
    """What a family has to say about its official backbone.

    Attributes:
        name: The family, for messages.
        encoder: Its name in the registry; the model is ``ENCODER_DECODER``.
        arguments: From the backbone's keys (below ``backbone.``) and terms to the encoder's
            arguments, ``in_chans`` included. Takes ``batch_norm_eps`` and ``layer_norm_eps``.
        widths: From these arguments to the widths of the maps.
        official_key: The official name of a parameter or buffer of the encoder.
        notes: Terms that describe a case, not the network.
        convert: Given our name and the official tensor, the tensor as we keep it.
    """

    name: str
    encoder: str
    arguments: Callable[[Mapping[str, Tensor], Mapping[str, Any]], dict[str, Any]]
    widths: Callable[[Mapping[str, Any]], Sequence[int]]
    official_key: Callable[[str], str]
    notes: tuple[str, ...] = ()
    convert: Callable[[str, Tensor], Tensor] = lambda key, tensor: tensor


def build_segmentor(
    state: Mapping[str, Tensor], config: Mapping[str, Any], backbone: Backbone
) -> nn.Module:
    """A segmenter from an official state dict.

    Args:
        state: Official keys to tensors.
        config: ``layer_norm_eps``, ``batch_norm_eps``; ``mode="train"`` for a model in training
            mode; ``backbone``, ``decode_head`` and ``auxiliary_head``, or ``model`` that holds
            them: the terms of the official configuration. The backbone's, and the commonest of
            the heads', may stand alone too. Whatever keys and shapes tell has to agree.
        backbone: The family.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    parts = {name: below(state, f"{official}.") for name, official in _PARTS.items()}
    if not parts["encoder"] or not parts["decoder"]:
        raise ImportFailedError(
            f"this is no {backbone.name} segmenter: it has no keys backbone.* or no keys "
            f"decode_head.*; for parts of one there are load_backbone and load_block"
        )
    config, notes = take_notes(config, backbone.notes)
    config, sections = take_sections(config, backbone.name)
    common = _take(config, _OF_BOTH_HEADS)
    of_decoder = {**common, **_take(config, _OF_DECODER)}
    epsilon = {k: v for k, v in config.items() if k == "batch_norm_eps"}
    encoder = backbone.arguments(parts["encoder"], {**sections["encoder"], **config})
    widths = list(backbone.widths(encoder))
    decoder, num_classes, head = read_head(
        parts["decoder"], widths, {**sections["decoder"], **of_decoder}
    )
    auxiliary = None
    if parts["auxiliary"]:
        kind, classes, auxiliary = read_head(
            parts["auxiliary"], widths, {**sections["auxiliary"], **common}
        )
        if kind != "fcn" or classes != num_classes:
            raise ImportFailedError(f"the auxiliary head is no FCNHead of {num_classes} classes")
        auxiliary |= epsilon
    elif sections["auxiliary"]:
        raise ImportFailedError(
            "there is no auxiliary head in this state dict: no auxiliary_head.*"
        )
    try:
        model = create_model(
            f"{backbone.encoder}_{decoder}",
            encoder.pop("in_chans"),
            num_classes,
            encoder_arguments=encoder,
            decoder_arguments={**head, **epsilon},
            auxiliary=auxiliary,
        )
    except ArgumentsError as error:
        raise ImportFailedError(f"this state dict describes no {backbone.name}: {error}") from error

    def official(key: str) -> str:
        return official_key(key, decoder, backbone.official_key)

    load_renamed(model, state, official, backbone.name, backbone.convert)
    return noted(model, **notes)


def official_key(key: str, decoder: str, encoder_key: Callable[[str], str]) -> str:
    """The official name of a parameter or buffer of a segmenter.

    Args:
        key: Our name.
        decoder: The decoder's name in the registry.
        encoder_key: The same for the encoder alone.
    """
    part, inner = key.split(".", 1)
    if part == "encoder":
        return f"backbone.{encoder_key(inner)}"
    return f"{_PARTS[part]}.{official_head_key(decoder if part == 'decoder' else 'fcn', inner)}"


def take_sections(
    config: Mapping[str, Any], what: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Part a configuration: what stands alone, and the sections by our names of the parts.

    Raises:
        ImportFailedError: ``model`` holds something else too.
    """
    alone = dict(config)
    model = dict(alone.pop("model", None) or {})
    sections = {
        name: {**(model.pop(official, None) or {}), **(alone.pop(official, None) or {})}
        for name, official in _PARTS.items()
    }
    unknown = {name: value for name, value in model.items() if name not in _MODEL_IDLE}
    check_config(unknown, {}, _PARTS.values(), what)
    return alone, sections


def take_notes(
    config: Mapping[str, Any], others: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part a configuration: without its notes, and the two of them that ``noted`` takes."""
    rest = {k: v for k, v in config.items() if k not in (*_NOTES, *others)}
    return rest, {"mode": rest.pop("mode", "eval"), "parameters": rest.pop("parameters", None)}


def noted(module: _M, mode: str, parameters: int | None) -> _M:
    """The module in its mode, if it has as many parameters as was said.

    Raises:
        ImportFailedError: It has not, or there is no such mode.
    """
    number = sum(p.numel() for p in module.parameters())
    if parameters not in (None, number):
        raise ImportFailedError(f"the state dict has {number} parameters, not {parameters}")
    if mode not in ("eval", "train"):
        raise ImportFailedError(f"mode is 'eval' or 'train', not {mode!r}")
    return module.train(mode == "train")


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose keys begin so, without that beginning."""
    return {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}


def _take(config: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: config.pop(name) for name in names if name in config}
