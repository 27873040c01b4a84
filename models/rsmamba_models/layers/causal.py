"""Convolution along a sequence of tokens."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CausalConv1d(nn.Conv1d):
    """Depth-wise convolution of tokens that sees the token itself and those before it.

    Two forms of one sum, neither of which copies the tokens into another layout. On CPUs, the
    convolution of an image of one row is the fastest forward pass by far, and has the slowest
    gradient; a sum of shifted products takes half its time forward and backward together.

    Args:
        channels: Width in and out.
        kernel: Tokens that one output sees.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, kernel, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        return self._shifted(x) if torch.is_grad_enabled() else self._row(x)

    def _row(self, x: Tensor) -> Tensor:
        length, padding = x.shape[1], (0, self.kernel_size[0] - 1)
        row = x.transpose(1, 2).unsqueeze(2)  # a channel-last image, as it lies
        weight = self.weight.unsqueeze(2)
        y = F.conv2d(row, weight, self.bias, padding=padding, groups=self.groups)
        return y[:, :, 0, :length].transpose(1, 2)

    def _shifted(self, x: Tensor) -> Tensor:
        taps = self.weight[:, 0].unbind(1)
        padded = F.pad(x, (0, 0, len(taps) - 1, 0))
        views = [padded[:, t : t + x.shape[1]] for t in range(len(taps))]
        out = views[0] * taps[0] + cast(Tensor, self.bias)
        for view, tap in zip(views[1:], taps[1:], strict=True):
            out = torch.addcmul(out, view, tap)
        return out.to(x.dtype)  # weights in float32 beside tokens in bfloat16: as autocast has it
