"""Mamba-Diffusion's sizes."""

from typing import Any

from rsmamba_models.zoo.entry import EncoderEntry, Entry

_SIZES: dict[str, dict[str, Any]] = {
    # This project's own, for laptops.
    "nano": {
        "dims": (16, 32, 64, 128),
        "depths": (1, 1, 2, 1),
        "dcf_depths": (1, 1, 1, 1),
        "dss4_depths": (1, 1, 1, 1),
        "drop_path_rate": 0.0,
        "neck_channels": 64,
        "decoder_layers": 2,
        "decoder_ffn": 256,
        "bit_scale": 0.1,  # the official class's default; the published configuration has 0.01
    },
    "base": {},
}

ENTRIES = tuple(
    Entry(
        name=f"mamba_diffusion_{size}",
        family="mamba_diffusion",
        task="multimodal",
        module="mamba_diffusion",
        class_name="MambaDiffusion",
        preset=preset,
        paper="Mamba-Diffusion, DOI 10.1109/LGRS.2024.3476269",
    )
    for size, preset in _SIZES.items()
)
# Its encoder takes two images, so that it serves no decoder but its own.
ENCODERS: tuple[EncoderEntry, ...] = ()
