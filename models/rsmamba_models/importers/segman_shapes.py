"""What the shapes of SegMAN's official tensors tell of its architecture, and its configuration."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rsmamba_models.errors import ImportFailedError
from rsmamba_models.importers.state import check_config, shape_of
from rsmamba_models.zoo.segman import ENCODERS

_NAME = "SegMAN"
_OFFICIAL_ENCODERS = {"t": "tiny", "s": "small", "b": "base", "l": "large", "l2": "large2"}
# Terms that change nothing of a network whose weights are given.
_NOT_OF_THE_NETWORK = ("image_size", "sr_ratio", "in_index", "align_corners", "norm_cfg")
_FIXED: dict[str, tuple[Any, ...]] = {"window_dilation": (1, [1, 1, 1, 1]), "fused_na": (False,)}


def encoder_arguments(state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    """The encoder's arguments.

    Args:
        state: Official keys of an encoder to tensors.
        config: Official terms. Used where shapes do not tell: heads and windows of an encoder
            without relative positions, and ``layer_init_values``, which is taken out.

    Raises:
        ImportFailedError: No such encoder, or terms that are needed and missing.
    """
    in_chans = shape_of(state, "patch_embed.0.weight", 4, _NAME)[1]
    preset = _preset(config["encoder"]) if "encoder" in config else {}
    windows = config.get("window_size", preset.get("windows"))
    heads = config.get("num_heads", preset.get("heads"))
    stages = []
    for i in range(4):
        terms = {
            name: values[i]
            for name, values in (("window_size", windows), ("num_heads", heads))
            if values is not None and len(values) == 4
        }
        stages.append(stage_arguments(state, f"layers.{2 * i}.", terms))
    scaled = {stage["layerscale"] for stage in stages}
    if len(scaled) > 1:
        raise ImportFailedError("some layers have layer_scale1 and others have not")
    return {
        "in_chans": in_chans,
        "dims": [stage["embed_dim"] for stage in stages],
        "depths": [stage["depth"] for stage in stages],
        "heads": [stage["heads"] for stage in stages],
        "windows": [stage["window"] for stage in stages],
        "mlp_ratios": [_ratio(stage["ffn_dim"], stage["embed_dim"]) for stage in stages],
        "layer_scale": config.pop("layer_init_values", 1e-6) if scaled == {True} else None,
        "relative_bias": stages[0]["relative_bias"],
        "table": list(stages[3]["table"] or ()) or [49, 49],
    }


def stage_arguments(
    state: Mapping[str, Tensor], prefix: str, config: Mapping[str, Any]
) -> dict[str, Any]:
    """What the keys and shapes of one layer tell.

    Args:
        state: Official keys to tensors.
        prefix: Of the layer's keys.
        config: ``num_heads`` and ``window_size``, used where shapes do not tell.

    Returns:
        ``embed_dim``, ``depth``, ``heads``, ``window``, ``ffn_dim``, ``layerscale``,
        ``relative_bias``, ``global_mode`` and ``table`` (rows and columns, or None).

    Raises:
        ImportFailedError: No such layer, or terms that are needed and missing.
    """
    block = f"{prefix}blocks.0."
    mixer = f"{block}token_mixer."
    width = shape_of(state, f"{block}norm1.weight", 1, _NAME)[0]
    table: tuple[int, ...] | None = None
    if f"{mixer}ssm.x_proj_weight" not in state:
        table = (49, 49)
    relative = f"{mixer}rpb.0" in state
    window = config.get("window_size")
    window = window[0] if isinstance(window, list | tuple) else window
    heads = config.get("num_heads")
    if relative:
        heads, side, _ = shape_of(state, f"{mixer}rpb.0", 3, _NAME)
        window = (side + 1) // 2
        if table is not None:
            table = shape_of(state, f"{mixer}rpb.1", 3, _NAME)[1:]
    elif f"{prefix}rope.angle" in state:
        heads = width // (2 * shape_of(state, f"{prefix}rope.angle", 1, _NAME)[0])
    for term, value in (("window_size", window), ("num_heads", heads)):
        if not isinstance(value, int) or value < 1:
            raise ImportFailedError(
                f"without relative positions ({mixer}rpb.0) no key tells {term}: give it"
            )
    blocks = {m[1] for k in state if (m := re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", k))}
    return {
        "embed_dim": width,
        "depth": len(blocks),
        "heads": heads,
        "window": window,
        "ffn_dim": shape_of(state, f"{block}mlp.fc1.weight", 4, _NAME)[0],
        "layerscale": f"{block}layer_scale1.weight" in state,
        "relative_bias": relative,
        "global_mode": table is not None,
        "table": table,
    }


def decoder_arguments(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's arguments, its number of classes and the widths of its three maps included.

    Args:
        state: Official keys of a decode head to tensors.
        config: Official terms: ``dropout_ratio``, and others, which must agree.

    Raises:
        ImportFailedError: No such head, or terms that contradict it.
    """
    config = dict(config)
    classes, channels = shape_of(state, "conv_seg.weight", 4, _NAME)[:2]
    projections = [shape_of(state, f"linear_c{i}.proj.weight", 2, _NAME) for i in (2, 3, 4)]
    hidden = shape_of(state, "vssm.mlp.fc1.weight", 4, _NAME)[0]
    arguments = {
        "in_channels": [projection[1] for projection in projections],
        "num_classes": classes,
        "channels": channels,
        "feat_proj_dim": projections[0][0],
        "mlp_ratio": _ratio(hidden, 3 * channels),
        "dropout": config.pop("dropout_ratio", 0.1),
    }
    known = {name: (arguments[name],) for name in ("num_classes", "channels", "feat_proj_dim")}
    in_channels = config.pop("in_channels", arguments["in_channels"])
    if list(in_channels)[-3:] != arguments["in_channels"]:
        raise ImportFailedError(
            f"in_channels end in {arguments['in_channels']} in this state dict, not {in_channels}"
        )
    _check(
        config, {**known, "type": ("decoder", "SegMANDecoder")}, ("dropout_ratio", "in_channels")
    )
    return arguments


