"""Samba's sizes: the official one, and one for laptops."""

from rsmamba_models.zoo.entry import EncoderEntry, segmenter_entry

_PAPER = "Samba, arXiv 2404.01705"

ENCODERS = (
    EncoderEntry("samba", "samba", "samba", "SambaEncoder"),
    EncoderEntry(  # this project's own
        "samba_nano",
        "samba",
        "samba",
        "SambaEncoder",
        {
            "dims": (24, 48, 96, 192),
            "depths": (1, 1, 2, 1),
            "mlp_ratios": (4, 4, 4, 4),
            "stem_channels": 16,
            "d_state": 16,
        },
    ),
)
ENTRIES = (
    segmenter_entry(
        "samba_upernet",
        "samba",
        {
            "encoder": "samba",
            "decoder": "upernet",
            "auxiliary": {"level": 2, "channels": 256, "convs": 1},
        },
        _PAPER,
    ),
    segmenter_entry(
        "samba_upernet_nano",
        "samba",
        {
            "encoder": "samba_nano",
            "decoder": "upernet",
            "decoder_arguments": {"channels": 64},
            "auxiliary": {"level": 2, "channels": 32, "convs": 1},
        },
        _PAPER,
    ),
)
