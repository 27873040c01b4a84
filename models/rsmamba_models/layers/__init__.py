"""Building blocks that several families share."""

from rsmamba_models.layers.basic import DropPath, Mlp, linear_init_
from rsmamba_models.layers.conv import BatchNorm2d, ConvNormAct, Downsample, PatchEmbed
from rsmamba_models.layers.sizes import crop, pad_to_multiple, resize

__all__ = [
    "BatchNorm2d",
    "ConvNormAct",
    "Downsample",
    "DropPath",
    "Mlp",
    "PatchEmbed",
    "crop",
    "linear_init_",
    "pad_to_multiple",
    "resize",
]
