"""Mamba-Diffusion's official keys (github.com/WenliangDu/MambaDiffusion, fedb019).

Bands and their split, classes, widths, depths, states, ranks and ratios are read off the shapes.
What they cannot tell (the diffusion's settings, groups of the norms, dropout) comes as keywords and
is the published configuration's otherwise.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from rsmamba_models.checkpoint_meta import InputSpec
from rsmamba_models.errors import ArgumentsError, ImportFailedError
from rsmamba_models.importers.mamba_diffusion_inputs import INPUTS
from rsmamba_models.importers.state import check_config, load_renamed, read_state, shape_of
from rsmamba_models.mamba_diffusion.blocks import ScanSize
from rsmamba_models.mamba_diffusion.denoiser import Denoiser, TimeEmbedding
from rsmamba_models.mamba_diffusion.encoder import FusionEncoder
from rsmamba_models.mamba_diffusion.fusion import CrossScan, FusionBlock, SplitScan
from rsmamba_models.registry import create_model

_T = TypeVar("_T")
_NAME = "Mamba-Diffusion"
_POINTS = 4  # of every head of the official decoder; the shapes tell heads x points only
# Ours -> official, all that match in turn.
_SCAN = (
    (r"scan\.x_proj$", "x_proj_weight"),
    (r"scan\.dt_proj$", "dt_projs_weight"),
    (r"scan\.dt_bias$", "dt_projs_bias"),
    (r"scan\.A_log$", "A_logs"),
    (r"scan\.D$", "Ds"),
)
_BLOCK = (
    *_SCAN,
    (r"^norm1\.", "norm."),
    (r"^ss2d\.conv\.", "ss2d.conv2d."),
    (r"^ss2d\.", "op."),
)
_FUSION_BLOCK = (
    *_SCAN,
    (r"mixer\.other_(in_proj|out_proj)\.", r"mixer.\1_b."),
    (r"mixer\.(in_proj|out_proj)\.", r"mixer.\1_a."),
    (r"mixer\.other_conv\.", "mixer.conv2d_b."),
    (r"mixer\.conv\.", "mixer.conv2d_a."),
    (r"\.norm1\.", ".norm."),
    (r"^optical\.(norm2?|mlp)\.", r"\1_A."),
    (r"^sar\.(norm2?|mlp)\.", r"\1_B."),
    (r"^optical\.mixer\.", "m_a."),
    (r"^sar\.mixer\.", "m_b."),
)
_BACKBONE = (
    (r"^embed_optical\.", "patch_embed_A."),
    (r"^embed_sar\.", "patch_embed_B."),
    (r"^(patch_embed_.)\.conv1\.", r"\1.0."),
    (r"^(patch_embed_.)\.norm1\.", r"\1.2."),
    (r"^(patch_embed_.)\.conv2\.", r"\1.5."),
    (r"^(patch_embed_.)\.norm2\.", r"\1.7."),
    (r"^classifier\.0\.", "classifier.norm."),
    (r"^classifier\.1\.", "classifier.head."),
    (r"^stages\.(\d+)\.norm_optical\.", r"outnorm_a\1."),
    (r"^stages\.(\d+)\.norm_sar\.", r"outnorm_b\1."),
    (r"^stages\.(\d+)\.down_optical\.", r"layers_a.\1.downsample."),
    (r"^stages\.(\d+)\.down_sar\.", r"layers_b.\1.downsample."),
    (r"\.downsample\.conv\.", ".downsample.1."),
    (r"\.downsample\.norm\.", ".downsample.3."),
)
_STACKS = {"optical": "layers_a", "sar": "layers_b", "dcf": "fuse_layers", "dss4": "fuse_layersv2"}
_DENOISER = (
    (r"^classify\.", "conv_seg."),
    (r"^layers\.", "encoder.layers."),
    (r"\.attention\.offsets\.", ".attentions.0.sampling_offsets."),
    (r"\.attention\.weights\.", ".attentions.0.attention_weights."),
    (r"\.attention\.value_proj\.", ".attentions.0.value_proj."),
    (r"\.attention\.out_proj\.", ".attentions.0.output_proj."),
    (r"\.norm1\.", ".norms.0."),
    (r"\.norm2\.", ".norms.1."),
    (r"\.fc1\.", ".ffns.0.layers.0.0."),
    (r"\.fc2\.", ".ffns.0.layers.1."),
    (r"\.time\.", ".time_mlp.1."),
)
_TIME = ((r"^frequencies$", "0.weights"), (r"^fc1\.", "1."), (r"^fc2\.", "3."))
_REST = (
    (r"^neck\.pyramid\.lateral\.", "neck.0.lateral_convs."),
    (r"^neck\.pyramid\.smooth\.", "neck.0.fpn_convs."),
    (r"^neck\.merge\.", "neck.1.down."),
    (r"^(neck\..*)\.norm\.", r"\1.gn."),
    (r"^codes\.", "embedding_table."),
    (r"^transform\.", "transform.conv."),
    (r"^auxiliary\.classifier\.", "auxiliary_head.conv_seg."),
    (r"^auxiliary\.convs\.0\.norm\.", "auxiliary_head.convs.0.bn."),
    (r"^auxiliary\.", "auxiliary_head."),
)
# Terms that have one meaning here.
_FIXED: dict[str, tuple[Any, ...]] = {
    "forward_type": ("v05_noz",),
    "fusion_typev1": ("fusev1_v05_noz",),
    "fusion_typev2": ("fusev2_v05",),
    "ssm_act_layer": ("silu",),
    "mlp_act_layer": ("gelu",),
    "patch_norm": (True,),
    "norm_layer": ("ln", "LN"),
    "patchembed_version": ("v2",),
    "downsample_version": ("v3",),
    "out_indices": ([0, 1, 2, 3],),
    "pretrained": (None,),
}
_FREE = ("drop_path_rate", "aux_dropout", "gn_groups", "bit_scale", "noise_schedule")
_SAMPLER = {
    "timesteps": "steps",
    "randsteps": "starts",
    "time_difference": "time_difference",
    "diffusion": "name",
}
# Terms of parity manifests that say what is run, not what it is run with.
_NOT_OF_THE_NETWORK = ("builder", "run", "grads", "times", "t", "sample_range_low")


def build(state: dict[str, Tensor], **config: Any) -> nn.Module:
    """Mamba-Diffusion, or the part of it that a state dict holds.

    Args:
        state: Official keys to tensors.
        **config: ``timesteps``, ``randsteps``, ``time_difference``, ``diffusion``,
            ``accumulation``, ``sample_range``, ``noise_schedule``, ``bit_scale``, ``gn_groups``,
            ``aux_dropout``, ``decoder_heads``; ``drop_path_rate`` (0 by default); ``mode="train"``
            for a model in training mode. Any other term of the official configuration must agree
            with the shapes. Terms may be nested in ``args`` and ``backbone`` mappings.

    Returns:
        For a whole network ``MambaDiffusion``, whose ``forward`` takes the stacked image (or both
        images) and ``noise=``. With ``accumulation`` its result is the official one, mean
        probabilities; change that by its ``sampler["as_probabilities"]``. For a backbone what
        ``load_backbone`` returns, for a fusion block what ``load_fusion_block`` returns.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    if "norm_A.weight" in state:
        return load_fusion_block(state, **config)
    if "patch_embed_A.0.weight" in state:
        return load_backbone(state, **config)
    config = _flat(config)
    mode = config.pop("mode", "eval")
    if mode not in ("eval", "train"):
        raise ImportFailedError(f"mode is 'eval' or 'train', not {mode!r}")
    backbone = _backbone_arguments(_under("backbone.", state))
    heads = _decoder_arguments(state, config)
    outputs = shape_of(state, "decode_head.conv_seg.weight", 4, _NAME)[0]
    if backbone["num_classes"] != outputs:  # a classifier that nothing uses may be of any size
        unused = ("backbone.classifier.head.weight", "backbone.classifier.head.bias")
        state |= {key: state[key].new_zeros((outputs, *state[key].shape[1:])) for key in unused}
        backbone["num_classes"] = outputs
    found = {**backbone, **heads}
    known = {
        **_backbone_config(backbone),
        "neck_channels": (heads["neck_channels"],),
        "decoder_layers": (heads["decoder_layers"],),
        "decoder_ffn": (heads["decoder_ffn"],),
        "learned_sinusoidal_dim": (2 * heads["time_frequencies"],),
    }
    free = {name: config.pop(name) for name in _FREE if name in config}
    free.setdefault("drop_path_rate", 0.0)  # no key tells it; nothing random unless asked for
    free["sampler"] = {ours: config.pop(name) for name, ours in _SAMPLER.items() if name in config}
    accumulation = config.pop("accumulation", False)
    free["sampler"] |= {"accumulate": accumulation, "as_probabilities": accumulation}
    if "sample_range" in config:
        free["time_range"] = list(config.pop("sample_range"))
        free["sampler"]["end"] = free["time_range"][0]
    check_config(config, known, (*_FREE, *_SAMPLER, "accumulation", "sample_range", "mode"), _NAME)
    model = _made(lambda: create_model("mamba_diffusion_base", **found, **free))
    _load(model, state, official_key, _NAME)
    return model.train(mode == "train")


