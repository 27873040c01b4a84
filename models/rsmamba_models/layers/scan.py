"""The selective scan of a map with the parameters that drive it (the core of VMamba's SS2D)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsmamba_models.layers.pointwise import linear
from rsmamba_models.ops import projected_scan, scan_order
from rsmamba_models.ops.orders import KINDS


class SelectiveScan2d(nn.Module):
    """Scan a channel-last map along K directions and sum (VMamba, arXiv 2401.10166).

    Steps, B and C depend on one pixel only, so they are projected once, on the un-permuted map, for
    all directions.

    Args:
        inner: Channels, E.
        d_state: States per channel, N.
        dt_rank: Rank of the step's projection, R.
        order: Kind of ``ops.scan_order``; it fixes K.
    """

    def __init__(self, inner: int, d_state: int, dt_rank: int, order: str = "cross") -> None:
        super().__init__()
        self.order = order
        directions = KINDS[order]
        # One projection of every kind per direction; rows of x_proj are: dt, B, C.
        self.x_proj = nn.Parameter(torch.empty(directions, dt_rank + 2 * d_state, inner))
        self.dt_proj = nn.Parameter(torch.empty(directions, inner, dt_rank))
        self.dt_bias = nn.Parameter(torch.empty(directions, inner))
        self.A_log = nn.Parameter(torch.empty(directions, inner, d_state))
        self.D = nn.Parameter(torch.empty(directions, inner))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, dt_min: float = 1e-3, dt_max: float = 1e-1) -> None:
        """Mamba's initialisation: steps log-uniform in [dt_min, dt_max], A = -1..-N, D = 1."""
        inner, rank = self.dt_proj.shape[1:]
        nn.init.uniform_(self.x_proj, -(inner**-0.5), inner**-0.5)
        nn.init.uniform_(self.dt_proj, -(rank**-0.5), rank**-0.5)
        log_step = torch.empty_like(self.dt_bias).uniform_(math.log(dt_min), math.log(dt_max))
        step = log_step.exp().clamp_(min=1e-4)
        self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus's inverse
        states = torch.arange(1, self.A_log.shape[-1] + 1, device=self.A_log.device)
        self.A_log.copy_(torch.log(states.float()))
        nn.init.ones_(self.D)

    def forward(self, u: Tensor, guides: Sequence[Tensor] = ()) -> Tensor:
        """Scan ``u``.

        Args:
            u: ``(B, H, W, E)``.
            guides: Maps like ``u`` that steps, B and C are computed from; each serves an equal
                share of the directions, in their order. None: ``u`` itself.

        Returns:
            ``(B, H, W, E)``, the sum over the directions.
        """
        batch, height, width, inner = u.shape
        length, directions = height * width, self.x_proj.shape[0]
        rank, d_state = self.dt_proj.shape[-1], self.A_log.shape[-1]
        guides = guides or (u,)
        parts = [
            linear(guide.reshape(batch, length, inner), weight.flatten(0, 1))
            for guide, weight in zip(guides, self.x_proj.chunk(len(guides)), strict=True)
        ]
        projected = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        projected = projected.view(batch, length, directions, rank + 2 * d_state).transpose(1, 2)
        low, b, c = torch.split(projected, [rank, d_state, d_state], -1)
        y = projected_scan(
            u.reshape(batch, length, inner),
            low,
            self.dt_proj,
            -torch.exp(self.A_log.float() if self.A_log.itemsize < 4 else self.A_log),
            b,
            c,
            self.D,
            self.dt_bias,
            order=scan_order(self.order, height, width, device=u.device),
        )
        return y.view(batch, height, width, inner)