def check_encoder(arguments: Mapping[str, Any], config: Mapping[str, Any], kind: str) -> None:
    """Refuse terms that contradict what ``encoder_arguments`` found, or that no encoder has.

    Args:
        arguments: What it found.
        config: Official terms.
        kind: What the term ``type`` may say.

    Raises:
        ImportFailedError: Names the term.
    """
    size = size_of(arguments)
    short = next((s for s, name in _OFFICIAL_ENCODERS.items() if name == size), None)
    scaled = arguments["layer_scale"] is not None
    known = {
        "encoder": ("SegMANEncoder",) if short is None else (f"SegMANEncoder_{short}",),
        "embed_dims": (arguments["dims"],),
        "depths": (arguments["depths"],),
        "num_heads": (arguments["heads"],),
        "window_size": (arguments["windows"],),
        "mlp_ratios": (arguments["mlp_ratios"],),
        "layerscales": ([scaled] * 4, scaled),
        "use_rpb": (arguments["relative_bias"],),
        "in_chans": (arguments["in_chans"],),
        "type": (kind,),
    }
    _check(config, known, ("drop_path_rate", "layer_init_values", "decoder"))


def check_layer(found: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse terms that contradict what ``stage_arguments`` found, or that no layer has.

    Raises:
        ImportFailedError: Names the term.
    """
    known: dict[str, tuple[Any, ...]] = {
        name: (found[name],) for name in ("embed_dim", "depth", "global_mode", "ffn_dim")
    }
    known |= {
        "num_heads": (found["heads"],),
        "window_size": (found["window"], [found["window"]] * 2),
        "use_rpb": (found["relative_bias"],),
        "layerscale": (found["layerscale"],),
        "type": ("layer",),
    }
    _check(config, known, ("layer_init_values", "drop_path"))


def _check(
    config: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]], free: tuple[str, ...]
) -> None:
    terms = {name: value for name, value in config.items() if name not in _NOT_OF_THE_NETWORK}
    check_config(terms, {**_FIXED, **known}, free, _NAME)


def _preset(encoder: str) -> Mapping[str, Any]:
    """Our preset of an official encoder class; nothing for an unknown one."""
    name = f"segman_{_OFFICIAL_ENCODERS.get(str(encoder).removeprefix('SegMANEncoder_'))}"
    return next((entry.preset for entry in ENCODERS if entry.name == name), {})


def size_of(arguments: Mapping[str, Any]) -> str | None:
    """The official size whose widths, depths, heads and windows these are, or None."""
    for size in _OFFICIAL_ENCODERS.values():
        preset = next(entry.preset for entry in ENCODERS if entry.name == f"segman_{size}")
        terms = ("dims", "depths", "heads", "windows")
        if all(list(preset[term]) == arguments[term] for term in terms):
            return size
    return None


def _ratio(hidden: int, width: int) -> float:
    """The official ratio, of which a hidden width is the whole part times the width."""
    for ratio in (round(hidden / width, 1), hidden / width, (hidden + 0.5) / width):
        if int(ratio * width) == hidden:
            return ratio
    raise AssertionError("half a channel more is never rounded up")
