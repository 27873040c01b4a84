"""Neighbourhood attention by our C++ library (see ``native``): float32 on the CPU.

Maps are read and written in place whatever their strides, planar or channel-last. Results do not
depend on the number of threads by a single bit; against float64 they agree to about 1e-6.
"""

import ctypes

import torch
from torch import Tensor

from rsmamba_models.ops import native

_SIZES = ("batch", "heads", "height", "width", "size", "rows", "columns", "kernel_size")
_FORWARD = ("q", "k", "v", "y")
_BACKWARD = ("grad_y", "grad_q", "grad_k", "grad_v")
_Strides = ctypes.c_int64 * 5


class _Problem(ctypes.Structure):
    """``NeighborhoodProblem`` of csrc/neighborhood.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((f"{name}_strides", _Strides) for name in _FORWARD),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "bias", "y")),
        *((f"{name}_strides", _Strides) for name in _BACKWARD),
        *((name, ctypes.c_void_p) for name in (*_BACKWARD, "grad_bias")),
        ("scale", ctypes.c_float),
    )

    def point(self, name: str, tensor: Tensor) -> None:
        """Let a field point at a tensor, and note the strides of a map."""
        setattr(self, name, tensor.data_ptr())
        if tensor.dim() == 5:
            setattr(self, f"{name}_strides", _Strides(*tensor.stride()))


def forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel_size: int, scale: float
) -> Tensor:
    """Neighbourhood attention of float32 CPU tensors; see ``neighborhood_tiled.forward``.

    Raises:
        BackendError: The library is not usable here, or memory ran out.
    """
    table = None if bias is None else bias.contiguous()
    problem = _problem(q, k, v, table, kernel_size, scale)
    y = torch.empty_like(q)
    problem.point("y", y)
    native.call("rsmamba_neighborhood_forward", problem)
    return y


def backward(
    grad_y: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v and bias; see ``neighborhood_tiled.backward``.

    Raises:
        BackendError: As in ``forward``.
    """
    table = None if bias is None else bias.contiguous()
    problem = _problem(q, k, v, table, kernel_size, scale)
    problem.point("grad_y", grad_y)
    grad_q, grad_k, grad_v = (torch.empty_like(t) for t in (q, k, v))
    problem.point("grad_q", grad_q)
    problem.point("grad_k", grad_k)
    problem.point("grad_v", grad_v)
    grad_table = None if table is None else torch.empty_like(table)
    if grad_table is not None:
        problem.point("grad_bias", grad_table)
    native.call("rsmamba_neighborhood_backward", problem)
    return grad_q, grad_k, grad_v, grad_table


def _problem(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel_size: int, scale: float
) -> _Problem:
    batch, heads, height, width, size = q.shape
    problem = _Problem(
        batch=batch,
        heads=heads,
        height=height,
        width=width,
        size=size,
        rows=min(kernel_size, height),
        columns=min(kernel_size, width),
        kernel_size=kernel_size,
        scale=scale,
    )
    for name, tensor in (("q", q), ("k", k), ("v", v), ("bias", bias)):
        if tensor is not None:
            problem.point(name, tensor)
    return problem
