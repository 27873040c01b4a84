"""The directional scan with its steps still unprojected: what every selective scan module calls.

Steps are the largest thing in such a module, ``(K, L, D)`` numbers made from ``(K, L, R)``. Where
no gradient is wanted, the native scan makes them inside, sixteen steps at a time; for the others
they are made for some channels at a time, in a buffer that is used again.
"""

from typing import Any

import torch
from torch import Tensor

from rsmamba_models.errors import ArgumentsError
from rsmamba_models.ops import native
from rsmamba_models.ops.arguments import ScanArguments
from rsmamba_models.ops.backends import SCAN
from rsmamba_models.ops.scan import directional_scan

_BLOCK_BYTES = 8 << 20
"""Bytes of steps at a time, for each thread on a CPU: they should stay in its last-level cache."""
_BLOCK_BYTES_ELSEWHERE = 1 << 30
_CHANNELS = 32
"""Blocks are multiples of this many channels: what a pixel has of them is read in whole lines."""


def projected_scan(
    u: Tensor,
    low: Tensor,
    dt_proj: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    order: Tensor,
    delta_softplus: bool = True,
    backend: str | None = None,
) -> Tensor:
    """``directional_scan`` with ``delta[k, p, d] = sum_r low[k, p, r] dt_proj[k, d, r]``.

    (Mamba, arXiv 2312.00752, section 3.6: the step is projected through a low rank R.) Channels do
    not meet in a scan, so the result is the same however many of them are computed together.

    Args:
        u: ``(B, L, D)`` channel-last map.
        low: ``(B, K, L, R)`` steps in their low rank, at map positions; any strides.
        dt_proj: ``(K, D, R)``.
        A: As in ``directional_scan``, and so are all others.
        B: ``(B, K, L, N)``.
        C: ``(B, K, L, N)``.
        D: ``(K, D)`` or None.
        delta_bias: ``(K, D)`` or None.
        order: ``(K, L)``.
        delta_softplus: Whether the step goes through softplus.
        backend: Name of a back end, or None.

    Returns:
        ``(B, L, D)`` in the dtype of ``u``.

    Raises:
        ArgumentsError: Shapes that do not fit together.
        BackendError: ``backend`` is unknown or not usable.
    """
    wanted = (A.shape[0], u.shape[-1], low.shape[-1])
    if low.dim() != 4 or tuple(dt_proj.shape) != wanted:
        raise ArgumentsError(
            f"steps (B, K, L, R) and their projection (K, D, R) do not fit: {tuple(low.shape)} and "
            f"{tuple(dt_proj.shape)}, for A {tuple(A.shape)}"
        )

    options: dict[str, Any] = {"delta_softplus": delta_softplus, "backend": backend}
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        delta = low @ dt_proj.transpose(1, 2).to(low.dtype)
        return directional_scan(u, delta, A, B, C, D, delta_bias, order=order, **options)

    if u.numel() and SCAN.resolve(u, backend) == "native":
        y: Tensor = _native_scan(u, low, dt_proj, A, B, C, D, delta_bias, order, delta_softplus)
        return y

    dtype, channels = u.dtype, u.shape[-1]
    if u.device.type == "cpu":  # where scans work in float32: cast once, not for every block
        u, low, B, C = (t.float() if t.itemsize < 4 else t for t in (u, low, B, C))
    weight = dt_proj.to(low.dtype)
    block = _block(low, channels)
    steps = low.new_empty(*low.shape[:3], block) if low.device.type == "cpu" else None
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    for first in range(0, channels, block):
        c = slice(first, min(first + block, channels))
        y[..., c] = directional_scan(
            u[..., c],
            _project(low, weight[:, c], steps),
            A[:, c],
            B,
            C,
            None if D is None else D[:, c],
            None if delta_bias is None else delta_bias[:, c],
            order=order,
            **options,
        )
    return y.to(dtype)


@torch.library.custom_op("rsmamba::projected_scan", mutates_args=())
def _native_scan(
    u: Tensor,
    low: Tensor,
    dt_proj: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor,
    delta_softplus: bool,
) -> Tensor:
    scan = ScanArguments(u, low, A, B, C, D, delta_bias, order, delta_softplus)
    return native.forward(scan.to(u.device, torch.float32), dt_proj.float()).to(u.dtype)


@_native_scan.register_fake
def _native_scan_fake(u: Tensor, *rest: Any) -> Tensor:
    return u.new_empty(u.shape)


def _block(low: Tensor, channels: int) -> int:
    """Channels whose steps are held at a time."""
    bound = _BLOCK_BYTES_ELSEWHERE
    if low.device.type == "cpu":
        bound = _BLOCK_BYTES * torch.get_num_threads()
    of_one = max(1, low[..., 0].numel() * low.element_size())
    return min(channels, max(1, bound // of_one // _CHANNELS) * _CHANNELS)


def _project(low: Tensor, weight: Tensor, buffer: Tensor | None) -> Tensor:
    """``(B, K, L, R)`` times ``(K, D, R)``: steps ``(B, K, L, D)``, in the buffer if there is one.

    On CPUs a product for every image and direction, which reads ``low`` in place and writes rows of
    D, takes half the time of one batched product.
    """
    if buffer is None:
        return low @ weight.transpose(1, 2)
    delta = buffer[..., : weight.shape[1]]
    for item, into in zip(low, delta, strict=True):
        for k, w in enumerate(weight):
            torch.mm(item[k], w.t(), out=into[k])
    return delta
