"""Seg-LSTM's official keys (github.com/zhuqinfeng1999/Seg-LSTM, 061cc6b).

Widths, depths, patch, positional grid, bands, classes and the decoder are read off keys and shapes;
epsilons, rates, and the decoders' levels, scales and dilations cannot be.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rsmamba_models.errors import ArgumentsError, ImportFailedError
from rsmamba_models.importers.mmseg import official_head_key, read_head
from rsmamba_models.importers.state import check_config, load_renamed, read_state, shape_of
from rsmamba_models.registry import create_model
from rsmamba_models.seg_lstm import MLSTMCell, ViLBlock, VisionLSTM

_M = TypeVar("_M", bound=nn.Module)
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
_PARTS = {"encoder": "backbone", "decoder": "decode_head", "auxiliary": "auxiliary_head"}
_DIRECTIONS = ("rowwise_from_top_left", "rowwise_from_bot_right")
_ENCODER_FREE = ("drop_path_rate", "drop_path_decay", "layer_norm_eps")
# Terms that change nothing in the official code either, or nothing in the network.
_ENCODER_IDLE = ("type", "depth", "output_shape", "mode", "pooling", "legacy_norm", "init_cfg")
_MODEL_IDLE = ("type", "data_preprocessor", "pretrained", "train_cfg", "test_cfg", "init_cfg")
_NOTES = ("component", "official_config", "output_subsample", "cell", "input_scale")
_OF_HEADS = ("batch_norm_eps",)


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
    parts = {name: _below(state, f"{official}.") for name, official in _PARTS.items()}
    if not parts["encoder"] or not parts["decoder"]:
        raise ImportFailedError(
            "this is no Seg-LSTM segmenter: it has no keys backbone.* or no keys decode_head.*; "
            "for parts of one there are load_backbone, load_block and load_cell"
        )
    notes = _take_notes(config)
    sections = _take_sections(config)
    common = {name: config.pop(name) for name in ("num_classes",) if name in config}
    epsilon = {name: config.pop(name) for name in _OF_HEADS if name in config}
    encoder = _encoder_arguments(parts["encoder"], {**sections["encoder"], **config})
    widths = [encoder["dim"]] * len(encoder["depths"])
    decoder, num_classes, head = read_head(
        parts["decoder"], widths, {**sections["decoder"], **common}
    )
    auxiliary = None
    if parts["auxiliary"]:
        kind, _, auxiliary = read_head(
            parts["auxiliary"], widths, {"num_classes": num_classes, **sections["auxiliary"]}
        )
        if kind != "fcn":
            raise ImportFailedError("the auxiliary head is no FCNHead")
        auxiliary |= epsilon
    try:
        model = create_model(
            f"seglstm_{decoder}",
            encoder.pop("in_chans"),
            num_classes,
            encoder_arguments=encoder,
            decoder_arguments={**head, **epsilon},
            auxiliary=auxiliary,
        )
    except ArgumentsError as error:
        raise ImportFailedError(f"the state dict describes no Seg-LSTM: {error}") from error
    if decoder == "ann":
        state = _without_shared_keys(state)
    load_renamed(model, state, lambda key: official_key(key, decoder), _NAME, _convert)
    return _noted(model, **notes)


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
    state = _below(state, "backbone.") or state
    notes = _take_notes(config, _OF_HEADS)
    config = {**_take_sections(config)["encoder"], **config}
    if any(re.match(r"blocks\.\d+\.", key) for key in state):
        state = _regrouped(state, config.get("depth1", (6, 6, 6, 6)))
    arguments = _encoder_arguments(state, config)
    try:
        encoder = VisionLSTM(**arguments)
    except ArgumentsError as error:
        raise ImportFailedError(f"the state dict is no Vision-LSTM's: {error}") from error
    load_renamed(encoder, state, official_part_key, f"{_NAME}'s backbone", _convert)
    return _noted(encoder, **notes)


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
    notes = _take_notes(config, _OF_HEADS)
    dim = shape_of(state, "norm.weight", 1, _NAME)[0]
    check_config(config, {"dim": (dim,)}, ("direction", "layer_norm_eps"), _NAME)
    if direction not in _DIRECTIONS:
        raise ImportFailedError(f"direction is {' or '.join(_DIRECTIONS)}, not {direction!r}")
    block = ViLBlock(dim, direction == _DIRECTIONS[1], eps=layer_norm_eps)
    load_renamed(block, state, official_part_key, "Vision-LSTM's block", _convert)
    return _noted(block, **notes)


def load_cell(state: Mapping[str, Any], *, layer_norm_eps: float = 1e-5) -> MLSTMCell:
    """One official cell (``MatrixLSTMCell``), keys bare or under ``layer.mlstm_cell.``.

    Args:
        state: Official keys to tensors or arrays.
        layer_norm_eps: Epsilon of the norm after the memory.

    Raises:
        ImportFailedError: Keys or shapes that do not fit.
    """
    state = read_state(state)
    state = _below(state, "layer.mlstm_cell.") or _below(state, "mlstm_cell.") or state
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


def official_key(key: str, decoder: str) -> str:
    """The official name of a parameter or buffer of our model.

    Args:
        key: Our name.
        decoder: The decoder's name in the registry.
    """
    part, inner = key.split(".", 1)
    if part == "encoder":
        inner = official_part_key(inner)
    else:
        inner = official_head_key(decoder if part == "decoder" else "fcn", inner)
    return f"{_PARTS[part]}.{inner}"


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


def _take_sections(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Remove ``model``, ``backbone``, ``decode_head`` and ``auxiliary_head``; ours to terms."""
    model = dict(config.pop("model", None) or {})
    sections = {
        name: {**(model.pop(official, None) or {}), **(config.pop(official, None) or {})}
        for name, official in _PARTS.items()
    }
    unknown = {name: value for name, value in model.items() if name not in _MODEL_IDLE}
    check_config(unknown, {}, _PARTS.values(), _NAME)
    return sections


def _take_notes(config: dict[str, Any], others: Sequence[str] = ()) -> dict[str, Any]:
    """Remove plain notes, and terms of other parts; ``mode`` and ``parameters`` are returned."""
    for name in (*_NOTES, *others):
        config.pop(name, None)
    return {"mode": config.pop("mode", "eval"), "parameters": config.pop("parameters", None)}


def _noted(module: _M, mode: str, parameters: int | None) -> _M:
    """The module in its mode, if it has as many parameters as was said."""
    number = sum(p.numel() for p in module.parameters())
    if parameters not in (None, number):
        raise ImportFailedError(f"the state dict has {number} parameters, not {parameters}")
    if mode not in ("eval", "train"):
        raise ImportFailedError(f"mode is 'eval' or 'train', not {mode!r}")
    return module.train(mode == "train")


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}


def _without_shared_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the second name of the projection that ANN's queries and keys share."""
    prefix = "decode_head.context.stages.0."
    copies = _below(state, f"{prefix}key_project.")
    for name, value in copies.items():
        query = state.get(f"{prefix}query_project.{name}")
        if query is None or not torch.equal(query, value):
            raise ImportFailedError(
                f"{prefix}key_project.{name} is not the query_project's: ANNHead shares the two"
            )
    return {k: value for k, value in state.items() if not k.startswith(f"{prefix}key_project.")}


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
