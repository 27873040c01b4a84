"""What is used elsewhere where no kernel is at hand, written down here as peers to be measured.

``step_loop`` does what the reference functions of the official Mamba and VMamba code do
(``selective_scan_ref``, with the cross scan and merge around it): permuted copies of the map per
direction, decays and drives of all steps precomputed, then a Python loop over the steps.
``unfold_attention`` does what the Python form of neighbourhood attention does: every window
unfolded, border windows repeated.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def step_loop(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    order: Tensor,
    delta_softplus: bool = True,
) -> Tensor:
    """Directional scan step by step; arguments and result as ``ops.directional_scan``.

    Args:
        u: ``(B, L, D)``.
        delta: ``(B, K, L, D)``.
        A: ``(K, D, N)``.
        B: ``(B, K, L, N)``.
        C: ``(B, K, L, N)``.
        D: ``(K, D)`` or None.
        delta_bias: ``(K, D)`` or None.
        order: ``(K, L)``.
        delta_softplus: Whether the step goes through softplus.

    Returns:
        ``(B, L, D)``.
    """
    batch, length, channels = u.shape
    directions = order.shape[0]
    path = order.long()

    def along(maps: Tensor) -> Tensor:
        """(B, K, L, X) at map positions -> (B, K, X, L), a copy in visiting order."""
        index = path[None, :, :, None].expand_as(maps)
        return maps.gather(2, index).transpose(2, 3).contiguous()

    y = _selective_scan_ref(
        along(u[:, None].expand(-1, directions, -1, -1)).view(batch, -1, length),
        along(delta).view(batch, -1, length),
        A.flatten(0, 1),
        along(B),
        along(C),
        None if D is None else D.flatten(),
        None if delta_bias is None else delta_bias.flatten(),
        delta_softplus,
    )
    y = y.view(batch, directions, channels, length)
    back = path.argsort(-1)[None, :, None].expand_as(y)
    return y.gather(-1, back).sum(1).transpose(1, 2)


def step_loop_bytes(batch: int, directions: int, channels: int, states: int, length: int) -> int:
    """About the most memory that ``step_loop`` holds: five float32 tensors of all states."""
    return 5 * 4 * batch * directions * channels * states * length


def _selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """u, delta (B, D, L); A (D, N); B, C (B, G, N, L); D, delta_bias (D,) -> (B, D, L)."""
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    B, C = (t.repeat_interleave(u.shape[1] // t.shape[1], 1) for t in (B, C))
    delta_a = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    delta_b_u = torch.einsum("bdl,bdnl,bdl->bdln", delta, B, u)
    x = A.new_zeros(u.shape[0], *A.shape)
    ys = []
    for t in range(u.shape[2]):
        x = delta_a[:, :, t] * x + delta_b_u[:, :, t]
        ys.append(torch.einsum("bdn,bdn->bd", x, C[:, :, :, t]))
    y = torch.stack(ys, 2)
    return y if D is None else y + u * D[:, None]


def unfold_attention(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """Neighbourhood attention over unfolded windows; as ``ops.neighborhood_attention``, no bias.

    Args:
        q: ``(B, heads, H, W, D)``, H and W at least ``kernel_size``.
        k: Keys, shaped as ``q``.
        v: Values, shaped as ``q``.
        kernel_size: Side of the window.

    Returns:
        ``(B, heads, H, W, D)``.
    """
    batch, heads, height, width, dim = q.shape

    def windows(maps: Tensor) -> Tensor:
        """(B, heads, H, W, D) -> (B * heads, D, window pixels, H, W)."""
        image = maps.flatten(0, 1).permute(0, 3, 1, 2)
        columns = F.unfold(image, kernel_size)
        inside = (height - kernel_size + 1, width - kernel_size + 1)
        patches = columns.view(batch * heads, dim, kernel_size**2, *inside)
        rows, cols = (
            (torch.arange(n) - kernel_size // 2).clamp(0, n - kernel_size) for n in (height, width)
        )
        return patches[:, :, :, rows][..., cols]

    query = (q * dim**-0.5).flatten(0, 1).permute(0, 3, 1, 2)[:, :, None]
    share = (query * windows(k)).sum(1).softmax(1)
    y: Tensor = (share[:, None] * windows(v)).sum(2)
    return y.permute(0, 2, 3, 1).view(batch, heads, height, width, dim)
