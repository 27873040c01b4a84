"""ANN: asymmetric non-local attention, whose keys are a few averages over the map.

Zhu et al., "Asymmetric Non-local Neural Networks for Semantic Segmentation", arXiv 1908.07678, as
mmsegmentation's ANNHead computes it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.checks import check_counts
from rsmamba_models.decoders.base import Decoder
from rsmamba_models.errors import ArgumentsError
from rsmamba_models.layers import ConvNormAct


class AsymmetricBlock(nn.Module):
    """Asymmetric non-local block: every pixel of a map attends to pyramid-pooled keys of another.

    With two maps it is the paper's AFNB (its section 3.4), with one map and one projection for
    queries and keys its APNB (section 3.3).

    Args:
        channels: Width of the map with the queries.
        source_channels: Width of the map with keys and values.
        inner: Width of queries, keys and values.
        out_channels: Width out.
        scales: Cells along each side of the pooled keys, a grid a scale.
        shared: One projection makes queries and keys.
        act: Whether a ReLU ends the block.
        eps: Epsilon of the batch norms.
    """

    def __init__(
        self,
        channels: int,
        source_channels: int,
        inner: int,
        out_channels: int,
        scales: Sequence[int],
        shared: bool,
        act: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.query = ConvNormAct(channels, inner, 1, bias=False, eps=eps)
        self.key = None if shared else ConvNormAct(source_channels, inner, 1, bias=False, eps=eps)
        self.value = nn.Conv2d(source_channels, inner, 1)
        self.project = nn.Conv2d(inner, channels, 1)
        self.bottleneck = ConvNormAct(2 * channels, out_channels, 1, bias=False, eps=eps, act=act)

    def forward(self, source: Tensor, x: Tensor) -> Tensor:
        """(B, source_channels, h', w') and (B, channels, h, w) -> (B, out_channels, h, w)."""
        query = self.query(x)
        key = self.pool(query if self.key is None else self.key(source))
        value = self.pool(self.value(source))
        context = F.scaled_dot_product_attention(query.flatten(2).mT, key, value)
        context = self.project(context.mT.reshape_as(query))
        out: Tensor = self.bottleneck(torch.cat([context, x], 1))
        return out

    def pool(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, S, C), S the cells of all scales."""
        cells = [F.adaptive_avg_pool2d(x, scale).flatten(2) for scale in self.scales]
        return torch.cat(cells, 2).mT


class ANN(Decoder):
    """ANN's decoder: a finer and a coarser map fused, then attention of the result to itself.

    Args:
        in_channels: Widths of the encoder's maps, fine to coarse.
        num_classes: Channels of the logits.
        levels: The finer and the coarser map; negative ones count from the coarsest.
        channels: Width of the map that is classified.
        project_channels: Width of queries, keys and values.
        pool_scales: Cells along each side of the pooled keys and values.
        dropout: Probability of dropping a channel, in training.
        batch_norm_eps: Epsilon of every batch norm.

    Raises:
        ArgumentsError: Values that make no decoder.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        levels: Sequence[int] = (-2, -1),
        channels: int = 512,
        project_channels: int = 256,
        pool_scales: Sequence[int] = (1, 3, 6, 8),
        dropout: float = 0.1,
        batch_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(in_channels, num_classes, channels, dropout, batch_norm_eps)
        check_counts(project_channels=project_channels, pool_scales=pool_scales)
        if len(levels) != 2:
            raise ArgumentsError(f"levels are those of two maps, not {list(levels)}")
        self.read_only(*levels)
        self.low, self.high = levels
        low, high = in_channels[self.low], in_channels[self.high]
        self.fusion = AsymmetricBlock(
            high, low, project_channels, high, pool_scales, False, False, batch_norm_eps
        )
        self.bottleneck = ConvNormAct(high, channels, 3, bias=False, eps=batch_norm_eps)
        self.context = AsymmetricBlock(
            channels, channels, project_channels, channels, pool_scales, True, True, batch_norm_eps
        )
        self.initialise()
        for block in (self.fusion, self.context):
            block.value.reset_parameters()
            nn.init.zeros_(block.project.weight)  # at first the context adds nothing

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> logits (B, num_classes, h, w) of the coarser map's size."""
        x = self.fusion(maps[self.low], maps[self.high])
        x = self.bottleneck(self.dropout(x))
        return self.classify(self.context(x, x))
