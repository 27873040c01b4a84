"""Seg-LSTM's official keys (github.com/zhuqinfeng1999/Seg-LSTM, 061cc6b).

Widths, depths, patch, positional grid, bands, classes and the decoder are read off keys and shapes;
epsilons, rates, and the decoders' levels, scales and dilations cannot be.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
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
from rsmamba_models.seg_lstm import MLSTMCell, ViLBlock, VisionLSTM

_NAME = "Seg-LSTM"
# Ours -> official, all that match, on a key within the encoder, a block or a cell.
_RULES = (
    (r"^patch_embed\.", "patch_embed.proj."),
    (r"^pos_embed\.weight$", "pos_embed.embed"),
    (r"\blayer\.(q|k|v)\.", r"layer.\1_proj."),
    (r"\blayer\.conv\.", "layer.conv1d.conv."),
    (r"\blayer\.skip$", "layer.learnable_skip"),
    (r"\blayer\.cell\.norm\.", "layer.mlstm_cell.outnorm."),
    (r"\blayer\.cell\.gates\.input\.", "layer.mlstm_cell.igate."),
    (r"\blayer\.cell\.gates\.forget\.", "layer.mlstm_cell.fgate."),
)
_ANN_KEYS = "decode_head.context.stages.0.key_project."
_DIRECTIONS = ("rowwise_from_top_left", "rowwise_from_bot_right")
_ENCODER_FREE = ("drop_path_rate", "drop_path_decay", "layer_norm_eps")
# Terms that change nothing in the official code either, or nothing in the network.
_ENCODER_IDLE = (
    *("type", "depth", "output_shape", "mode", "pooling", "legacy_norm", "init_cfg"),
    "batch_norm_eps",
)
_NOTES = ("cell", "input_scale")


def build(state: dict[str, Tensor], **config: Any) -> nn.Module:
    """A Seg-LSTM segmenter from an official state dict, with whichever head it has.

    Args:
        state: Official keys to tensors.
        **config: ``layer_norm_eps``, ``batch_norm_eps``; ``mode="train"`` for a model in training
            mode; ``backbone``, ``decode_head`` and ``auxiliary_head``, or ``model`` that holds
            them: the terms of the official configuration. The backbone's may stand alone too
            (``drop_path_rate``, 0 by default). Whatever keys and shapes tell has to agree.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    if any(key.startswith(_ANN_KEYS) for key in state):
        state = _without_shared_keys(state)
    return build_segmentor(state, config, _BACKBONE)


def load_backbone(state: Mapping[str, Any], **config: Any) -> VisionLSTM:
    """The official backbone (``SegLSTM``), keys bare or under ``backbone.``.

    A classification checkpoint of Vision-LSTM's first version (``blocks.{j}.*``) does too: its
    blocks are cut into groups, its final norm and its head are left out.

    Args:
        state: Official keys to tensors or arrays.
        **config: The backbone's configuration, bare or as ``backbone``: ``layer_norm_eps``,
            ``drop_path_rate``, ``drop_path_decay``, and what the shapes must agree with (``dim``,
            ``depth1``, ...). ``depth1`` cuts a classification checkpoint, (6, 6, 6, 6) by default.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    state = read_state(state)
    state = below(state, "backbone.") or state
    config, notes = take_notes(config, _NOTES)
    config, sections = take_sections(config, _NAME)
    config = {**sections["encoder"], **config}
    if any(re.match(r"blocks\.\d+\.", key) for key in state):
        state = _regrouped(state, config.get("depth1", (6, 6, 6, 6)))
    arguments = _encoder_arguments(state, config)
    try:
        encoder = VisionLSTM(**arguments)
    except ArgumentsError as error:
        raise ImportFailedError(f"the state dict is no Vision-LSTM's: {error}") from error
    load_renamed(encoder, state, official_part_key, f"{_NAME}'s backbone", _convert)
    return noted(encoder, **notes)


def load_block(
    state: Mapping[str, Any],
    *,
    direction: str = _DIRECTIONS[0],
    layer_norm_eps: float = 1e-5,
    **config: Any,
) -> ViLBlock:
    """One official block (``ViLBlock``): keys ``norm.weight`` and ``layer.*``.

    Args:
        state: Official keys to tensors or arrays.
        direction: ``rowwise_from_top_left`` or ``rowwise_from_bot_right``.
        layer_norm_eps: Epsilon of its norms.
        **config: What the shapes must agree with: ``dim``.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    state = read_state(state)
    config, notes = take_notes(config, (*_NOTES, "batch_norm_eps"))
    dim = shape_of(state, "norm.weight", 1, _NAME)[0]
    check_config(config, {"dim": (dim,)}, ("direction", "layer_norm_eps"), _NAME)
    if direction not in _DIRECTIONS:
        raise ImportFailedError(f"direction is {' or '.join(_DIRECTIONS)}, not {direction!r}")
    block = ViLBlock(dim, direction == _DIRECTIONS[1], eps=layer_norm_eps)
    load_renamed(block, state, official_part_key, "Vision-LSTM's block", _convert)
    return noted(block, **notes)


