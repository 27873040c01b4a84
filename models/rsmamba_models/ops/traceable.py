"""The selective scan in a few dozen plain operators, for exporters: no loop over the steps.

The recurrence ``h_t = a_t h_{t-1} + b_t`` is a prefix sum under ``(a, b) . (a', b') = (a a', a' b +
b')`` (Blelloch, "Prefix Sums and Their Applications", 1990), taken here by doubling: inside blocks
of steps, over the blocks' ends, and once more to carry these into the blocks. The graph grows with
the logarithm of the length. Decays are multiplied, never divided: nothing can overflow. It holds
all states of one direction, so it is for graphs of small maps, not for running models here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rsmamba_models.ops import reference
from rsmamba_models.ops.arguments import ScanArguments
from rsmamba_models.ops.orders import inverse_order

_BLOCK = 64


def forward(scan: ScanArguments) -> Tensor:
    """Scan a map along every direction and sum the results; see ``directional_scan``."""
    dtype = scan.state_dtype
    u, order = scan.u.to(dtype), scan.order.long()
    back = inverse_order(order)
    y = torch.zeros_like(u)
    for k in range(order.shape[0]):
        step = scan.delta[:, k].to(dtype)
        if scan.delta_bias is not None:
            step = step + scan.delta_bias[k].to(dtype)
        if scan.delta_softplus:
            step = F.softplus(step)  # the identity above 20
        x, step, b, c = (
            t.to(dtype).index_select(1, order[k]) for t in (u, step, scan.B[:, k], scan.C[:, k])
        )
        decay = torch.exp(step[..., None, :] * scan.A[k].to(dtype).T)
        h = _prefix(decay, (step * x)[..., None, :] * b[..., None])
        y = y + (c[..., None, :] @ h).squeeze(-2).index_select(1, back[k])
        if scan.D is not None:
            y = y + u * scan.D[k].to(dtype)
    return y.to(scan.u.dtype)


def backward(grad_y: Tensor, scan: ScanArguments) -> tuple[Tensor | None, ...]:
    """Gradients of ``forward`` by autograd: ``(du, ddelta, dA, dB, dC, dD, dbias)``."""
    return reference.differentiate(forward, grad_y, scan)


def _prefix(decay: Tensor, drive: Tensor) -> Tensor:
    """States ``h_t = decay_t h_{t-1} + drive_t`` from zero, along axis 1 of (B, L, N, D)."""
    batch, length, *state = decay.shape
    blocks = -(-length // _BLOCK)
    if blocks < 2:
        return _doubling(decay, drive)[1]
    more = (0, 0, 0, 0, 0, blocks * _BLOCK - length)
    inside = (F.pad(t, more).reshape(batch * blocks, _BLOCK, *state) for t in (decay, drive))
    whole, local = (t.reshape(batch, blocks, _BLOCK, *state) for t in _doubling(*inside))
    ends = _prefix(whole[:, :, -1], local[:, :, -1])
    starts = F.pad(ends[:, :-1], (0, 0, 0, 0, 1, 0))
    return (local + whole * starts[:, :, None]).flatten(1, 2)[:, :length]


def _doubling(decay: Tensor, drive: Tensor) -> tuple[Tensor, Tensor]:
    """Products of all decays up to each step of axis 1, and the states from zero."""
    reach = 1
    while reach < decay.shape[1]:
        # Steps whose past begins before the first one have seen all of it.
        later, before = decay[:, reach:], slice(None, -reach)
        drive = torch.cat([drive[:, :reach], drive[:, reach:] + later * drive[:, before]], 1)
        decay = torch.cat([decay[:, :reach], later * decay[:, before]], 1)
        reach *= 2
    return decay, drive
