"""RS-Mamba's sizes."""

from typing import Any

from rsmamba_models.zoo.entry import EncoderEntry, Entry

_PAPER = "RS-Mamba, arXiv 2404.02668"
_SIZES: dict[str, dict[str, Any]] = {
    # This project's own, for laptops: a float16 checkpoint below 3 MB.
    "nano": {
        "dims": (24, 48, 96, 192),
        "depths": (1, 1, 2, 1),
        "ssm_d_state": 4,
        "ssm_ratio": 1.0,
        "drop_path_rate": 0.0,
    },
    "tiny": {},
    "small": {"depths": (2, 2, 27, 2)},
    "base": {"depths": (2, 2, 27, 2), "dims": (128, 256, 512, 1024)},
}
# The official classes' own defaults of stochastic depth.
_TASKS: dict[str, tuple[str, str, float]] = {
    "ss": ("segmentation", "RSMambaSegmenter", 0.1),
    "cd": ("change", "RSMambaChangeDetector", 0.2),
}

ENTRIES = tuple(
    Entry(
        name=f"rsm_{short}_{size}",
        family="rs_mamba",
        task=task,
        module="rs_mamba",
        class_name=class_name,
        preset={"drop_path_rate": drop_path, **preset},
        paper=_PAPER,
        other_tasks={"change": ("rs_mamba", "RSMambaChangeDetector")} if short == "ss" else {},
    )
    for short, (task, class_name, drop_path) in _TASKS.items()
    for size, preset in _SIZES.items()
)
ENCODERS = tuple(
    EncoderEntry(
        name=f"rs_mamba_{size}",
        family="rs_mamba",
        module="rs_mamba",
        class_name="RSMambaEncoder",
        preset={"drop_path_rate": 0.1, **preset},
    )
    for size, preset in _SIZES.items()
)
