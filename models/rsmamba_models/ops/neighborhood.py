"""Neighbourhood attention (arXiv 2204.07143) with SegMAN's relative position bias (2412.11890)."""

from types import ModuleType

# Older torch (2.4 for one) reads an operator's return type from typing's List only.
from typing import Any, List  # noqa: UP035

import torch
from torch import Tensor

from rsmamba_models.errors import ArgumentsError, BackendError
from rsmamba_models.ops import native_neighborhood, neighborhood_tiled, third_party
from rsmamba_models.ops.backends import ATTENTION


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: int,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    form: str = "auto",
) -> Tensor:
    """Attention of each pixel to the window of ``kernel_size`` x ``kernel_size`` pixels around it.

    Along an axis of n pixels the window of pixel i starts at
    ``clamp(i - kernel_size // 2, 0, n - kernel_size)``: at the border it is shifted inwards, never
    padded or cut. Where n is less than ``kernel_size`` the window is the whole axis (the official
    kernels refuse such maps). The logit of query i and key j is::

        scale * (q_i . k_j) + bias[head, j_row - i_row + kernel_size - 1,
                                         j_column - i_column + kernel_size - 1]

    so that queries at the border read the outer parts of the table. Logits, softmax and sums are
    float32, float64 for float64 ``q``, whatever the dtypes and whether or not autocast is on.

    Args:
        q: ``(B, heads, H, W, D)`` queries. Any strides; nothing is copied for them.
        k: Keys, shaped as ``q``.
        v: Values, shaped as ``q``.
        kernel_size: Side of the window, in pixels.
        scale: Factor of the products; None for ``D ** -0.5``. SegMAN scales q beforehand: 1.
        bias: ``(heads, 2 kernel_size - 1, 2 kernel_size - 1)`` relative position table, or None.
        form: ``"reference"``: gathers every window, plain operators that any exporter understands,
            memory ``kernel_size`` squared times the keys; ``"tiled"``: dense products of 8 x 8
            tiles, memory bounded whatever the map; ``"native"``: our C++ library, on the CPU, not
            for float64; ``"natten"``: the package of that name, on CUDA devices, without bias.
            ``"auto"`` takes the environment's ``RSMAMBA_NA``, else the native form where it can
            run, else the tiled one.

    Returns:
        ``(B, heads, H, W, D)`` in the dtype of ``q``, its axes laid out in the order of ``q``'s (a
        view of a planar or channel-last map gives one of a map of the same kind).

    Raises:
        ArgumentsError: Shapes that do not fit together, or a window below 1 pixel.
        BackendError: The form is unknown or not usable here.
    """
    _check(q, k, v, kernel_size, bias)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if torch.compiler.is_compiling():  # resolved where the graph runs, not where it is traced
        name = ATTENTION.asked(form) or ""
    else:
        name = ATTENTION.resolve(q, form)
    if name == "natten":
        return _natten(q, k, v, kernel_size, scale, bias)
    if name == "reference":
        return _reference(q, k, v, bias, kernel_size, scale).to(q.dtype)
    y: Tensor = _attention(q, k, v, bias, kernel_size, scale, name)
    return y


