"""RS-Mamba's official keys (github.com/walking-shadow/Official_Remote_Sensing_Mamba, aa6494e).

Widths, depths, states, ranks, ratios, bands, classes and the task are read off the shapes; only
epsilons and stochastic depth cannot be.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rsmamba_models.errors import ArgumentsError, ImportFailedError
from rsmamba_models.importers.state import check_config, load_renamed, read_state, shape_of
from rsmamba_models.registry import create_model
from rsmamba_models.rs_mamba import OmniBlock, OmniScan

# Ours -> official, first match of each kind; tried on the key of every parameter and buffer.
_BLOCK_RULES = (
    (r"^norm1\.", "norm."),
    (r"^scan\.", "op."),
    (r"^op\.conv\.", "op.conv2d."),
    (r"^op\.x_proj$", "op.x_proj_weight"),
    (r"^op\.dt_proj$", "op.dt_projs_weight"),
    (r"^op\.dt_bias$", "op.dt_projs_bias"),
    (r"^op\.A_log$", "op.A_logs"),
    (r"^op\.D$", "op.Ds"),
)
_NAME = "RS-Mamba"
_PATCH_EMBED = {"conv1": 0, "norm1": 2, "conv2": 5, "norm2": 7}
# Terms that have one meaning here; the official forward types v2 and v3 differ in kernels only.
_FIXED: dict[str, tuple[Any, ...]] = {
    "patch_size": (4,),
    "ssm_act_layer": ("silu",),
    "ssm_conv": (3,),
    "ssm_conv_bias": (True,),
    "mlp_act_layer": ("gelu",),
    "patch_norm": (True,),
    "norm_layer": ("LN",),
    "forward_type": ("v2", "v3"),
}
_NOT_OF_THE_NETWORK = ("full_grads",)  # a term of parity manifests
_FREE = ("drop_path_rate", "layer_norm_eps", "batch_norm_eps")
_TASKS = {"ss": ("RSM_SS", "conv_out_seg"), "cd": ("RSM_CD", "conv_out_change")}
_SIZES = {
    ((96, 192, 384, 768), (2, 2, 9, 2)): "tiny",
    ((96, 192, 384, 768), (2, 2, 27, 2)): "small",
    ((128, 256, 512, 1024), (2, 2, 27, 2)): "base",
}


def build(state: dict[str, Tensor], **config: Any) -> nn.Module:
    """RSM-SS or RSM-CD from an official state dict.

    Args:
        state: Official keys to tensors.
        **config: ``drop_path_rate`` (0 by default), ``layer_norm_eps``, ``batch_norm_eps``;
            ``mode="train"`` for a model in training mode; any other term of the official
            configuration (``depths``, ``ssm_d_state``, ...), which must agree with the shapes.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    task, arguments = _arguments(state)
    free = {name: config.pop(name) for name in _FREE if name in config}
    # No key tells this one, and what a stranger's training used is no reason to be random here.
    free.setdefault("drop_path_rate", 0.0)
    for name in _NOT_OF_THE_NETWORK:
        config.pop(name, None)
    mode = config.pop("mode", "eval")
    known = {name: (value,) for name, value in arguments.items()}
    check_config(config, {**_FIXED, **known, "model": (_TASKS[task][0],)}, (*_FREE, "mode"), _NAME)
    if mode not in ("eval", "train"):
        raise ImportFailedError(f"mode is 'eval' or 'train', not {mode!r}")
    size = _SIZES.get((tuple(arguments["dims"]), tuple(arguments["depths"])), "tiny")
    try:
        model = create_model(f"rsm_{task}_{size}", **arguments, **free)
    except ArgumentsError as error:
        raise ImportFailedError(f"the state dict describes no RS-Mamba: {error}") from error
    head = _TASKS[task][1]
    load_renamed(
        model,
        state,
        lambda key: official_key(key, head),
        f"RS-Mamba ({_TASKS[task][0]})",
        _split_directions,
    )
    return model.train(mode == "train")


def load_block(
    state: Mapping[str, Any], *, layer_norm_eps: float = 1e-5, **config: Any
) -> OmniBlock:
    """One official block (``OSSBlock``): keys ``norm.*``, ``op.*``, ``norm2.*``, ``mlp.*``.

    Args:
        state: Official keys to tensors or arrays.
        layer_norm_eps: Epsilon of its layer norms.
        **config: What the shapes must agree with: ``d_model``, ``d_inner``, ``ssm_d_state``,
            ``ssm_ratio``, ``mlp_ratio``, ``directions``.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    state = read_state(state)
    arguments = _scan_arguments(state, "op.")
    mlp_ratio = shape_of(state, "mlp.fc1.weight", 2, _NAME)[0] / arguments["channels"]
    check_config(config, {**_scan_config(arguments), "mlp_ratio": (mlp_ratio,)}, (), _NAME)
    block = OmniBlock(
        arguments["channels"],
        arguments["d_state"],
        arguments["ratio"],
        arguments["dt_rank"],
        mlp_ratio,
        eps=layer_norm_eps,
    )
    load_renamed(block, state, official_block_key, "RS-Mamba's block", _split_directions)
    return block.eval()


def load_ossm(state: Mapping[str, Any], *, layer_norm_eps: float = 1e-5, **config: Any) -> OmniScan:
    """One official scan module (``OSSM``), its keys bare or under ``op.`` (the rest is ignored).

    Args:
        state: Official keys to tensors or arrays.
        layer_norm_eps: Epsilon of its layer norm.
        **config: What the shapes must agree with, as for ``load_block`` but for ``mlp_ratio``.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    state = read_state(state)
    if any(key.startswith("op.") for key in state):
        state = {key[3:]: value for key, value in state.items() if key.startswith("op.")}
    arguments = _scan_arguments(state, "")
    check_config(config, _scan_config(arguments), (), _NAME)
    module = OmniScan(**arguments, eps=layer_norm_eps)
    load_renamed(
        module,
        state,
        lambda key: official_block_key(f"scan.{key}")[3:],
        "RS-Mamba's OSSM",
        _split_directions,
    )
    return module.eval()