def official_inputs(model: nn.Module) -> tuple[InputSpec, ...] | None:
    """How the published configurations feed a network of these bands; None for other bands."""
    bands: Any = model.in_chans
    return INPUTS.get(bands)


def load_backbone(state: Mapping[str, Any], **config: Any) -> FusionEncoder:
    """Both encoders and their fusion (``Fusion_VSSM``): bare keys or under ``backbone.``.

    Args:
        state: Official keys to tensors or arrays; others than the backbone's are left out.
        **config: ``drop_path_rate`` (0 by default), and what the shapes must agree with.

    Returns:
        In eval mode; the stacked image (or both images) -> four maps.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    state = read_state(state)
    if any(key.startswith("backbone.") for key in state):
        state = _under("backbone.", state)
    config = _flat(config)
    drop_path_rate = config.pop("drop_path_rate", 0.0)
    found = _backbone_arguments(state)
    check_config(config, _backbone_config(found), ("drop_path_rate",), _NAME)
    encoder = _made(lambda: FusionEncoder(**found, drop_path_rate=drop_path_rate))
    _load(encoder, state, official_backbone_key, f"{_NAME}'s backbone")
    return encoder.eval()


def load_fusion_block(state: Mapping[str, Any], **config: Any) -> FusionBlock:
    """One DCF block (``FusionVSSBlock``) or DS-S4 block (``FusionVSSBlockv2``), whichever it is.

    Args:
        state: Official keys (``norm_A.*``, ``m_a.*``, ...) to tensors or arrays.
        **config: What the shapes must agree with: ``hidden_dim``, ``ssm_d_state``, ``ssm_ratio``,
            ``ssm_dt_rank``, ``ssm_conv``, ``ssm_conv_bias``, ``mlp_ratio``, ``forward_type``.

    Returns:
        In eval mode; two of (B, H, W, d) -> two of (B, H, W, d).

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    state = read_state(state)
    size = _scan_size(state, "m_a.", "in_proj_a", "conv2d_a", "mlp_A")
    rows = shape_of(state, "m_a.in_proj_a.weight", 2, _NAME)[0]
    mixer = CrossScan if rows == size.inner else SplitScan
    kind = "fusev1_v05_noz" if mixer is CrossScan else "fusev2_v05"
    known = {"hidden_dim": (size.channels,), **_scan_config(size), "forward_type": (kind,)}
    check_config(_flat(config), {**_FIXED, **known}, (), _NAME)
    block = _made(lambda: FusionBlock(mixer, size))
    _load(block, state, official_fusion_key, f"{_NAME}'s fusion block")
    return block.eval()


