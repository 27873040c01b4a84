"""From stored values to what a model was trained on."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rsmamba_models import Transform

_AT_ONCE = 1 << 17
"""Values of a stretch of rows: what every step of a transform reads is still in the cache then."""


def normalise(
    values: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    transform: Transform,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Apply a checkpoint's transform; invalid pixels become 0, the mean of the training data.

    Args:
        values: (bands, h, w) as stored.
        valid: (h, w).
        transform: of the checkpoint.
        out: (bands, h, w), where the result goes; None makes a new array.

    Returns:
        (bands, h, w) float32, finite wherever the transform of a valid pixel is.
    """
    if out is None:
        out = np.empty(values.shape, dtype=np.float32)
    bands, height, width = values.shape
    step = max(1, _AT_ONCE // (bands * width))
    # Invalid pixels may hold NaN or extremes; what they turn into is thrown away.
    with np.errstate(all="ignore"):
        for first in range(0, height, step):
            rows = slice(first, first + step)
            transform.apply(values[:, rows], out[:, rows])
    if not valid.all():
        np.copyto(out, np.float32(0), where=~valid)
    return out
