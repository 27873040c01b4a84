"""From stored values to what a model was trained on."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rsmamba_models import Transform


def normalise(
    values: npt.NDArray[Any], valid: npt.NDArray[np.bool_], transform: Transform
) -> npt.NDArray[np.float32]:
    """Apply a checkpoint's transform; invalid pixels become 0, the mean of the training data.

    Args:
        values: (bands, h, w) as stored.
        valid: (h, w).
        transform: of the checkpoint.

    Returns:
        (bands, h, w) float32, finite wherever the transform of a valid pixel is.
    """
    # Invalid pixels may hold NaN or extremes; what they turn into is thrown away.
    with np.errstate(all="ignore"):
        out = transform.apply(values)
    if not valid.all():
        out[:, ~valid] = 0
    return out
