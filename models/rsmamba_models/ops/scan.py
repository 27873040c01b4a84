"""The two public ops, and the custom operator that carries them through autograd and compilers."""

# Older torch (2.4 for one) reads an operator's return type from typing's List only.
from typing import List  # noqa: UP035

import torch
import torch.nn.functional as F
from torch import Tensor

from rsmamba_models.errors import ArgumentsError
from rsmamba_models.ops import reference, traceable
from rsmamba_models.ops.arguments import ScanArguments
from rsmamba_models.ops.backends import SCAN, load_backend

# Plain operators, which any tracer sees through; the others are one operator to it.
_PLAIN = {"reference": reference, "traceable": traceable}


def directional_scan(
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
    backend: str | None = None,
) -> Tensor:
    """Scan a flattened map along K directions and sum the results at their pixels.

    Per direction k, channel d and time t, at pixel ``p = order[k, t]``::

        step = softplus(delta[k, p, d] + delta_bias[k, d])
        h_n  = exp(step A[k, d, n]) h_n + step B[k, p, n] u[p, d]
        y[p, d] += sum_n C[k, p, n] h_n + D[k, d] u[p, d]

    (RS-Mamba, arXiv 2404.02668, section 3; VMamba's SS2D with four directions.) State and sums are
    float32, float64 for float64 ``u``, whatever the dtypes; nothing is permuted beforehand.

    Args:
        u: ``(B, L, D)`` channel-last map.
        delta: ``(B, K, L, D)`` raw steps at map positions, before bias and softplus.
        A: ``(K, D, N)`` negative decay rates.
        B: ``(B, K, L, N)`` input weights at map positions.
        C: ``(B, K, L, N)`` output weights at map positions.
        D: ``(K, D)`` skip weights, or None.
        delta_bias: ``(K, D)`` added to ``delta``, or None.
        order: ``(K, L)`` integer table, each row a permutation of ``0..L-1``.
        delta_softplus: Whether the step goes through softplus (the identity above 20).
        backend: Name of a back end; None chooses (see ``ops.backends``).

    Returns:
        ``(B, L, D)`` in the dtype of ``u``.

    Raises:
        ArgumentsError: Shapes that do not fit together.
        BackendError: ``backend`` is unknown or not usable.
    """
    scan = ScanArguments(u, delta, A, B, C, D, delta_bias, order, delta_softplus)
    scan.check()
    if torch.compiler.is_compiling():  # resolved where the graph runs, not where it is traced
        name = SCAN.asked(backend) or ""
    else:
        name = SCAN.resolve(u, backend)
    if name in _PLAIN:
        plain: Tensor = _PLAIN[name].forward(scan)
        return plain
    tensors = [_last_contiguous(t) for t in (u, delta, A, B, C)]
    y: Tensor = _directional_scan(*tensors, D, delta_bias, order, delta_softplus, name)
    return y


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """Mamba's selective scan over one sequence, in its channel-first layout (arXiv 2312.00752).

    Args:
        u: ``(B, D, L)`` sequence.
        delta: ``(B, D, L)`` raw steps.
        A: ``(D, N)`` negative decay rates.
        B: ``(B, G, N, L)`` or ``(B, N, L)`` input weights; channel c is of group ``c // (D / G)``.
        C: Output weights, shaped as ``B``.
        D: ``(D,)`` skip weights, or None.
        z: ``(B, D, L)`` gate: the result is multiplied by ``silu(z)``; or None.
        delta_bias: ``(D,)`` added to ``delta``, or None.
        delta_softplus: Whether the step goes through softplus (the identity above 20).
        backend: Name of a back end; None chooses (see ``ops.backends``).

    Returns:
        ``(B, D, L)`` in the dtype of ``u``.

    Raises:
        ArgumentsError: Shapes that do not fit together.
        BackendError: ``backend`` is unknown or not usable.
    """
    if u.dim() != 3 or u.shape != delta.shape:
        raise ArgumentsError(
            f"a scan takes u and delta (B, D, L), not {tuple(u.shape)} and {tuple(delta.shape)}"
        )
    B, C = (t[:, None] if t.dim() == 3 else t for t in (B, C))
    groups = B.shape[1]
    if groups == 0 or u.shape[1] % groups or B.shape != C.shape:
        raise ArgumentsError(
            f"{u.shape[1]} channels do not divide into the groups of B {tuple(B.shape)} and "
            f"C {tuple(C.shape)}, both (B, groups, N, L)"
        )
    size = u.shape[1] // groups
    order = torch.arange(u.shape[-1], dtype=torch.int32, device=u.device)[None]
    parts = []
    for g in range(groups):
        c = slice(g * size, (g + 1) * size)
        parts.append(
            directional_scan(
                u[:, c].transpose(1, 2),
                delta[:, c].transpose(1, 2)[:, None],
                A[None, c],
                B[:, g].transpose(1, 2)[:, None],
                C[:, g].transpose(1, 2)[:, None],
                None if D is None else D[None, c],
                None if delta_bias is None else delta_bias[None, c],
                order=order,
                delta_softplus=delta_softplus,
                backend=backend,
            )
        )
    y = torch.cat(parts, -1).transpose(1, 2)
    return y if z is None else (y * F.silu(z)).to(u.dtype)


