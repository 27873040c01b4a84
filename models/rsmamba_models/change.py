"""Change detection with any pyramid encoder: both dates through it, fused scale by scale."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rsmamba_models.errors import ArgumentsError
from rsmamba_models.layers import ConvNormAct
from rsmamba_models.segmenter import Segmenter, to_image

FUSIONS = ("concat", "difference")


class SiameseChangeDetector(Segmenter):
    """What changed from the first image to the second.

    Args:
        fusion: How the two maps of a scale become one. ``concat``: ``[date 1, date 2]`` through a
            1x1 convolution, batch norm and ReLU, as in RSM-CD (arXiv 2404.02668); sees the order
            of the dates. ``difference``: ``|date 1 - date 2|``; symmetric, no parameters.
        **arguments: Those of ``Segmenter``.

    Raises:
        ArgumentsError: Values that make no such network.
        UnknownModelError: No such encoder or decoder.
    """

    task: ClassVar[str] = "change"

    def __init__(self, *, fusion: str = "concat", **arguments: Any) -> None:
        super().__init__(**arguments)
        if fusion not in FUSIONS:
            raise ArgumentsError(f"fusion is one of {', '.join(FUSIONS)}, not {fusion!r}")
        self.arguments["fusion"] = fusion
        heads = [self.decoder] if self.auxiliary is None else [self.decoder, self.auxiliary]
        self.levels = sorted({level for head in heads for level in head.levels})
        self.fuse: nn.ModuleDict | None = None
        if fusion == "concat":
            widths = {level: self.encoder.channels[level] for level in self.levels}
            self.fuse = nn.ModuleDict(
                {str(level): ConvNormAct(2 * c, c, 1, bias=False) for level, c in widths.items()}
            )

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:  # type: ignore[override]
        """Two of (B, in_chans, H, W), same size -> logits (B, num_classes, H, W)."""
        maps, size = self._fused(x1, x2)
        return to_image(self.decoder(maps), size, x1)

    def training_forward(self, x1: Tensor, x2: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """What losses need; see ``Segmenter.training_forward``."""
        maps, size = self._fused(x1, x2)
        return self.heads(maps, size, x1)

    def _fused(self, x1: Tensor, x2: Tensor) -> tuple[Sequence[Tensor], tuple[int, int]]:
        if x1.shape != x2.shape:
            raise ArgumentsError(
                f"the two dates differ in shape: {tuple(x1.shape)} and {tuple(x2.shape)}"
            )
        both, size = self.encode(torch.cat([x1, x2]))
        for level in self.levels:  # what no head reads is not fused
            first, second = both[level].chunk(2)
            if self.fuse is None:
                both[level] = (first - second).abs()
            else:
                both[level] = self.fuse[str(level)](torch.cat([first, second], 1))
        return both, size
