"""Two models whose answers are known exactly: what they compute with are integers."""

import torch
from torch import Tensor, nn

from rsmamba_cli.bench.pipeline.scenes import BANDS
from rsmamba_models import CheckpointMeta, ClassInfo, InputSpec, Transform

CLASSES = 6
RADIUS = 16
"""Of the blur over 33 pixels: farther than this it does not look."""
NAMES = ("1x1 convolution", "33-pixel blur")

# Small integers, so that logits are integers times a power of two, exact in float32.
_WEIGHTS = ((3, -1, 0, -2), (-2, 3, -1, 0), (0, -2, 3, -1), (-1, 0, -2, 3), (1, 1, 1, -3), (1,) * 4)
_OFFSETS = (0, 0, 0, 0, 0, -1600)


class Pixelwise(nn.Module):
    """A 1 x 1 convolution to six classes."""

    size_multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(BANDS, CLASSES, 1).requires_grad_(False)
        self.mix.weight.copy_(torch.tensor(_WEIGHTS)[:, :, None, None] / 256)
        assert self.mix.bias is not None
        self.mix.bias.copy_(torch.tensor(_OFFSETS) / 256)

    def forward(self, image: Tensor) -> Tensor:
        """(n, 4, h, w) whole numbers to logits (n, 6, h, w)."""
        mixed: Tensor = self.mix(image)
        return mixed


class Blur(Pixelwise):
    """The same after a sum over 33 x 33 pixels, zeros beyond the window."""

    def forward(self, image: Tensor) -> Tensor:
        """(n, 4, h, w) whole numbers to logits (n, 6, h, w)."""
        blurred = _box_sum(_box_sum(image, -1), -2)
        return super().forward(blurred) / 1024


def _box_sum(image: Tensor, dim: int) -> Tensor:
    """Sums over 2 r + 1 neighbours: differences of running sums, which are exact in integers."""
    size = image.shape[dim]
    running = image.cumsum(dim)
    out = running.index_select(dim, torch.arange(size).add_(RADIUS).clamp_(max=size - 1))
    if size > RADIUS + 1:
        later = out.narrow(dim, RADIUS + 1, size - RADIUS - 1)
        later -= running.narrow(dim, 0, size - RADIUS - 1)
    return out


def build(name: str) -> Pixelwise:
    """One of `NAMES`."""
    return Pixelwise() if name == NAMES[0] else Blur()


def metadata(tile: int) -> CheckpointMeta:
    """What a checkpoint of either would say; inputs are fed as they are stored.

    Args:
        tile: side of a window.
    """
    same = {"offset": (0.0,), "scale": (1.0,), "mean": (0.0,), "std": (1.0,)}
    transform = Transform(**{name: value * BANDS for name, value in same.items()})
    bands = tuple(f"b{i}" for i in range(1, BANDS + 1))
    return CheckpointMeta(
        architecture="bench",
        task="segmentation",
        inputs=(InputSpec(name="image", bands=bands, transform=transform),),
        classes=tuple(
            ClassInfo(value=i, name=f"class {i}", color=(40 * i, 20 * i, 10 * i))
            for i in range(CLASSES)
        ),
        output="softmax",
        tile=tile,
        size_multiple=1,
        sha256="0" * 64,
    )
