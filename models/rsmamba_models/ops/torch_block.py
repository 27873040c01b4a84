"""One block of steps of the pure PyTorch scan, forward and backward.

Rows are (chunks, directions, batch), chunk-major; a state is (rows, N, D). The states before and
after a block are those of its first and last chunk alone: (directions * batch, N, D).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """What a segment reads, in scan order: (T, chunks, directions, batch, D or N).

    Attributes:
        raw: Steps before softplus, bias included.
        step: Steps.
        u: Inputs.
        B: Input weights.
        C: Output weights.
    """

    raw: Tensor
    step: Tensor
    u: Tensor
    B: Tensor
    C: Tensor


class RowGradients:
    """Gradients of a segment's rows, filled block by block, and that of its result."""

    def __init__(self, gy: Tensor, rows: Rows) -> None:
        self.y = gy.view(rows.u.shape)
        self.u = torch.empty_like(rows.u)
        self.step = torch.empty_like(rows.u)
        self.B = torch.empty_like(rows.B)
        self.C = torch.empty_like(rows.C)


class Buffers:
    """Scratch memory that is reused from block to block."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """An uninitialised tensor; valid until the name is taken again."""
        count = torch.Size(shape).numel()
        if name not in self._kept or self._kept[name].numel() < count:
            self._kept[name] = self._like.new_empty(count)
        return self._kept[name][:count].view(shape)


def forward(
    rows: Rows, span: slice, a2: Tensor, h: Tensor, chunks: int, buffers: Buffers, y: Tensor
) -> Tensor:
    """Run the steps of ``span``, write ``y`` (T, chunks, k, batch, D), return the state after."""
    decay, states = _coefficients(rows, span, a2, buffers)
    if chunks > 1:
        h, _ = _carry(_run(decay, states), _whole_decay(rows, span, a2), h)
    # The drives turn into the states in place.
    for a, state in zip(decay.unbind(), states.unbind(), strict=True):
        h = state.addcmul_(a, h)
    _bmm(rows.C[span].unsqueeze(-2), states, y.unsqueeze(-2))
    return h[-a2.shape[0] * rows.u.shape[3] :].clone()


def start_states(
    rows: Rows, span: slice, a2: Tensor, h: Tensor, chunks: int, buffers: Buffers
) -> tuple[Tensor, Tensor]:
    """The state that each chunk of a block starts from, (rows, N, D), and the state after it."""
    decay, drive = _coefficients(rows, span, a2, buffers)
    if chunks > 1:
        return _carry(_run(decay, drive), _whole_decay(rows, span, a2), h)
    end = h
    for a, b in zip(decay.unbind(), drive.unbind(), strict=True):
        end = b.addcmul_(a, end)
    return h, end.clone()


def backward(
    rows: Rows,
    span: slice,
    a2: Tensor,
    start: Tensor,
    g: Tensor,
    chunks: int,
    buffers: Buffers,
    grads: RowGradients,
    dA: Tensor,
) -> Tensor:
    """Gradients of one block: fill ``grads`` in ``span``, add to ``dA`` (k, 1, N, D).

    With g_t the gradient of h_t: ``g_t = C_t gy_t + a_{t+1} g_{t+1}``, the same recurrence
    backwards in time.

    Args:
        rows: The segment's rows.
        span: The block's steps.
        a2: Decay rates to base 2, (k, 1, N, D).
        start: The chunks' start states.
        g: What later blocks send back to the state after this one, (k * batch, N, D).
        chunks: Chunks in the block.
        buffers: Scratch memory.
        grads: Where the rows' gradients go.
        dA: Gradient of A (not of ``a2``).

    Returns:
        What this block sends back to the state before it.
    """
    step, u = rows.step[span].unsqueeze(-2), rows.u[span].unsqueeze(-2)
    gy = grads.y[span].unsqueeze(-2)
    decay, states = _coefficients(rows, span, a2, buffers)
    h = start
    for a, state in zip(decay.unbind(), states.unbind(), strict=True):
        h = state.addcmul_(a, h)
    _bmm(states, gy.transpose(-1, -2), grads.C[span].unsqueeze(-1))

    back = buffers.take("back", tuple(decay.shape))
    torch.mul(gy, rows.C[span].unsqueeze(-1), out=_like_rows(back, rows))
    later = zip(reversed(decay.unbind()), reversed(back.unbind()), strict=True)
    if chunks > 1:
        local = torch.zeros_like(start)
        for a, q in reversed(list(zip(decay.unbind(), back.unbind(), strict=True))):
            local = (q + local) * a
        g = _carry_back(local, _whole_decay(rows, span, a2), g)
    carried = g
    for a, q in later:
        carried = torch.mul(q.add_(carried), a)
    drive = step * u
    grad_drive = torch.empty_like(drive)
    _bmm(rows.B[span].unsqueeze(-2), back, grad_drive)
    _bmm(back, drive.transpose(-1, -2), grads.B[span].unsqueeze(-1))

    # Gradient of step_t A: g_t a_t h_{t-1}, in the place of the decays.
    decay.mul_(back)
    decay[0].mul_(start)
    decay[1:].mul_(states[:-1])
    grad_exponent = _like_rows(decay, rows)
    torch.mul(grad_exponent, step, out=_like_rows(states, rows))
    dA.add_(_like_rows(states, rows).sum((0, 1, 3)).unsqueeze(1))
    grad_exponent.mul_(a2 / _LOG2E)
    torch.sum(grad_exponent, -2, out=grads.step[span])
    grad_drive = grad_drive.squeeze(-2)
    grads.step[span].addcmul_(grad_drive, rows.u[span])
    torch.mul(grad_drive, rows.step[span], out=grads.u[span])
    return carried[: g.shape[0] // chunks].clone()


_LOG2E = 1.4426950408889634


def _coefficients(rows: Rows, span: slice, a2: Tensor, buffers: Buffers) -> tuple[Tensor, Tensor]:
    """Decays ``a_t`` and drives ``b_t`` of every step: (T, rows, N, D), in scratch memory."""
    step = rows.step[span]
    states, channels = a2.shape[-2:]
    shape = (*step.shape[:-1], states, channels)
    decay, drive = buffers.take("decay", shape), buffers.take("drive", shape)
    torch.exp2(torch.mul(step.unsqueeze(-2), a2, out=decay), out=decay)
    torch.mul((step * rows.u[span]).unsqueeze(-2), rows.B[span].unsqueeze(-1), out=drive)
    return decay.flatten(1, 3), drive.flatten(1, 3)


def _whole_decay(rows: Rows, span: slice, a2: Tensor) -> Tensor:
    """What a chunk leaves of the state that it started from: (rows, N, D)."""
    return torch.exp2(rows.step[span].sum(0).unsqueeze(-2) * a2).flatten(0, 2)


def _run(decay: Tensor, drive: Tensor) -> Tensor:
    """End states of chunks started from zero."""
    h = drive[0]
    for a, b in zip(decay.unbind()[1:], drive.unbind()[1:], strict=True):
        h = torch.addcmul(b, a, h)
    return h


def _carry(local: Tensor, decay: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Start states of every chunk (rows, N, D), and the state after the last one."""
    starts = []
    shape = (-1, *h.shape)
    for end, a in zip(local.view(shape).unbind(), decay.view(shape).unbind(), strict=True):
        starts.append(h)
        h = torch.addcmul(end, a, h)
    return torch.cat(starts), h


def _carry_back(local: Tensor, decay: Tensor, g: Tensor) -> Tensor:
    """What every chunk gets sent back to its end state: (rows, N, D)."""
    ends = []
    shape = (-1, *g.shape)
    chunks = list(zip(local.view(shape).unbind(), decay.view(shape).unbind(), strict=True))
    for first, a in reversed(chunks):
        ends.append(g)
        g = torch.addcmul(first, a, g)
    return torch.cat(ends[::-1])


def _like_rows(t: Tensor, rows: Rows) -> Tensor:
    """(T, rows, N, D) as (T, chunks, k, batch, N, D)."""
    return t.view(-1, *rows.u.shape[1:4], *t.shape[-2:])


def _bmm(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Batched product over all leading axes, into ``out``."""
    left, right, out = (t.view(-1, *t.shape[-2:]) for t in (left, right, out))
    torch.bmm(left, right, out=out)