def window_index(length: int, window: int, device: torch.device) -> Tensor:
    """(length, window) table: the pixels along an axis that each pixel's window holds."""
    start = (torch.arange(length, device=device) - window // 2).clamp(0, length - window)
    return start[:, None] + torch.arange(window, device=device)


def _reference(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel_size: int, scale: float
) -> Tensor:
    height, width = q.shape[2:4]
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (_state(t, q) for t in (q, k, v))
        rows = window_index(height, min(kernel_size, height), q.device)
        columns = window_index(width, min(kernel_size, width), q.device)
        at = (slice(None), slice(None), rows[:, None, :, None], columns[None, :, None, :])
        logits = torch.einsum("bhyxd,bhyxrcd->bhyxrc", q * scale, k[at])
        if bias is not None:
            down = rows - torch.arange(height, device=q.device)[:, None] + kernel_size - 1
            right = columns - torch.arange(width, device=q.device)[:, None] + kernel_size - 1
            logits = logits + _state(bias, q)[:, down[:, None, :, None], right[None, :, None, :]]
        share = logits.flatten(4).softmax(-1).view_as(logits)
        return torch.einsum("bhyxrc,bhyxrcd->bhyxd", share, v[at])


def _module(form: str, q: Tensor) -> ModuleType:
    """The form's forward and backward."""
    return native_neighborhood if ATTENTION.resolve(q, form) == "native" else neighborhood_tiled


def _natten(
    q: Tensor, k: Tensor, v: Tensor, kernel_size: int, scale: float, bias: Tensor | None
) -> Tensor:
    if bias is not None:
        raise BackendError("natten has no relative position bias; use the form 'tiled'")
    if min(q.shape[2:4]) < kernel_size:
        raise BackendError(f"natten takes no map of {q.shape[2]} x {q.shape[3]} pixels here")

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return neighborhood_attention(q, k, v, kernel_size, scale=scale, form="tiled")

    return third_party.natten(ours, q, k, v, kernel_size, scale)


@torch.library.custom_op("rsmamba::neighborhood_attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    scale: float,
    form: str,
) -> Tensor:
    if q.numel() == 0:
        return torch.empty_like(q)
    with torch.autocast(q.device.type, enabled=False):
        table = None if bias is None else _state(bias, q)
        y: Tensor = _module(form, q).forward(
            _state(q, q), _state(k, q), _state(v, q), table, kernel_size, scale
        )
        return y.to(q.dtype)


@_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    scale: float,
    form: str,
) -> Tensor:
    return torch.empty_like(q)


@torch.library.custom_op("rsmamba::neighborhood_attention_backward", mutates_args=())
def _attention_backward(
    grad_y: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    scale: float,
    form: str,
) -> List[Tensor]:  # noqa: UP006
    given = (q, k, v, bias)
    if q.numel() == 0:
        return [q.new_empty(0) if t is None else torch.zeros_like(t) for t in given]
    with torch.autocast(q.device.type, enabled=False):
        table = None if bias is None else _state(bias, q)
        grads = _module(form, q).backward(
            _state(grad_y, q), _state(q, q), _state(k, q), _state(v, q), table, kernel_size, scale
        )
    # An operator returns tensors only: an absent bias has an empty gradient.
    return [
        q.new_empty(0) if t is None or g is None else g.to(t.dtype)
        for t, g in zip(given, grads, strict=True)
    ]


@_attention_backward.register_fake
def _(
    grad_y: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    scale: float,
    form: str,
) -> List[Tensor]:  # noqa: UP006
    return [q.new_empty(0) if t is None else torch.empty_like(t) for t in (q, k, v, bias)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, bias, *options = inputs
    ctx.save_for_backward(q, k, v, bias)
    ctx.options = options


def _differentiate(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    grads = _attention_backward(grad_y, *ctx.saved_tensors, *ctx.options)
    if ctx.saved_tensors[3] is None:
        return (*grads[:3], None, None, None, None)
    return (*grads, None, None, None)


_attention.register_autograd(_differentiate, setup_context=_save)


def _state(tensor: Tensor, q: Tensor) -> Tensor:
    return tensor.to(torch.float64 if q.dtype == torch.float64 else torch.float32)


def _check(q: Tensor, k: Tensor, v: Tensor, kernel_size: int, bias: Tensor | None) -> None:
    if q.dim() != 5 or k.shape != q.shape or v.shape != q.shape:
        raise ArgumentsError(
            "neighborhood attention takes q, k and v of one shape (B, heads, H, W, D), not "
            f"{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    if not (q.is_floating_point() and k.is_floating_point() and v.is_floating_point()):
        raise ArgumentsError(f"neighborhood attention takes floating point, not {q.dtype}")
    if kernel_size < 1:
        raise ArgumentsError(f"a window has at least 1 pixel a side, not {kernel_size}")
    side = 2 * kernel_size - 1
    if bias is not None and tuple(bias.shape) != (q.shape[1], side, side):
        raise ArgumentsError(
            f"bias has shape {tuple(bias.shape)}, but {q.shape[1]} heads and a window of "
            f"{kernel_size} ask for {(q.shape[1], side, side)}"
        )
