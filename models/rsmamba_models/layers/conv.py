"""Convolutions that change a map's size, and the convolution block of the decoders."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.layers.rows import by_rows
from rsmamba_models.tracing import is_recorded

_LANES = 16
"""Channels that a CPU computes at a time."""


class PatchEmbed(nn.Module):
    """Image to tokens at stride 4 by two overlapping convolutions (VMamba's "v2" stem).

    Args:
        in_chans: Bands of the image.
        channels: Width of the tokens; the first convolution has half of it.
        eps: Epsilon of both layer norms.
    """

    def __init__(self, in_chans: int, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, channels // 2, 3, stride=2, padding=1)
        self.norm1 = nn.LayerNorm(channels // 2, eps=eps)
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = nn.LayerNorm(channels, eps=eps)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, H/4, W/4, channels)."""
        if not torch.is_grad_enabled():  # gradients of so few channels are less exact that way
            image = image.contiguous(memory_format=torch.channels_last)
        x = self.conv1(image).permute(0, 2, 3, 1).contiguous()
        x = by_rows(lambda x: F.gelu(self.norm1(x)), x, width=2 * x.shape[-1], out=x)
        x = self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = self.norm2(x)
        return out


class Downsample(nn.Module):
    """Halve a channel-last map: convolution 3x3 of stride 2, layer norm.

    Args:
        in_channels: Width in.
        out_channels: Width out.
        eps: Epsilon of the layer norm.
    """

    def __init__(self, in_channels: int, out_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in) -> (B, ceil(H/2), ceil(W/2), out)."""
        out: Tensor = self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return out


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that uses its running statistics where a batch has one value per channel.

    A single value has no variance, so PyTorch refuses it in training; a pooled 1x1 map of a batch
    of one is such a case.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class DepthwiseConv(nn.Conv2d):
    """A convolution of every channel by itself, of odd size, on a channel-last map.

    Args:
        channels: Width in and out.
        kernel: Side of the convolution.
        bias: Whether it has one.
    """

    def __init__(self, channels: int, kernel: int, bias: bool = True) -> None:
        padding = kernel // 2
        super().__init__(channels, channels, kernel, padding=padding, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvNormAct(nn.Sequential):
    """Convolution of odd size, batch norm, ReLU.

    Args:
        in_channels: Width in.
        out_channels: Width out.
        kernel: Side of the convolution.
        bias: Whether the convolution has one.
        eps: Epsilon of the batch norm.
        stride: Of the convolution.
        padding: Zeros on every side; None for as many as keep a map's size at stride 1.
        dilation: Distance of neighbouring taps.
        groups: Groups of channels that do not see each other.
        act: Whether there is the ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        bias: bool,
        eps: float = 1e-5,
        stride: int = 1,
        padding: int | None = None,
        *,
        dilation: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2) if padding is None else padding
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation, groups, bias
        )
        self.norm = BatchNorm2d(out_channels, eps=eps)
        self.act = nn.ReLU() if act else nn.Identity()


class UpsampleFuse(ConvNormAct):
    """Upsample a map by nearest, concatenate with a finer one, fuse by 1x1, batch norm, ReLU.

    Args:
        coarse: Width of the map that is upsampled.
        fine: Width of the finer one, and of the result.
        eps: Epsilon of the batch norm.
    """

    def __init__(self, coarse: int, fine: int, eps: float = 1e-5) -> None:
        super().__init__(coarse + fine, fine, 1, bias=False, eps=eps)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:  # type: ignore[override]
        """(B, coarse, h, w), (B, fine, H, W) -> (B, fine, H, W)."""
        # A pixel-wise map and nearest neighbours commute, so the coarse part stays coarse.
        of_coarse, of_fine = self.conv.weight.tensor_split([coarse.shape[1]], 1)
        up = F.interpolate(F.conv2d(coarse, of_coarse), size=fine.shape[-2:], mode="nearest")
        out: Tensor = self.act(self.norm(up + F.conv2d(fine, of_fine)))
        return out


class TopDown(nn.ModuleList):
    """From the coarsest map of a pyramid to the finest, by an ``UpsampleFuse`` for every finer one.

    Args:
        widths: Of the maps, fine to coarse.
        eps: Epsilon of the batch norms.
    """

    def __init__(self, widths: Sequence[int], eps: float) -> None:
        super().__init__(
            UpsampleFuse(coarse, fine, eps)
            for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> one of the finest's size and width."""
        x = maps[-1]
        for fuse, finer in zip(self, maps[-2::-1], strict=True):
            x = fuse(x, finer)
        return x


class NarrowConv2d(nn.Conv2d):
    """A convolution of odd size to few channels that keeps a map's size.

    A CPU computes sixteen channels in the time of one. So there, neighbours in a row take the place
    of channels: one convolution, as many columns wider as there are neighbours, computes all of
    them, each by the kernel in another place, and steps over them.

    Args:
        in_channels: Width in.
        out_channels: Width out.
        kernel: Side of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        count = next((n for n in (8, 4, 2) if n * self.out_channels <= _LANES), 1)
        if count == 1 or x.device.type != "cpu" or is_recorded():
            return super().forward(x)
        shifted = [F.pad(self.weight, (n, count - 1 - n)) for n in range(count)]
        width = x.shape[-1]
        y = F.conv2d(
            F.pad(x, (0, -width % count)),
            torch.cat(shifted),
            None if self.bias is None else self.bias.repeat(count),
            stride=(1, count),
            padding=self.padding,
        )
        batch, _, height, steps = y.shape
        y = y.view(batch, count, self.out_channels, height, steps).permute(0, 2, 3, 4, 1)
        return y.flatten(3)[..., :width]