def load_denoiser(state: Mapping[str, Any], **config: Any) -> Denoiser:
    """The decode head (``DeformableHeadWithTime``): keys under ``decode_head.``.

    Args:
        state: Official keys to tensors or arrays; others are left out.
        **config: ``decoder_heads``, for heads that do not look at four points each.

    Returns:
        In eval mode; (B, C, h, w) and the time embedding -> logits (B, num_classes, h, w).

    Raises:
        ImportFailedError: Keys or shapes that do not fit.
    """
    state = read_state(state)
    found = _decoder_arguments(state, config)
    check_config(config, {}, ("decoder_heads",), _NAME)
    outputs, width = shape_of(state, "decode_head.conv_seg.weight", 4, _NAME)[:2]
    time_width = shape_of(state, "decode_head.encoder.layers.0.time_mlp.1.weight", 2, _NAME)[1]
    denoiser = _made(
        lambda: Denoiser(
            width,
            outputs,
            found["decoder_layers"],
            found["decoder_heads"],
            found["decoder_points"],
            found["decoder_ffn"],
            time_width,
        )
    )
    own = _under("decode_head.", state)
    _load(denoiser, own, lambda key: _renamed(key, _DENOISER), f"{_NAME}'s decode head")
    return denoiser.eval()


def load_time_embedding(state: Mapping[str, Any]) -> TimeEmbedding:
    """The time embedding: keys under ``time_mlp.``; others are left out.

    Returns:
        In eval mode; log-SNRs (B,) -> (B, width).

    Raises:
        ImportFailedError: Keys or shapes that do not fit.
    """
    state = read_state(state)
    (frequencies,) = shape_of(state, "time_mlp.0.weights", 1, _NAME)
    width = shape_of(state, "time_mlp.1.weight", 2, _NAME)[0]
    module = TimeEmbedding(frequencies, width)
    own = _under("time_mlp.", state)
    _load(module, own, lambda key: _renamed(key, _TIME), f"{_NAME}'s time embedding")
    return module.eval()


