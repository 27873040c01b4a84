"""Samba's official keys (github.com/zhuqinfeng1999/Samba, 229687b).

Widths, depths, ratios, states, taps, ranks, bands, classes and the auxiliary head are read off keys
and shapes; epsilons, rates and the scales of the pyramid pooling cannot be.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rsmamba_models.errors import ArgumentsError, ImportFailedError
from rsmamba_models.importers.segmentor import (
    Backbone,
    below,
    build_segmentor,
    noted,
    take_notes,
    take_sections,
)
from rsmamba_models.importers.state import check_config, load_renamed, read_state, shape_of
from rsmamba_models.samba import SambaBlock, SambaEncoder

_NAME = "Samba"
# Ours -> official, all that match, on a key within a block.
_BLOCK_RULES = (
    (r"^norm1\.", "attn.norm."),
    (r"^mixer\.conv\.", "mixer.conv1d."),
    (r"\.scan\.dt_bias$", ".dt_proj.bias"),
    (r"\.scan\.(x_proj|dt_proj)$", r".\1.weight"),
    (r"\.scan\.", "."),
    (r"^mixer\.", "attn.mamba."),
    (r"^mlp\.dwconv\.", "mlp.dwconv.dwconv."),
)
_FREE = ("drop_path_rate", "layer_norm_eps", "batch_norm_eps")
# Terms that change nothing in the official code either, or only mix tokens of other images in.
_IDLE = ("type", "num_classes", "sr_ratios", "token_label", "init_cfg", "pretrained")
_NOTES = ("mixer", "H", "W")


def build(state: dict[str, Tensor], **config: Any) -> nn.Module:
    """A Samba segmenter from an official state dict, with its auxiliary head if there is one.

    Args:
        state: Official keys to tensors.
        **config: ``layer_norm_eps``, ``batch_norm_eps``, ``drop_path_rate`` (0 by default),
            ``pool_scales`` and ``dropout_ratio`` of the decoder; ``mode="train"`` for a model in
            training mode. Further terms of the official configuration, alone or in its sections
            (``backbone``, ``decode_head``, ``auxiliary_head``, or ``model`` that holds them), have
            to agree with keys and shapes.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    return build_segmentor(state, config, _BACKBONE)


def load_backbone(state: Mapping[str, Any], **config: Any) -> SambaEncoder:
    """The official backbone (``Samba``), keys bare or under ``backbone.`` (then the rest is left).

    Args:
        state: Official keys to tensors or arrays.
        **config: As for ``build``, the backbone's terms.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    state = read_state(state)
    state = below(state, "backbone.") or state
    config, notes = take_notes(config, _NOTES)
    config, sections = take_sections(config, _NAME)
    arguments = _arguments(state, {**sections["encoder"], **config})
    try:
        encoder = SambaEncoder(**arguments)
    except ArgumentsError as error:
        raise ImportFailedError(f"the state dict is no Samba backbone: {error}") from error
    load_renamed(encoder, state, official_key, "Samba's backbone", _convert)
    return noted(encoder, **notes)


def load_block(
    state: Mapping[str, Any], *, layer_norm_eps: float = 1e-5, **config: Any
) -> SambaBlock:
    """One official block (``Block``): keys ``attn.*``, ``norm2.*``, ``mlp.*``.

    Args:
        state: Official keys to tensors or arrays.
        layer_norm_eps: Epsilon of its layer norms.
        **config: What the shapes must agree with: ``dim`` and ``mlp_ratio``, alone or as ``args``.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    state = read_state(state)
    config, notes = take_notes(config, (*_NOTES, "batch_norm_eps"))
    config = {**(config.pop("args", None) or {}), **config}
    found = _block_arguments(state, "")
    known = {"dim": (found["channels"],)} | {
        name: (found[name],) for name in ("mlp_ratio", "d_state", "d_conv", "expand", "dt_rank")
    }
    check_config(config, known, ("layer_norm_eps",), _NAME)
    block = SambaBlock(**found, eps=layer_norm_eps)
    load_renamed(block, state, official_block_key, "Samba's block", _convert)
    return noted(block, **notes)