def load_cell(state: Mapping[str, Any], *, layer_norm_eps: float = 1e-5) -> MLSTMCell:
    """One official cell (``MatrixLSTMCell``), keys bare or under ``layer.mlstm_cell.``.

    Args:
        state: Official keys to tensors or arrays.
        layer_norm_eps: Epsilon of the norm after the memory.

    Raises:
        ImportFailedError: Keys or shapes that do not fit.
    """
    state = read_state(state)
    state = below(state, "layer.mlstm_cell.") or below(state, "mlstm_cell.") or state
    cell = MLSTMCell(shape_of(state, "outnorm.weight", 1, "mLSTM cell")[0], eps=layer_norm_eps)
    prefix = "layer.mlstm_cell."
    load_renamed(
        cell,
        state,
        lambda key: official_part_key(f"layer.cell.{key}").removeprefix(prefix),
        "Vision-LSTM's mLSTM cell",
        _convert,
    )
    return cell.eval()


def official_part_key(key: str) -> str:
    """The official name, within the backbone or a block, of a parameter of ours."""
    if group := re.match(r"groups\.(\d+)\.", key):
        key = f"blocks{int(group[1]) + 1}.{key[group.end() :]}"
    for pattern, replacement in _RULES:
        key = re.sub(pattern, replacement, key)
    return key


def _convert(key: str, tensor: Tensor) -> Tensor:
    """Official tensors as we keep them: gains as such, the positional map channel-first."""
    if key.endswith("pos_embed.weight"):
        return tensor.permute(0, 3, 1, 2) if tensor.dim() == 4 else tensor
    if re.search(r"(^|\.cell\.|groups\.\d+\.\d+\.)norm\.weight$", key):
        return 1 + tensor
    return tensor


def _encoder_arguments(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``VisionLSTM`` from the backbone's keys, shapes and configuration."""
    dim, in_chans, patch, _ = shape_of(state, "patch_embed.proj.weight", 4, _NAME)
    _, rows, columns, _ = shape_of(state, "pos_embed.embed", 4, _NAME)
    found = {(int(m[1]), int(m[2])) for k in state if (m := re.match(r"blocks(\d+)\.(\d+)\.", k))}
    groups = max((group for group, _ in found), default=0)
    depths = [sum(group == g for group, _ in found) for g in range(1, groups + 1)]
    config = {name: value for name, value in config.items() if name not in _ENCODER_IDLE}
    free = {name: config.pop(name) for name in _ENCODER_FREE if name in config}
    known = {
        "dim": (dim,),
        "patch_size": (patch, [patch, patch]),
        "stride": (None, patch),
        "depth1": (depths,),
        "input_shape": ([in_chans, rows * patch, columns * patch],),
        "alternation": ("bidirectional",),
    }
    check_config(config, known, _ENCODER_FREE, _NAME)
    return {
        "in_chans": in_chans,
        "dim": dim,
        "patch_size": patch,
        "depths": depths,
        "grid_size": [rows, columns],
        **free,
    }


def _without_shared_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the second name of the projection that ANN's queries and keys share."""
    prefix = _ANN_KEYS.removesuffix("key_project.")
    copies = below(state, _ANN_KEYS)
    for name, value in copies.items():
        query = state.get(f"{prefix}query_project.{name}")
        if query is None or not torch.equal(query, value):
            raise ImportFailedError(
                f"{prefix}key_project.{name} is not the query_project's: ANNHead shares the two"
            )
    return {k: value for k, value in state.items() if not k.startswith(_ANN_KEYS)}


def _regrouped(state: Mapping[str, Tensor], depths: Sequence[int]) -> dict[str, Tensor]:
    """Blocks in one list, as in classification, cut into groups; final norm and head dropped."""
    firsts = [sum(depths[:g]) for g in range(len(depths) + 1)]
    regrouped = {}
    for key, value in state.items():
        if match := re.match(r"blocks\.(\d+)\.", key):
            block = int(match[1])
            if block >= firsts[-1]:
                raise ImportFailedError(f"depth1 {list(depths)} has no place for {key}")
            group = max(g for g, first in enumerate(firsts[:-1]) if first <= block)
            key = f"blocks{group + 1}.{block - firsts[group]}.{key[match.end() :]}"
        elif key.startswith(("norm.", "head.", "legacy_norm.")):
            continue
        regrouped[key] = value
    return regrouped


_BACKBONE = Backbone(
    name=_NAME,
    encoder="seglstm",
    arguments=_encoder_arguments,
    widths=lambda arguments: [arguments["dim"]] * len(arguments["depths"]),
    official_key=official_part_key,
    notes=_NOTES,
    convert=_convert,
)