def official_key(key: str) -> str:
    """The official name of a parameter or buffer of our model."""
    top, _, rest = key.partition(".")
    if top == "encoder":
        return f"backbone.{official_backbone_key(rest)}"
    if top == "denoiser":
        return f"decode_head.{_renamed(rest, _DENOISER)}"
    if top == "time":
        return f"time_mlp.{_renamed(rest, _TIME)}"
    return _renamed(key, _REST)


def official_backbone_key(key: str) -> str:
    """The official name, within the backbone, of a parameter of our encoder."""
    if match := re.match(r"stages\.(\d+)\.(optical|sar|dcf|dss4)\.(\d+)\.(.*)", key):
        stage, stack, block, rest = match.groups()
        inner = _renamed(rest, _BLOCK if stack in ("optical", "sar") else _FUSION_BLOCK)
        return f"{_STACKS[stack]}.{stage}.blocks.{block}.{inner}"
    return _renamed(key, _BACKBONE)


def official_fusion_key(key: str) -> str:
    """The official name, within its block, of a parameter of our fusion block."""
    return _renamed(key, _FUSION_BLOCK)


def _renamed(key: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _load(
    module: nn.Module, state: Mapping[str, Tensor], official: Callable[[str], str], what: str
) -> None:
    ours = module.state_dict()

    def convert(key: str, tensor: Tensor) -> Tensor:
        if not key.endswith(("scan.A_log", "scan.D")) or tensor.dim() == 0:
            return tensor
        # Official: directions and channels in one axis.
        directions = ours[key].shape[0]
        if len(tensor) % directions:
            return tensor
        return tensor.reshape(directions, -1, *tensor.shape[1:])

    load_renamed(module, state, official, what, convert)


def _made(make: Callable[[], _T]) -> _T:
    try:
        return make()
    except ArgumentsError as error:
        raise ImportFailedError(f"the state dict describes no {_NAME}: {error}") from error


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The terms of the configuration, also those nested in ``args`` and ``backbone``."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        nested = name in ("args", "backbone") and isinstance(value, Mapping)
        for term, own in (_flat(value) if nested else {name: value}).items():
            if flat.setdefault(term, own) != own:
                raise ImportFailedError(f"{term} is given twice: {flat[term]!r} and {own!r}")
    return {term: value for term, value in flat.items() if term not in _NOT_OF_THE_NETWORK}


def _scan_size(
    state: Mapping[str, Tensor], prefix: str, in_proj: str, conv: str, mlp: str
) -> ScanSize:
    """Sizes of a scan module, and of the MLP beside it, off their shapes."""
    directions, inner, rank = shape_of(state, f"{prefix}dt_projs_weight", 3, _NAME)
    if directions != 4:
        raise ImportFailedError(
            f"{prefix}dt_projs_weight has {directions} scan directions, {_NAME} has 4"
        )
    block = re.sub(r"[^.]+\.$", "", prefix)
    channels = shape_of(state, f"{prefix}{in_proj}.weight", 2, _NAME)[1]
    return ScanSize(
        channels=channels,
        inner=inner,
        d_state=shape_of(state, f"{prefix}A_logs", 2, _NAME)[1],
        dt_rank=rank,
        kernel=shape_of(state, f"{prefix}{conv}.weight", 4, _NAME)[2],
        conv_bias=f"{prefix}{conv}.bias" in state,
        hidden=shape_of(state, f"{block}{mlp}.fc1.weight", 2, _NAME)[0],
        eps=1e-5,
    )


def _scan_config(size: ScanSize) -> dict[str, tuple[Any, ...]]:
    """The terms of the configuration that a scan module's sizes settle."""
    automatic = size.dt_rank == math.ceil(size.channels / 16)
    return {
        "ssm_d_state": (size.d_state,),
        "ssm_ratio": (size.inner / size.channels,),
        "ssm_dt_rank": (size.dt_rank, "auto") if automatic else (size.dt_rank,),
        "ssm_conv": (size.kernel,),
        "ssm_conv_bias": (size.conv_bias,),
        "mlp_ratio": (size.hidden / size.channels,),
    }


def _backbone_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    sizes = [
        _scan_size(state, f"layers_a.{i}.blocks.0.op.", "in_proj", "conv2d", "mlp")
        for i in range(4)
    ]
    ranks = [size.dt_rank for size in sizes]
    automatic = ranks == [math.ceil(size.channels / 16) for size in sizes]
    if not automatic and len(set(ranks)) > 1:
        raise ImportFailedError(f"dt ranks {ranks} follow no rule of the architecture")
    bands = [shape_of(state, f"patch_embed_{m}.0.weight", 4, _NAME)[1] for m in "AB"]

    def depths(stack: str) -> list[int]:
        blocks = {tuple(key.split(".")[1:4]) for key in state if key.startswith(stack)}
        return [
            sum(stage == str(i) and kind == "blocks" for stage, kind, _ in blocks) for i in range(4)
        ]

    return {
        "in_chans": bands,
        "num_classes": shape_of(state, "classifier.head.weight", 2, _NAME)[0],
        "dims": [size.channels for size in sizes],
        "depths": depths("layers_a."),
        "dcf_depths": depths("fuse_layers."),
        "dss4_depths": depths("fuse_layersv2."),
        "ssm_d_state": sizes[0].d_state,
        "ssm_ratio": sizes[0].inner / sizes[0].channels,
        "ssm_dt_rank": "auto" if automatic else ranks[0],
        "ssm_conv": sizes[0].kernel,
        "ssm_conv_bias": sizes[0].conv_bias,
        "mlp_ratio": sizes[0].hidden / sizes[0].channels,
    }


def _backbone_config(found: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Every term of a backbone's configuration with the values that agree with its shapes."""
    bands, rank = found["in_chans"], found["ssm_dt_rank"]
    known: dict[str, tuple[Any, ...]] = {
        name: (found[name],)
        for name in ("num_classes", "depths", "ssm_d_state", "ssm_ratio", "ssm_conv")
    }
    # The official names of the two splits there are: 1 SAR band or 2.
    split = {1: ("whu",), 2: ("hunan",)}.get(bands[1], ())
    return {
        **_FIXED,
        **known,
        "in_chans": (sum(bands), bands),
        "data": split,
        "data2": split,
        "dims": (found["dims"], found["dims"][0]),
        "fuse_depths": (found["dcf_depths"],),
        "fuse_depthsv2": (found["dss4_depths"],),
        "ssm_dt_rank": (rank,),
        "ssm_conv_bias": (found["ssm_conv_bias"],),
        "mlp_ratio": (found["mlp_ratio"],),
    }


def _decoder_arguments(state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    """Sizes of neck and denoiser; takes ``decoder_heads`` out of ``config``."""
    layer = "decode_head.encoder.layers."
    rows = shape_of(state, f"{layer}0.attentions.0.attention_weights.weight", 2, _NAME)[0]
    heads = config.pop("decoder_heads", max(rows // _POINTS, 1))
    if not isinstance(heads, int) or heads < 1 or rows % heads:
        raise ImportFailedError(f"decoder_heads divides {rows} here, which {heads!r} does not")
    return {
        "neck_channels": shape_of(state, "decode_head.conv_seg.weight", 4, _NAME)[1],
        "decoder_layers": len({k.split(".")[3] for k in state if k.startswith(layer)}),
        "decoder_heads": heads,
        "decoder_points": rows // heads,
        "decoder_ffn": shape_of(state, f"{layer}0.ffns.0.layers.0.0.weight", 2, _NAME)[0],
        "time_frequencies": shape_of(state, "time_mlp.0.weights", 1, _NAME)[0],
    }
