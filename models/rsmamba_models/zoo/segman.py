"""SegMAN's sizes."""

from typing import Any

from rsmamba_models.zoo.entry import EncoderEntry, segmenter_entry

_PAPER = "SegMAN, arXiv 2412.11890"
_ENCODERS: dict[str, dict[str, Any]] = {
    # This project's own, for laptops: narrower, and windows for which 65 pixels a side suffice.
    "nano": {
        "dims": (24, 48, 96, 144),
        "depths": (1, 1, 2, 1),
        "heads": (1, 2, 4, 6),
        "windows": (7, 7, 5, 3),
    },
    "tiny": {
        "dims": (32, 64, 144, 192),
        "depths": (2, 2, 4, 2),
        "heads": (1, 2, 4, 8),
        "windows": (11, 9, 9, 7),
    },
    "small": {
        "dims": (64, 144, 288, 512),
        "depths": (2, 2, 10, 4),
        "heads": (2, 4, 8, 16),
        "windows": (11, 9, 7, 7),
        "mlp_ratios": (4.0, 4.0, 3.4, 3.4),
    },
    "base": {
        "dims": (96, 160, 364, 560),
        "depths": (4, 4, 18, 4),
        "heads": (4, 8, 13, 20),
        "windows": (11, 9, 7, 7),
        "layer_scale": 1e-6,
        # The shipped configurations leave it at 0, which costs two points of mIoU on ADE20K
        # (the authors, in their issues 34 and 46). Nothing is known of the other sizes.
        "drop_path_rate": 0.25,
    },
    "large": {
        "dims": (96, 192, 432, 640),
        "depths": (4, 4, 28, 4),
        "heads": (4, 8, 12, 20),
        "windows": (11, 9, 7, 7),
        "layer_scale": 1e-6,
    },
    "large2": {
        "dims": (96, 192, 448, 640),
        "depths": (4, 4, 26, 4),
        "heads": (4, 8, 14, 20),
        "windows": (11, 9, 7, 7),
        "layer_scale": 1e-6,
    },
}
_DECODERS: dict[str, dict[str, int]] = {
    "nano": {"channels": 64, "feat_proj_dim": 64},
    "tiny": {"channels": 128, "feat_proj_dim": 192},
    "small": {"channels": 144, "feat_proj_dim": 288},
    "base": {"channels": 180, "feat_proj_dim": 320},
    "large": {"channels": 224, "feat_proj_dim": 432},
    "large2": {"channels": 224, "feat_proj_dim": 448},
}

ENCODERS = tuple(
    EncoderEntry(
        name=f"segman_{size}",
        family="segman",
        module="segman",
        class_name="SegMANEncoder",
        preset=preset,
    )
    for size, preset in _ENCODERS.items()
)
ENTRIES = tuple(
    segmenter_entry(
        f"segman_{size}",
        "segman",
        {"encoder": f"segman_{size}", "decoder": "mmscope", "decoder_arguments": decoder},
        _PAPER,
    )
    for size, decoder in _DECODERS.items()
)
