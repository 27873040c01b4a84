"""One block of steps of the pure PyTorch scan, forward and backward.

Sequences are (chunks, directions, batch), chunk-major; a state is (sequences, N, D). The states
before and after a block are those of its first and last chunk alone: (directions * batch, N, D).

On a CPU the first touch of fresh memory costs more than a pass over it, and every view half a
microsecond. Large results therefore go to scratch memory, and the views of its steps are kept.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

LOG2E = 1.4426950408889634


class Rows(NamedTuple):
    """What a segment or a block reads, in scan order: (T, chunks, directions, batch, 1, D or N).

    Attributes:
        raw: Steps before softplus, bias included.
        step: Steps.
        u: Inputs.
        fed: Steps times inputs.
        B: Input weights.
        C: Output weights.
    """

    raw: Tensor
    step: Tensor
    u: Tensor
    fed: Tensor
    B: Tensor
    C: Tensor


class RowGradients(NamedTuple):
    """Gradient ``y`` of the result, in scan order, and those of the rows, filled block by block."""

    y: Tensor
    u: Tensor
    step: Tensor
    B: Tensor
    C: Tensor


_Rows = TypeVar("_Rows", Rows, RowGradients)


def blocks(segment: _Rows, count: int) -> list[_Rows]:
    """Cut a segment into blocks of equally many steps; the last one may be shorter."""
    parts = zip(*(t.chunk(count) for t in segment), strict=True)
    return [type(segment)(*block) for block in parts]


@dataclass(frozen=True)
class Steps:
    """A number for every state of a block's steps.

    Attributes:
        all: (T, chunks, directions, batch, N, D).
        each: The same memory, for every step (sequences, N, D).
    """

    all: Tensor
    each: tuple[Tensor, ...]


class Buffers:
    """Scratch memory that is reused from block to block, and its views."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._kept: dict[tuple[str, torch.dtype], Tensor] = {}
        self._views: dict[tuple[str, torch.Size, torch.dtype], Tensor] = {}
        self._steps: dict[tuple[str, torch.Size], Steps] = {}

    def take(self, name: str, shape: torch.Size, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised tensor; valid until the name is taken again."""
        dtype = dtype or self._like.dtype
        if (name, shape, dtype) not in self._views:
            count = shape.numel()
            if (name, dtype) not in self._kept or self._kept[name, dtype].numel() < count:
                self._views.clear()
                self._steps.clear()
                self._kept[name, dtype] = self._like.new_empty(count, dtype=dtype)
            self._views[name, shape, dtype] = self._kept[name, dtype][:count].view(shape)
        return self._views[name, shape, dtype]

    def steps(self, name: str, shape: torch.Size) -> Steps:
        """An uninitialised number for every state of a block; as ``take``."""
        whole = self.take(name, shape)
        if (name, shape) not in self._steps:
            self._steps[name, shape] = Steps(whole, whole.flatten(1, 3).unbind())
        return self._steps[name, shape]


def forward(rows: Rows, a2: Tensor, h: Tensor, buffers: Buffers) -> Tensor:
    """Run the steps of a block, its result in the place of ``rows.fed``; return the state after."""
    decay, states = _coefficients(rows, a2, buffers)
    start = h
    if rows.u.shape[1] > 1:
        start, _ = _carry(_run(decay, states), _whole_decay(rows, a2), h)
    _run_in_place(decay, states, start)
    _bmm(rows.C, states.all, rows.fed)
    return states.each[-1][-h.shape[0] :].clone()


def start_states(rows: Rows, a2: Tensor, h: Tensor, buffers: Buffers) -> tuple[Tensor, Tensor]:
    """The state that each chunk of a block starts from, (sequences, N, D), and that after it."""
    decay, states = _coefficients(rows, a2, buffers)
    if rows.u.shape[1] > 1:
        return _carry(_run(decay, states), _whole_decay(rows, a2), h)
    _run_in_place(decay, states, h)
    return h, states.each[-1].clone()


def backward(
    rows: Rows,
    a2: Tensor,
    start: Tensor,
    g: Tensor,
    buffers: Buffers,
    grads: RowGradients,
    dA: Tensor,
) -> Tensor:
    """Gradients of one block: fill ``grads``, add to ``dA`` (k, 1, N, D).

    With g_t the gradient of h_t: ``g_t = C_t gy_t + a_{t+1} g_{t+1}``, the same recurrence
    backwards in time.

    Args:
        rows: The block's rows.
        a2: Decay rates to base 2, (k, 1, N, D).
        start: The chunks' start states.
        g: What later blocks send back to the state after this one, (k * batch, N, D).
        buffers: Scratch memory.
        grads: Where the rows' gradients go.
        dA: Gradient of A (not of ``a2``).

    Returns:
        What this block sends back to the state before it.
    """
    decay, states = _coefficients(rows, a2, buffers)
    _run_in_place(decay, states, start)
    _bmm(grads.y, states.all.mT, grads.C)

    back = buffers.steps("back", states.all.shape)
    torch.mul(grads.y, rows.C.mT, out=back.all)
    sent = g
    if rows.u.shape[1] > 1:
        sent = _carry_back(_run_back(decay, back), _whole_decay(rows, a2), g)
    back.each[-1].add_(sent)
    for t in reversed(range(len(back.each) - 1)):
        back.each[t].addcmul_(decay.each[t + 1], back.each[t + 1])
    sent = back.each[0][: g.shape[0]] * decay.each[0][: g.shape[0]]
    grad_fed = grads.u  # until that is computed from it
    _bmm(rows.B, back.all, grad_fed)
    _bmm(rows.fed, back.all.mT, grads.B)

    # Gradient of step_t A: g_t a_t h_{t-1}, in the place of the decays.
    grad_exponent = decay.all.mul_(back.all)
    decay.each[0].mul_(start)
    decay.all[1:].mul_(states.all[:-1])
    torch.mul(grad_exponent, rows.step, out=states.all)
    dA.add_(states.all.sum((0, 1, 3)).unsqueeze(1))
    torch.sum(grad_exponent.mul_(a2 / LOG2E), -2, keepdim=True, out=grads.step)
    grads.step.addcmul_(grad_fed, rows.u)
    torch.mul(grad_fed, rows.step, out=grads.u)
    return sent


def _coefficients(rows: Rows, a2: Tensor, buffers: Buffers) -> tuple[Steps, Steps]:
    """Decays ``a_t`` and drives ``b_t`` of every step, in scratch memory."""
    shape = rows.u.shape[:-2] + a2.shape[-2:]
    decay, drive = buffers.steps("decay", shape), buffers.steps("states", shape)
    torch.mul(rows.step, a2, out=decay.all).exp2_()
    torch.mul(rows.fed, rows.B.mT, out=drive.all)
    return decay, drive


def _run_in_place(decay: Steps, states: Steps, h: Tensor) -> None:
    """Turn drives into states: ``h_t = a_t h_{t-1} + b_t`` from the state ``h`` on."""
    for a, state in zip(decay.each, states.each, strict=True):
        h = state.addcmul_(a, h)


def _run(decay: Steps, drive: Steps) -> Tensor:
    """End states of chunks started from zero."""
    h = drive.each[0]
    for a, b in zip(decay.each[1:], drive.each[1:], strict=True):
        h = torch.addcmul(b, a, h)
    return h


def _run_back(decay: Steps, back: Steps) -> Tensor:
    """What chunks send back that get nothing sent back themselves."""
    g = back.each[-1]
    for a, q in zip(reversed(decay.each[1:]), reversed(back.each[:-1]), strict=True):
        g = torch.addcmul(q, a, g)
    return g * decay.each[0]


def _whole_decay(rows: Rows, a2: Tensor) -> Tensor:
    """What a chunk leaves of the state that it started from: (sequences, N, D)."""
    return torch.exp2(rows.step.sum(0) * a2).flatten(0, 2)


def _carry(local: Tensor, decay: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Start states of every chunk (sequences, N, D), and the state after the last one."""
    starts = []
    shape = (-1, *h.shape)
    for end, a in zip(local.view(shape).unbind(), decay.view(shape).unbind(), strict=True):
        starts.append(h)
        h = torch.addcmul(end, a, h)
    return torch.cat(starts), h


def _carry_back(local: Tensor, decay: Tensor, g: Tensor) -> Tensor:
    """What every chunk gets sent back to its end state: (sequences, N, D)."""
    ends = []
    shape = (-1, *g.shape)
    chunks = list(zip(local.view(shape).unbind(), decay.view(shape).unbind(), strict=True))
    for first, a in reversed(chunks):
        ends.append(g)
        g = torch.addcmul(first, a, g)
    return torch.cat(ends[::-1])


def _bmm(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Batched product over all leading axes, into ``out``."""
    left, right, out = (t.view(-1, *t.shape[-2:]) for t in (left, right, out))
    torch.bmm(left, right, out=out)