@torch.library.custom_op("rsmamba::directional_scan", mutates_args=())
def _directional_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor,
    delta_softplus: bool,
    backend: str,
) -> Tensor:
    if u.numel() == 0:
        return torch.zeros_like(u, memory_format=torch.contiguous_format)
    scan = ScanArguments(u, delta, A, B, C, D, delta_bias, order, delta_softplus)
    backend = SCAN.resolve(u, backend)
    if backend == "native":
        scan = scan.to(u.device, torch.float32)
    y: Tensor = load_backend(backend).forward(scan)
    return y.to(u.dtype).contiguous()


@_directional_scan.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor,
    delta_softplus: bool,
    backend: str,
) -> Tensor:
    return u.new_empty(u.shape)


@torch.library.custom_op("rsmamba::directional_scan_backward", mutates_args=())
def _directional_scan_backward(
    grad_y: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor,
    delta_softplus: bool,
    backend: str,
) -> List[Tensor]:  # noqa: UP006
    scan = ScanArguments(u, delta, A, B, C, D, delta_bias, order, delta_softplus)
    given = scan.differentiable
    if u.numel() == 0:
        grads = [None if t is None else torch.zeros_like(t) for t in given]
    else:
        backend = SCAN.resolve(u, backend)
        if backend == "native":
            grad_y, scan = grad_y.float(), scan.to(u.device, torch.float32)
        grads = load_backend(backend).backward(grad_y, scan)
    # An operator returns tensors only: an absent argument's gradient is an empty one.
    return [
        u.new_empty(0) if t is None or g is None else g.to(t.dtype).contiguous()
        for t, g in zip(given, grads, strict=True)
    ]


@_directional_scan_backward.register_fake
def _(
    grad_y: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor,
    delta_softplus: bool,
    backend: str,
) -> List[Tensor]:  # noqa: UP006
    given = [u, delta, A, B, C, D, delta_bias]
    return [u.new_empty(0) if t is None else t.new_empty(t.shape) for t in given]


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:  # type: ignore[type-arg]
    *tensors, delta_softplus, backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = (delta_softplus, backend)  # type: ignore[attr-defined]


def _differentiate(ctx, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    tensors = ctx.saved_tensors
    grads = _directional_scan_backward(grad_y.contiguous(), *tensors, *ctx.options)
    present = (None if t is None else g for t, g in zip(tensors[:7], grads, strict=True))
    return (*present, None, None, None)


_directional_scan.register_autograd(_differentiate, setup_context=_save)


def _last_contiguous(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()
