"""What the official Mamba-Diffusion configurations feed their networks.

The divisors are called "std" there and are variances: an 8-bit band has no deviation of 697. The
published weights were trained with them, so they are kept as they are.
"""

from rsmamba_models.checkpoint_meta import InputSpec, Transform


def _spec(
    name: str, dtype: str, bands: str, mean: tuple[float, ...], divisor: tuple[float, ...]
) -> InputSpec:
    count = len(mean)
    return InputSpec(
        name=name,
        bands=tuple(bands.split()),
        transform=Transform(offset=(0.0,) * count, scale=(1.0,) * count, mean=mean, std=divisor),
        dtype=dtype,
    )


# By the bands of the optical and the SAR image.
INPUTS: dict[tuple[int, int], tuple[InputSpec, InputSpec]] = {
    (4, 1): (  # WHU-OPT-SAR: GF-1 and GF-3
        _spec(
            "optical",
            "uint8",
            "red green blue nir",
            (104.74, 96.77, 79.21, 100.92),
            (171.04, 217.80, 305.58, 697.17),
        ),
        _spec("sar", "uint8", "sar", (54.12,), (2169.97,)),
    ),
    (13, 2): (  # Hunan: Sentinel-2, and Sentinel-1 in decibels
        _spec(
            "optical",
            "float32",
            "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12",
            (
                *(1400.32, 1117.23, 994.44, 787.33, 1016.67, 1754.84, 2082.32),
                *(1973.73, 2264.01, 502.14, 6.38, 1482.67, 818.22),
            ),
            (
                *(9664.63, 14092.01, 20028.46, 48678.92, 44938.45, 184570.05, 316813.94),
                *(320642.53, 436656.31, 16580.50, 11.98, 250519.375, 136984.2),
            ),
        ),
        _spec("sar", "float32", "VV VH", (-10.33, -16.48), (20.4, 18.79)),
    ),
}
