"""Heads of mmsegmentation 1.2: which decoder of ours each is, its arguments and its key names.

Keys are those below ``decode_head.`` or ``auxiliary_head.``.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rsmamba_models.errors import ImportFailedError
from rsmamba_models.importers.state import check_config, shape_of


@dataclass(frozen=True)
class _Head:
    """A head of mmsegmentation.

    Attributes:
        type: Its class there.
        mark: How a key begins that only this head has.
        index: The maps that it reads where no configuration says so; None for all of them.
        rules: Ours -> official, tried in turn on a key of our decoder; all that match apply.
        terms: Terms of the configuration with one possible value here.
        free: Terms that neither keys nor shapes tell.
    """

    type: str
    mark: str
    index: int | tuple[int, ...] | None
    rules: tuple[tuple[str, str], ...]
    terms: Mapping[str, Any] = field(default_factory=dict)
    free: tuple[str, ...] = ()


_SEPARABLE = (
    (r"^((?:aspp_modules|sep_bottleneck)\.\d+)\.0\.", r"\1.depthwise_conv."),
    (r"^((?:aspp_modules|sep_bottleneck)\.\d+)\.1\.", r"\1.pointwise_conv."),
)
_ASPP = (
    (r"^aspp\.image_pool\.", "image_pool.1."),
    (r"^aspp\.branches\.", "aspp_modules."),
    (r"^aspp\.bottleneck\.", "bottleneck."),
)
_HEADS = {
    "upernet": _Head(
        "UPerHead",
        "psp_modules.",
        None,
        (
            (r"^pyramid_pooling\.branches\.(\d+)\.", r"psp_modules.\1.1."),
            (r"^pyramid_pooling\.bottleneck\.", "bottleneck."),
            (r"^lateral\.", "lateral_convs."),
            (r"^smooth\.", "fpn_convs."),
            (r"^fuse\.", "fpn_bottleneck."),
        ),
        free=("pool_scales",),
    ),
    "ann": _Head(
        "ANNHead",
        "fusion.stages.",
        (2, 3),
        (
            (r"^(fusion|context)\.(query|key|value)\.", r"\1.stages.0.\2_project."),
            (r"^(fusion|context)\.project\.", r"\1.stages.0.out_project."),
        ),
        {"query_scales": [1]},
        ("key_pool_scales",),
    ),
    "apcnet": _Head(
        "APCHead",
        "acm_modules.",
        3,
        (
            (r"^contexts\.", "acm_modules."),
            (r"\.reduce\.", ".input_redu_conv."),
            (r"\.reduce_pooled\.", ".pooled_redu_conv."),
            (r"\.affinity\.", ".gla."),
            (r"\.residual\.", ".residual_conv."),
            (r"\.fuse\.", ".fusion_conv."),
        ),
        {"fusion": True},
    ),
    "deeplabv3plus": _Head(
        "DepthwiseSeparableASPPHead",
        "sep_bottleneck.",
        3,
        (*_ASPP, (r"^refine\.", "sep_bottleneck."), (r"^reduce\.", "c1_bottleneck."), *_SEPARABLE),
        free=("dilations",),
    ),
    "deeplabv3": _Head("ASPPHead", "aspp_modules.", 3, _ASPP, free=("dilations",)),
    "fcn": _Head(
        "FCNHead",
        "convs.",
        2,
        (),
        {"kernel_size": 3, "concat_input": False, "dilation": 1},
    ),
}
_COMMON_RULES = ((r"^classifier\.", "conv_seg."), (r"\.norm\.", ".bn."))
_NOT_OF_THE_NETWORK = (
    *("norm_cfg", "act_cfg", "conv_cfg", "init_cfg", "loss_decode", "sampler", "ignore_index"),
    *("input_transform", "threshold", "out_channels"),
)


def official_head_key(decoder: str, key: str) -> str:
    """The official name of a parameter or buffer of one of our decoders.

    Args:
        decoder: Its name in the registry.
        key: Our name within the decoder.
    """
    for pattern, replacement in (*_COMMON_RULES, *_HEADS[decoder].rules):
        key = re.sub(pattern, replacement, key)
    return key


def read_head(
    state: Mapping[str, Tensor], widths: Sequence[int], config: Mapping[str, Any]
) -> tuple[str, int, dict[str, Any]]:
    """Tell from keys, shapes and configuration which decoder a head is.

    Args:
        state: The head's official keys to tensors.
        widths: Widths of the encoder's maps, fine to coarse.
        config: The head's configuration or part of it: what keys and shapes tell has to agree
            with them; maps, scales, dilations and dropout are the official defaults unless given.

    Returns:
        The decoder's name in the registry, its number of classes, and its arguments.

    Raises:
        ImportFailedError: No such head, or a configuration that does not fit it.
    """
    decoder = next((n for n, h in _HEADS.items() if any(k.startswith(h.mark) for k in state)), None)
    if decoder is None:
        types = ", ".join(head.type for head in _HEADS.values())
        raise ImportFailedError(f"this head is none of those that are known: {types}")
    head = _HEADS[decoder]
    config = {name: value for name, value in config.items() if name not in _NOT_OF_THE_NETWORK}
    num_classes, channels = shape_of(state, "conv_seg.weight", 4, head.type)[:2]
    index = config.pop("in_index", range(len(widths)) if head.index is None else head.index)
    if isinstance(index, int) != isinstance(head.index, int):
        raise ImportFailedError(f"{head.type} reads other maps than in_index {index!r}")
    arguments, own = _own_terms(state, decoder, index, len(widths), config)
    if "dropout_ratio" in config:
        arguments["dropout"] = config.pop("dropout_ratio")
    known = {
        "type": (head.type,),
        "num_classes": (num_classes,),
        "channels": (channels,),
        "align_corners": (False,),
        "in_channels": (_widths(index, widths),),
        **{term: (value,) for term, value in {**head.terms, **own}.items()},
    }
    check_config(config, known, ("dropout_ratio", "in_index", *head.free), head.type)
    return decoder, num_classes, {"channels": channels, **arguments}


def _widths(index: int | Sequence[int], widths: Sequence[int]) -> int | list[int]:
    wanted = [index] if isinstance(index, int) else list(index)
    if not all(isinstance(i, int) and -len(widths) <= i < len(widths) for i in wanted):
        raise ImportFailedError(f"in_index is of the encoder's {len(widths)} maps, not {index!r}")
    return widths[index] if isinstance(index, int) else [widths[i] for i in wanted]


def _own_terms(
    state: Mapping[str, Tensor], decoder: str, index: Any, levels: int, config: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is peculiar to one head; its free terms are taken out of the configuration.

    Returns:
        Arguments of our decoder, and the values of the terms that the state dict tells.
    """
    if decoder == "upernet":
        if list(index) != list(range(levels)):
            raise ImportFailedError(f"UPerHead reads all maps of the encoder, not {index!r}")
        branches = _count(state, r"psp_modules\.(\d+)\.")
        return {"pool_scales": _scales(config, "pool_scales", (1, 2, 3, 6), branches)}, {}
    if decoder == "ann":
        inner = shape_of(state, "fusion.stages.0.query_project.conv.weight", 4, "ANNHead")[0]
        scales = _scales(config, "key_pool_scales", (1, 3, 6, 8))
        arguments = {"levels": list(index), "project_channels": inner, "pool_scales": scales}
        return arguments, {"project_channels": inner}
    if decoder == "apcnet":
        keys = (f"acm_modules.{i}.gla.weight" for i in range(_count(state, r"acm_modules\.(\d+)")))
        scales = [math.isqrt(shape_of(state, key, 4, "APCHead")[0]) for key in keys]
        return {"level": index, "pool_scales": scales}, {"pool_scales": scales}
    if decoder == "fcn":
        convs = _count(state, r"convs\.(\d+)\.")
        return {"level": index, "convs": convs}, {"num_convs": convs}
    branches = _count(state, r"aspp_modules\.(\d+)\.")
    dilations = _scales(config, "dilations", (1, 12, 24, 36), branches)
    arguments = {"level": index, "dilations": dilations}
    if decoder == "deeplabv3":
        return arguments, {}
    low, width = shape_of(state, "c1_bottleneck.conv.weight", 4, "DeepLabV3+")[:2]
    arguments |= {"low_level": 0, "low_channels": low}
    return arguments, {"c1_channels": low, "c1_in_channels": width}


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({m[1] for key in state if (m := re.match(pattern, key))})


def _scales(
    config: dict[str, Any], term: str, default: Sequence[int], number: int | None = None
) -> list[int]:
    scales = config.pop(term, default)
    if not isinstance(scales, Sequence) or number not in (None, len(scales)):
        many = "some" if number is None else number
        raise ImportFailedError(
            f"the head has {many} branches, so {term} are not {scales!r}; pass {term}= as the "
            "official configuration has them"
        )
    return list(scales)