def _scan_config(arguments: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {
        "d_model": (arguments["channels"],),
        "d_inner": (round(arguments["channels"] * arguments["ratio"]),),
        "ssm_d_state": (arguments["d_state"],),
        "ssm_ratio": (arguments["ratio"],),
        "directions": (8,),
    }


def _arguments(state: dict[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The task and what the shapes tell."""
    task = "cd" if any(key.startswith("fuse_block") for key in state) else "ss"
    in_chans = shape_of(state, "patch_embed.0.weight", 4, _NAME)[1]
    num_classes = shape_of(state, f"{_TASKS[task][1]}.weight", 4, _NAME)[0]
    dims, depths, ranks = [], [], []
    for i in range(1, 5):
        prefix = f"encoder_block{i}.blocks."
        found = {m[1] for k in state if (m := re.match(re.escape(prefix) + r"(\d+)\.", k))}
        depths.append(len(found))
        dims.append(shape_of(state, f"{prefix}0.op.in_proj.weight", 2, _NAME)[1])
        ranks.append(shape_of(state, f"{prefix}0.op.dt_projs_weight", 3, _NAME)[2])
    first = _scan_arguments(state, "encoder_block1.blocks.0.op.")
    rank: int | str = "auto"
    if ranks != [math.ceil(c / 16) for c in dims]:
        if len(set(ranks)) > 1:
            raise ImportFailedError(f"dt ranks {ranks} follow no rule of the architecture")
        rank = ranks[0]
    hidden = shape_of(state, "encoder_block1.blocks.0.mlp.fc1.weight", 2, _NAME)[0]
    return task, {
        "in_chans": in_chans,
        "num_classes": num_classes,
        "dims": dims,
        "depths": depths,
        "ssm_d_state": first["d_state"],
        "ssm_ratio": first["ratio"],
        "ssm_dt_rank": rank,
        "mlp_ratio": hidden / dims[0],
    }


def _scan_arguments(state: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    doubled, channels = shape_of(state, f"{prefix}in_proj.weight", 2, _NAME)
    directions, inner, rank = shape_of(state, f"{prefix}dt_projs_weight", 3, _NAME)
    if directions != 8:
        raise ImportFailedError(
            f"{prefix}dt_projs_weight has {directions} scan directions, RS-Mamba has 8; a VMamba "
            "checkpoint has another architecture and does not fit"
        )
    if doubled != 2 * inner:
        raise ImportFailedError(f"{prefix}in_proj.weight has {doubled} rows, wanted {2 * inner}")
    return {
        "channels": channels,
        "d_state": shape_of(state, f"{prefix}A_logs", 2, _NAME)[1],
        "ratio": inner / channels,
        "dt_rank": rank,
    }


def official_key(key: str, head: str) -> str:
    """The official name of a parameter or buffer of our model.

    Args:
        key: Our name.
        head: The task's last layer: ``conv_out_seg`` or ``conv_out_change``.
    """
    where, *rest = key.split(".")
    if where == "head" and rest[0] == "out":
        return ".".join([head, *rest[1:]])
    if where == "head":  # upsample_x4: conv, norm, act, upsample, conv, norm, act, upsample
        index = 4 * (int(rest[1]) // 2) + (rest[2] == "norm")
        return f"upsample_x4.{index}.{rest[3]}"
    if where in ("decoder", "fuse"):
        number = 3 - int(rest[1]) if where == "decoder" else int(rest[0]) + 1
        name = f"deocder_block{number}" if where == "decoder" else f"fuse_block{number}"
        layer, leaf = rest[-2:]
        return f"{name}.fuse.{0 if layer == 'conv' else 1}.{leaf}"
    if rest[0] == "patch_embed":
        return f"patch_embed.{_PATCH_EMBED[rest[1]]}.{rest[2]}"
    stage, item = int(rest[1]), int(rest[2])
    inner = ".".join(rest[3:])
    if stage > 0 and item == 0:
        layer, leaf = rest[3:]
        return f"encoder_block{stage + 1}.downsample.{1 if layer == 'conv' else 3}.{leaf}"
    block = item - (stage > 0)
    return f"encoder_block{stage + 1}.blocks.{block}.{official_block_key(inner)}"


def official_block_key(key: str) -> str:
    """The official name, within its block, of a parameter of our block."""
    for pattern, replacement in _BLOCK_RULES:
        key = re.sub(pattern, replacement, key)
    return key


def _split_directions(key: str, tensor: Tensor) -> Tensor:
    """Officially directions and channels of ``A_log`` and ``D`` are one axis."""
    if key.rsplit(".", 1)[-1] in ("A_log", "D") and tensor.dim() and tensor.shape[0] % 8 == 0:
        return tensor.reshape(8, -1, *tensor.shape[1:])
    return tensor
