"""Building blocks that several families share."""

from rsmamba_models.layers.basic import DropPath, Mlp, linear_init_
from rsmamba_models.layers.conv import ConvNormAct, Downsample, PatchEmbed
from rsmamba_models.layers.sizes import crop, pad_to_multiple

__all__ = [
    "ConvNormAct",
    "Downsample",
    "DropPath",
    "Mlp",
    "PatchEmbed",
    "crop",
    "linear_init_",
    "pad_to_multiple",
]
