"""Building blocks that several families share."""

from rsmamba_models.layers.basic import DropPath, Mlp, linear_init_
from rsmamba_models.layers.causal import CausalConv1d
from rsmamba_models.layers.conv import (
    BatchNorm2d,
    ConvNormAct,
    DepthwiseConv,
    Downsample,
    NarrowConv2d,
    PatchEmbed,
    TopDown,
    UpsampleFuse,
)
from rsmamba_models.layers.pointwise import Linear, linear
from rsmamba_models.layers.rows import by_rows
from rsmamba_models.layers.scan import SelectiveScan2d
from rsmamba_models.layers.sizes import crop, pad_to, pad_to_multiple, resize

__all__ = [
    "BatchNorm2d",
    "CausalConv1d",
    "ConvNormAct",
    "DepthwiseConv",
    "Downsample",
    "DropPath",
    "Linear",
    "Mlp",
    "NarrowConv2d",
    "PatchEmbed",
    "SelectiveScan2d",
    "TopDown",
    "UpsampleFuse",
    "by_rows",
    "crop",
    "linear",
    "linear_init_",
    "pad_to",
    "pad_to_multiple",
    "resize",
]