def official_key(key: str) -> str:
    """The official name, within the backbone, of a parameter or buffer of our encoder."""
    where, index, *rest = key.split(".")
    stage = int(index) + 1
    if where == "norms":
        return f"norm{stage}.{rest[0]}"
    if where == "stages":
        return f"block{stage}.{rest[0]}.{official_block_key('.'.join(rest[1:]))}"
    if rest[0] == "convs":  # the stem's: conv, norm, act, conv, norm, act, ...
        return f"patch_embed1.conv.{3 * int(rest[1]) + (rest[2] == 'norm')}.{rest[3]}"
    layer, leaf = rest[-2:]
    return f"patch_embed{stage}.{'proj' if layer == 'conv' else 'norm'}.{leaf}"


def official_block_key(key: str) -> str:
    """The official name, within its block, of a parameter of our block."""
    for pattern, replacement in _BLOCK_RULES:
        key = re.sub(pattern, replacement, key)
    return key


def _convert(key: str, tensor: Tensor) -> Tensor:
    """Our scans have an axis for their directions, the official one has a single direction."""
    return tensor[None] if ".scan." in key else tensor


def _arguments(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``SambaEncoder`` from the backbone's keys, shapes and terms."""
    hidden, in_chans = shape_of(state, "patch_embed1.conv.0.weight", 4, _NAME)[:2]
    found = {(int(m[1]), int(m[2])) for k in state if (m := re.match(r"block(\d+)\.(\d+)\.", k))}
    stages = max((stage for stage, _ in found), default=0)
    depths = [sum(stage == s for stage, _ in found) for s in range(1, stages + 1)]
    firsts = [_block_arguments(state, f"block{s}.0.") for s in range(1, stages + 1)]
    dims = [first["channels"] for first in firsts]
    ranks = [first["dt_rank"] for first in firsts]
    rank: int | str = "auto"
    if ranks != [math.ceil(c / 16) for c in dims]:
        if len(set(ranks)) > 1:
            raise ImportFailedError(f"dt ranks {ranks} follow no rule of the architecture")
        rank = ranks[0]
    arguments = {
        "in_chans": in_chans,
        "dims": dims,
        "depths": depths,
        "mlp_ratios": [first["mlp_ratio"] for first in firsts],
        "stem_channels": hidden,
        **{name: firsts[0][name] for name in ("d_state", "d_conv", "expand") if firsts},
        "dt_rank": rank,
    }
    config = {name: value for name, value in config.items() if name not in _IDLE}
    free = {name: config.pop(name) for name in _FREE if name in config}
    known = {name: (value,) for name, value in arguments.items()}
    known |= {
        "embed_dims": known.pop("dims"),
        "stem_hidden_dim": known.pop("stem_channels"),
        "num_stages": (stages,),
    }
    check_config(config, known, _FREE, _NAME)
    return {**arguments, **free}


def _block_arguments(state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Arguments of ``SambaBlock`` from the shapes of a block's tensors."""
    mixer = f"{prefix}attn.mamba."
    channels = shape_of(state, f"{prefix}attn.norm.weight", 1, _NAME)[0]
    inner, d_state = shape_of(state, f"{mixer}A_log", 2, _NAME)
    return {
        "channels": channels,
        "mlp_ratio": shape_of(state, f"{prefix}mlp.fc1.weight", 2, _NAME)[0] / channels,
        "d_state": d_state,
        "d_conv": shape_of(state, f"{mixer}conv1d.weight", 3, _NAME)[2],
        "expand": inner / channels,
        "dt_rank": shape_of(state, f"{mixer}dt_proj.weight", 2, _NAME)[1],
    }


_BACKBONE = Backbone(
    name=_NAME,
    encoder="samba",
    arguments=_arguments,
    widths=lambda arguments: arguments["dims"],
    official_key=official_key,
    notes=_NOTES,
    convert=_convert,
)
