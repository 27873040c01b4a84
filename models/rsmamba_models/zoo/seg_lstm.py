"""Seg-LSTM's encoders and its official combinations with decoders."""

from typing import Any

from rsmamba_models.zoo.entry import EncoderEntry, segmenter_entry

_PAPER = "Seg-LSTM, arXiv 2406.14086"
_DECODERS = ("upernet", "ann", "apcnet", "deeplabv3", "deeplabv3plus")

_SIZES: dict[str, dict[str, Any]] = {
    # The official splits of 24 blocks in four groups: alike but for where the maps are taken.
    "seglstm": {"depths": (6, 6, 6, 6)},
    "seglstm_44124": {"depths": (4, 4, 12, 4)},
    # This project's own, for laptops: finer patches, as buildings are small.
    "seglstm_nano": {"dim": 96, "patch_size": 8, "depths": (2, 2, 2, 2)},
}

ENCODERS = tuple(
    EncoderEntry(name, "seg_lstm", "seg_lstm", "VisionLSTM", preset)
    for name, preset in _SIZES.items()
)
ENTRIES = (
    *(
        segmenter_entry(
            f"{encoder}_{decoder}",
            "seg_lstm",
            {"encoder": encoder, "decoder": decoder, "auxiliary": {"level": 2, "channels": 256}},
            _PAPER,
        )
        for encoder in ("seglstm", "seglstm_44124")
        for decoder in _DECODERS
    ),
    segmenter_entry(
        "seglstm_upernet_nano",
        "seg_lstm",
        {
            "encoder": "seglstm_nano",
            "decoder": "upernet",
            "decoder_arguments": {"channels": 64},
            "auxiliary": {"level": 2, "channels": 32},
        },
        f"this project, after {_PAPER}",
    ),
)
