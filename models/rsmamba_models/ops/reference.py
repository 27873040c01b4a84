"""The selective scan as its equation: slow, exact in float64, differentiable by autograd.

Every faster back end is held against this one. From Gu & Dao, "Mamba: Linear-Time Sequence
Modeling with Selective State Spaces" (arXiv 2312.00752), equation 2 with the discretisation of its
code (zero-order hold for A, Euler for B)::

    step_t = softplus(delta_t + bias)
    h_t    = exp(step_t A) h_{t-1} + step_t B_t u_t        h_0 = 0
    y_t    = C_t h_t + D u_t
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

from rsmamba_models.ops.arguments import ScanArguments


def forward(scan: ScanArguments) -> Tensor:
    """Scan a map along every direction and sum the results; see ``directional_scan``."""
    u, delta, A, B, C, D, delta_bias, order, delta_softplus = scan
    dtype = scan.state_dtype
    x = u.to(dtype)
    y = torch.zeros_like(x)
    for k in range(order.shape[0]):
        path = order[k].long()
        step = delta[:, k].to(dtype)
        if delta_bias is not None:
            step = step + delta_bias[k].to(dtype)
        if delta_softplus:
            step = F.softplus(step)  # the identity above 20
        b, c = B[:, k].to(dtype), C[:, k].to(dtype)
        along = _recurrence(x[:, path], step[:, path], A[k].to(dtype), b[:, path], c[:, path])
        y = y.index_add(1, path, along)
        if D is not None:
            y = y + x * D[k].to(dtype)
    return y.to(u.dtype)


def _recurrence(u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """One direction: u, step (B, L, D); A (D, N); B, C (B, L, N) -> (B, L, D)."""
    h = u.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[1]):
        decay = torch.exp(step[:, t, :, None] * A)
        h = decay * h + (step[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
        y.append((h * C[:, t, None, :]).sum(-1))
    return torch.stack(y, 1) if y else torch.zeros_like(u)


def backward(grad_y: Tensor, scan: ScanArguments) -> tuple[Tensor | None, ...]:
    """Gradients of ``forward`` by autograd: ``(du, ddelta, dA, dB, dC, dD, dbias)``."""
    return differentiate(forward, grad_y, scan)


def differentiate(
    function: Callable[[ScanArguments], Tensor], grad_y: Tensor, scan: ScanArguments
) -> tuple[Tensor | None, ...]:
    """Gradients of a scan by autograd, in the order of ``scan.differentiable``."""

    def run() -> tuple[Tensor | None, ...]:
        leaves = [None if t is None else t.detach().requires_grad_() for t in scan.differentiable]
        y = function(scan.with_differentiable(leaves))
        given = [t for t in leaves if t is not None]
        found = iter(torch.autograd.grad(y, given, grad_y, materialize_grads=True))
        return tuple(None if t is None else next(found) for t in leaves)

    # Inside an operator autograd is off for the calling thread.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()
