"""The mLSTM cell of Vision-LSTM (arXiv 2406.04303) and Seg-LSTM (arXiv 2406.14086).

Three forms of one equation: ``parallel`` is the one that the papers' code runs, quadratic in the
number of steps; ``recurrent`` takes one step at a time and is what the others are held against;
``chunkwise`` is the one to use, linear in the number of steps and mostly matrix products.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from rsmamba_models.errors import ArgumentsError
from rsmamba_models.ops import third_party
from rsmamba_models.ops.backends import MLSTM
from rsmamba_models.ops.mlstm_chunks import floor
from rsmamba_models.ops.mlstm_chunkwise import chunkwise


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_gate: Tensor,
    f_gate: Tensor,
    *,
    form: str = "auto",
    chunk: int | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Matrix memory with exponential input gate, stabilised, causal along the steps.

    Per head, with ``k' = k / sqrt(D)`` and ``F`` the cumulative sum of ``log sigmoid(f_gate)``::

        w_ts = F_t - F_s + i_s                      for s <= t
        m_t  = max_s w_ts
        S_ts = (q_t . k'_s) exp(w_ts - m_t)
        h_t  = sum_s S_ts v_s / (max(|sum_s S_ts|, exp(-m_t)) + eps)

    Gates, sums and state are float32, float64 for float64 ``q``, whatever the dtypes and whether
    or not autocast is on. Results are finite for gates of any finite size.

    Args:
        q: ``(B, H, L, D)`` queries, H heads.
        k: ``(B, H, L, D)`` keys, not scaled.
        v: ``(B, H, L, E)`` values.
        i_gate: ``(B, H, L)`` input gates before the exponential.
        f_gate: ``(B, H, L)`` forget gates before the sigmoid.
        form: ``"parallel"``: quadratic, plain operators that any exporter understands;
            ``"recurrent"``: a loop over the steps, for tests; ``"chunkwise"``: time and memory
            linear in L, in training too; ``"mlstm_kernels"``: the package of that name, on CUDA
            devices. ``"auto"`` takes the environment's ``RSMAMBA_MLSTM``, else ``"parallel"`` up to
            200 steps, where it is as fast, and ``"chunkwise"`` beyond.
        chunk: Steps of one chunk (chunkwise only); moves rounding, not the result. None: what is
            fastest, 32 for the forward pass with one CPU thread, else 64.
        eps: Added to the normaliser.

    Returns:
        ``(B, H, L, E)`` in the dtype of ``q``.

    Raises:
        ArgumentsError: Shapes that do not fit together, or a chunk below 1.
        BackendError: The form is unknown or not usable here.
    """
    _check(q, k, v, i_gate, f_gate, chunk)
    name = MLSTM.resolve(q, form)
    if name == "parallel":
        h = _parallel(q, k, v, i_gate, f_gate, eps)
    elif name == "recurrent":
        h = _recurrent(q, k, v, i_gate, f_gate, eps)
    elif name == "mlstm_kernels":
        ours = partial(chunkwise, chunk=chunk, eps=eps)
        h = third_party.mlstm_kernels(ours, q, k, v, i_gate, f_gate, eps)
    else:
        h = chunkwise(q, k, v, i_gate, f_gate, chunk, eps)
    return h.to(q.dtype)


def _parallel(
    q: Tensor, k: Tensor, v: Tensor, i_gate: Tensor, f_gate: Tensor, eps: float
) -> Tensor:
    if q.shape[2] == 0:
        return _state(v, q)  # empty, and still part of the graph
    with torch.autocast(q.device.type, enabled=False):
        q, k, v, i, f = (_state(t, q) for t in (q, k, v, i_gate, f_gate))
        total = F.logsigmoid(f).cumsum(-1)
        weights = total[..., :, None] - total[..., None, :] + i[..., None, :]
        future = torch.ones_like(weights, dtype=torch.bool).triu(1)
        weights = weights.masked_fill(future, -torch.inf)
        m = weights.amax(-1)
        scores = (q @ k.mT) * q.shape[-1] ** -0.5 * torch.exp(weights - m[..., None])
        norm = torch.maximum(scores.sum(-1).abs(), floor(m)) + eps
        h: Tensor = scores @ v / norm[..., None]
        return h


def _recurrent(
    q: Tensor, k: Tensor, v: Tensor, i_gate: Tensor, f_gate: Tensor, eps: float
) -> Tensor:
    with torch.autocast(q.device.type, enabled=False):
        q, k, v, i, f = (_state(t, q) for t in (q, k, v, i_gate, f_gate))
        k = k * q.shape[-1] ** -0.5
        log_f = F.logsigmoid(f)
        c = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3])
        n = q.new_zeros(*q.shape[:2], q.shape[3])
        # From minus infinity, not zero: the first step's stabiliser is its own input gate.
        m = q.new_full(q.shape[:2], -torch.inf)
        outputs = [v[:, :, :0]]
        for t in range(q.shape[2]):
            kept = log_f[:, :, t] + m
            m = torch.maximum(kept, i[:, :, t])
            old, new = torch.exp(kept - m), torch.exp(i[:, :, t] - m)
            key = k[:, :, t] * new[..., None]
            c = c * old[..., None, None] + key[..., :, None] * v[:, :, t, None, :]
            n = n * old[..., None] + key
            query = q[:, :, t]
            norm = torch.maximum((query * n).sum(-1).abs(), floor(m)) + eps
            outputs.append((query[..., None, :] @ c) / norm[..., None, None])
        return torch.cat(outputs, 2)


def _state(tensor: Tensor, q: Tensor) -> Tensor:
    return tensor.to(torch.float64 if q.dtype == torch.float64 else torch.float32)


def _check(
    q: Tensor, k: Tensor, v: Tensor, i_gate: Tensor, f_gate: Tensor, chunk: int | None
) -> None:
    if q.dim() != 4 or v.dim() != 4:
        raise ArgumentsError(
            "mlstm takes q (B, H, L, D) and v (B, H, L, E), not shapes "
            f"{tuple(q.shape)} and {tuple(v.shape)}"
        )
    wanted = {
        "k": (k, q.shape),
        "v": (v, (*q.shape[:3], v.shape[3])),
        "i_gate": (i_gate, q.shape[:3]),
        "f_gate": (f_gate, q.shape[:3]),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != tuple(shape):
            raise ArgumentsError(
                f"{name} has shape {tuple(tensor.shape)}, but q {tuple(q.shape)} asks for "
                f"{tuple(shape)}"
            )
    for name, tensor in {"q": q, "k": k, "v": v, "i_gate": i_gate, "f_gate": f_gate}.items():
        if not tensor.is_floating_point():
            raise ArgumentsError(f"{name} is {tensor.dtype}; mlstm takes floating point")
    if chunk is not None and chunk < 1:
        raise ArgumentsError(f"a chunk has at least 1 step, not {chunk}")
