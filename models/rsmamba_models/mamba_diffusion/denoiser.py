"""The denoiser: a deformable transformer on one map, told by every layer how noisy the mask is."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.layers import Linear


class TimeEmbedding(nn.Module):
    """Log-SNR to a vector: learned sinusoids, then an MLP.

    Args:
        frequencies: Number of learned frequencies.
        width: Width of the embedding.
    """

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(frequencies))
        self.fc1 = nn.Linear(2 * frequencies + 1, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, log_snr: Tensor) -> Tensor:
        """(B,) -> (B, width)."""
        level = log_snr[:, None]
        angle = level * self.frequencies * 2 * math.pi
        features = torch.cat([level, angle.sin(), angle.cos()], -1).to(self.fc1.weight.dtype)
        out: Tensor = self.fc2(F.gelu(self.fc1(features)))
        return out


class DeformableAttention(nn.Module):
    """Each pixel looks at a few points around itself (arXiv 2010.04159, equation 2), one level.

    Args:
        channels: Width.
        heads: Attention heads.
        points: Points a head looks at.
    """

    def __init__(self, channels: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads = heads
        self.points = points
        self.offsets = nn.Linear(channels, heads * points * 2)
        self.weights = nn.Linear(channels, heads * points)
        self.value_proj = Linear(channels, channels)
        self.out_proj = Linear(channels, channels)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Head k looks 1..points pixels away in direction k, all points alike."""
        angle = torch.arange(self.heads, device=self.offsets.bias.device) * (
            2 * math.pi / self.heads
        )
        compass = torch.stack([angle.cos(), angle.sin()], -1)
        compass = compass / compass.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, device=compass.device)
        self.offsets.bias.copy_((compass[:, None] * steps[:, None]).flatten())
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for layer in (self.value_proj, self.out_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, value: Tensor, height: int, width: int) -> Tensor:
        """(B, L, C) twice, L = height * width row by row -> (B, L, C)."""
        batch, length, channels = value.shape
        rows = batch * self.heads
        # Positions are never of less than single precision: a map may be hundreds of pixels wide.
        dtype = torch.promote_types(value.dtype, torch.float32)
        offsets = self.offsets(query).to(dtype).view(batch, length, self.heads, self.points, 2)
        size = torch.tensor([width, height], dtype=dtype, device=value.device)
        centres = _pixel_centres(height, width, dtype, value.device) / size
        places = centres[None, :, None, None] + offsets / size
        grid = (2 * places - 1).transpose(1, 2).reshape(rows, length, self.points, 2)

        values = self.value_proj(value).to(dtype).transpose(1, 2)
        values = values.reshape(rows, channels // self.heads, height, width)
        sampled = F.grid_sample(
            values, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        weights = self.weights(query).view(batch, length, self.heads, self.points).softmax(-1)
        weights = weights.to(dtype).transpose(1, 2).reshape(rows, 1, length, self.points)
        mixed = (sampled * weights).sum(-1).reshape(batch, channels, length).transpose(1, 2)
        out: Tensor = self.out_proj(mixed.to(value.dtype))
        return out


class DenoiserLayer(nn.Module):
    """Post-norm transformer layer; the time embedding scales and shifts what comes out."""

    def __init__(
        self, channels: int, heads: int, points: int, hidden: int, time_width: int, eps: float
    ) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, heads, points)
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.fc1 = Linear(channels, hidden)
        self.fc2 = Linear(hidden, channels)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.time = nn.Linear(time_width, 2 * channels)

    def forward(self, x: Tensor, position: Tensor, time: Tensor, height: int, width: int) -> Tensor:
        """Tokens (B, L, C), positions (1, L, C), time embedding (B, T) -> (B, L, C)."""
        x = self.norm1(x + self.attention(x + position, x, height, width))
        x = self.norm2(x + self.fc2(F.gelu(self.fc1(x))))
        scale, shift = self.time(F.silu(time))[:, None].chunk(2, -1)
        out: Tensor = x * (1 + scale) + shift
        return out


class Denoiser(nn.Module):
    """Noisy features and their noise level to class scores.

    Args:
        channels: Width of the map; a multiple of ``heads`` and of 4.
        outputs: Channels of the scores.
        layers: Number of layers.
        heads: Attention heads.
        points: Points a head looks at.
        hidden: Hidden width of the layers' MLPs.
        time_width: Width of the time embedding.
        eps: Epsilon of the layer norms.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        layers: int,
        heads: int,
        points: int,
        hidden: int,
        time_width: int,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenoiserLayer(channels, heads, points, hidden, time_width, eps) for _ in range(layers)
        )
        self.classify = nn.Conv2d(channels, outputs, 1)
        self.apply(_initialise)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, C, h, w) and the time embedding (B, time_width) -> scores (B, outputs, h, w)."""
        batch, channels, height, width = x.shape
        position = sine_position(channels, height, width, x.device).flatten(2).transpose(1, 2)
        position = position.to(x.dtype)
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens, position, time, height, width)
        out: Tensor = self.classify(tokens.transpose(1, 2).reshape(batch, channels, height, width))
        return out


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, DeformableAttention):
        module.reset_parameters()


def sine_position(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """DETR's sine encoding, normalised, of pixel centres: half for y, then half for x.

    Returns:
        ``(1, channels, height, width)`` float32; ``channels`` is a multiple of 4.
    """
    y, x = (
        _pixel_centres(height, width, torch.float32, device).view(height, width, 2).unbind(-1)[::-1]
    )
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=device)
    wavelength = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)
    encoded = []
    for place, side in ((y, height), (x, width)):
        angle = (place / (side + 1e-6) * (2 * math.pi))[..., None] / wavelength
        pairs = torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1)
        encoded.append(pairs.flatten(-2))
    return torch.cat(encoded, -1).permute(2, 0, 1)[None]


def _pixel_centres(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(L, 2): x and y of each pixel's centre, in pixels, row by row."""
    y = torch.arange(height, dtype=dtype, device=device) + 0.5
    x = torch.arange(width, dtype=dtype, device=device) + 0.5
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], -1)
