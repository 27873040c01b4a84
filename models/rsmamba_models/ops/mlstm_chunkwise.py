"""The mLSTM in chunks: matrix products inside a chunk, one state handed from chunk to chunk.

With F the cumulative sum of ``log sigmoid f``, ``a = i - F`` and ``mu`` the running maximum of a,
the stabiliser of ``rsmamba_models.ops.mlstm`` is ``m_t = F_t + mu_t`` and the weight of step s at
time t ``exp(a_s - mu_t)``. A chunk's steps weigh ``exp(a_s - mu_T)`` in the state that it hands on
(T its last step), and the state handed in weighs ``exp(mu_0 - mu_t)`` (0 the step before it). No
exponent is above zero, so no gate can overflow. Nothing is approximated.

The backward pass is written out: it keeps the inputs, the output and one number a step, and
recomputes the states, so that training takes memory linear in the number of steps.
"""

import math
from collections.abc import Iterator, Sequence

# Older torch (2.4 for one) reads an operator's return type from typing's List only.
from typing import Any, List, NamedTuple  # noqa: UP035

import torch
import torch.nn.functional as F
from torch import Tensor

# Chunks, of one or several sequences, that go through one matrix product: enough to hide the cost
# of a call, few enough for a CPU's cache.
_CPU_BLOCKS = 8
_DEVICE_BLOCKS = 512


def chunkwise(
    q: Tensor, k: Tensor, v: Tensor, i_gate: Tensor, f_gate: Tensor, chunk: int, eps: float
) -> Tensor:
    """The chunkwise form; arguments as for ``mlstm``.

    Returns:
        ``(B, H, L, E)`` in float32, or float64 for float64 ``q``.
    """
    h: Tensor = _mlstm(q, k, v, i_gate, f_gate, chunk, eps)[0]
    return h


def floor(m: Tensor) -> Tensor:
    """The normaliser's lower bound ``exp(-m)``, short of infinity, whose gradient would be NaN."""
    return torch.exp((-m).clamp(max=700.0 if m.dtype == torch.float64 else 88.0))


class _Group(NamedTuple):
    """Some consecutive chunks of some sequences; N = chunks x sequences, of T steps each."""

    chunks: slice
    q: Tensor  # (N, T, D)
    k: Tensor  # (N, T, D)
    v: Tensor  # (N, T, E)
    kept: Tensor  # (N, T, D) keys, weighted for the state that the chunk hands on
    carried: Tensor  # (N, T, D) scaled queries, weighted for the state that it is handed
    weights: Tensor  # (N, T, T) of step s (last axis) at time t, times the scale; zero for s > t

    def scores(self) -> Tensor:
        """(N, T, T) weighted products of queries and keys."""
        return torch.bmm(self.q, self.k.mT).mul_(self.weights)


class _State(NamedTuple):
    """What a chunk hands on, divided by the exponential of its last step's stabiliser."""

    c: Tensor  # (..., D, E) sum of the outer products of weighted keys and values
    n: Tensor  # (..., D) sum of the weighted keys


class _Sequences:
    """Some of the sequences in chunks, with the weights that their gates make.

    What is known per step is held as ``(chunks, sequences, T)``. Steps of one sequence are never
    copied to make chunks of them, which is why many chunks come before many sequences.

    Args:
        inputs: q, k, v, i_gate, f_gate, each ``(all sequences, L, ...)``.
        chunk: Steps of one chunk.
        lanes: The sequences.
    """

    def __init__(self, inputs: Sequence[Tensor], chunk: int, lanes: slice) -> None:
        q, k, v, i_gate, f_gate = (t[lanes] for t in inputs)
        self.place = lanes
        self.inputs = (q, k, v)
        self.lanes, self.length = q.shape[:2]
        self.size = min(chunk, self.length)
        self.count = -(-self.length // self.size)
        self.dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        self.scale = q.shape[-1] ** -0.5
        # The sums reach millions and their differences matter to the last digit. Apple's GPUs have
        # no float64: there the sums are made on the CPU and only the chunks' own parts go back.
        apple = q.device.type == "mps"
        i, f = (t.to("cpu" if apple else t.device).double() for t in (i_gate, f_gate))
        total = F.logsigmoid(f).cumsum(-1)
        a = i - total
        mu, peak = a.cummax(-1)
        self.peak = peak.to(q.device)
        self.bound = self.by_chunk(floor((total + mu).to(q.device, self.dtype)))
        # Beyond the end steps weigh nothing and are given nothing.
        a, mu = self.by_chunk(a, -torch.inf), self.by_chunk(mu, torch.inf)
        last = mu[..., -1:].clone()
        last[-1] = mu[-1, :, [(self.length - 1) % self.size]]
        before = F.pad(last[:-1], (0, 0, 0, 0, 1, 0), value=-torch.inf)
        fine = torch.float32 if apple else torch.float64
        self.a, self.mu = ((t - last).to(q.device, fine) for t in (a, mu))
        self.keep, self.carry, self.decay = (
            torch.exp(t).to(q.device, self.dtype) for t in (a - last, before - mu, before - last)
        )

    @classmethod
    def all(cls, inputs: Sequence[Tensor], chunk: int) -> "Iterator[_Sequences]":
        """All sequences, as many at a time as make a group of all their chunks."""
        lanes, length = inputs[0].shape[:2]
        budget = _CPU_BLOCKS if inputs[0].device.type == "cpu" else _DEVICE_BLOCKS
        number = max(1, budget // -(-length // chunk))
        for first in range(0, lanes, number):
            yield cls(inputs, chunk, slice(first, min(first + number, lanes)))

    def by_chunk(self, steps: Tensor, beyond: float = 0.0) -> Tensor:
        """(sequences, L) as (chunks, sequences, T), filled up with ``beyond``."""
        steps = F.pad(steps, (0, self.count * self.size - self.length), value=beyond)
        return steps.view(self.lanes, self.count, self.size).transpose(0, 1).contiguous()

    def groups(self, *, backwards: bool = False) -> Iterator[_Group]:
        """All chunks, group by group."""
        budget = _CPU_BLOCKS if self.inputs[0].device.type == "cpu" else _DEVICE_BLOCKS
        number = max(1, budget // self.lanes)  # all of them if there are several sequences
        firsts = range(0, self.count, number)
        for first in reversed(firsts) if backwards else firsts:
            yield self.group(slice(first, min(first + number, self.count)))

    def group(self, chunks: slice) -> _Group:
        """Some chunks of all sequences."""
        a, mu, keep, carry = (
            t[chunks].flatten(0, 1) for t in (self.a, self.mu, self.keep, self.carry)
        )
        q, k, v = (self.cut(t, chunks) for t in self.inputs)
        mu = mu - math.log(self.scale)
        weights = (a[:, None] - mu[..., None]).to(self.dtype).exp_().tril_()
        carried = q * (carry * self.scale)[..., None]
        return _Group(chunks, q, k, v, k * keep[..., None], carried, weights)

    def cut(self, tensor: Tensor, chunks: slice) -> Tensor:
        """Some chunks of a (these sequences, L, ...) tensor as (N, T, ...), zero beyond the end."""
        piece = tensor[:, chunks.start * self.size : chunks.stop * self.size].to(self.dtype)
        more = (chunks.stop - chunks.start) * self.size - piece.shape[1]
        if more:
            piece = F.pad(piece, (0, 0) * (tensor.dim() - 2) + (0, more))
        piece = piece.reshape(self.lanes, -1, self.size, *tensor.shape[2:]).transpose(0, 1)
        return piece.reshape(-1, self.size, *tensor.shape[2:])

    def paste(self, target: Tensor, chunks: slice, piece: Tensor) -> None:
        """Put (N, T, ...) back into some chunks of an (all sequences, L, ...) tensor."""
        part = target[self.place, chunks.start * self.size : chunks.stop * self.size]
        whole = piece.view(-1, self.lanes, self.size, *target.shape[2:]).transpose(0, 1)
        part.copy_(whole.flatten(1, 2)[:, : part.shape[1]])

    def empty(self) -> _State:
        """The state before the first chunk, per sequence."""
        q, _, v = self.inputs
        c = q.new_zeros(self.lanes, q.shape[-1], v.shape[-1], dtype=self.dtype)
        return _State(c, c.new_zeros(c.shape[:2]))

    def states(self, group: _Group, start: _State) -> tuple[_State, _State]:
        """The states handed to each chunk of a group, (N, ...), and the one that it hands on."""
        number = group.chunks.stop - group.chunks.start
        c, n = (t.new_empty(number + 1, *t.shape) for t in start)
        c[0], n[0] = start
        torch.bmm(group.kept.mT, group.v, out=c[1:].flatten(0, 1))
        torch.sum(group.kept, 1, out=n[1:].flatten(0, 1))
        for j, decay in enumerate(self.decay[group.chunks]):
            c[j + 1].addcmul_(c[j], decay[..., None])
            n[j + 1].addcmul_(n[j], decay)
        return _State(c[:-1].flatten(0, 1), n[:-1].flatten(0, 1)), _State(c[-1], n[-1])

    def grad_states(
        self, group: _Group, grad_num: Tensor, grad_den: Tensor, end: _State
    ) -> tuple[_State, _State]:
        """Gradients of the states that each chunk of a group hands on, and is handed.

        Args:
            group: The chunks.
            grad_num: ``(N, T, E)`` gradient of the output's numerator.
            grad_den: ``(N, T, 1)`` gradient of its denominator.
            end: Gradient of the state that the last chunk hands on.

        Returns:
            Gradients of the states handed on by each chunk, ``(N, ...)``, and of the one that the
            first chunk is handed.
        """
        number = group.chunks.stop - group.chunks.start
        c, n = (t.new_empty(number + 1, *t.shape) for t in end)
        c[-1], n[-1] = end
        torch.bmm(group.carried.mT, grad_num, out=c[:-1].flatten(0, 1))
        torch.sum(group.carried * grad_den, 1, out=n[:-1].flatten(0, 1))
        decays = self.decay[group.chunks]
        for j in reversed(range(number)):
            c[j].addcmul_(c[j + 1], decays[j, ..., None])
            n[j].addcmul_(n[j + 1], decays[j])
        return _State(c[1:].flatten(0, 1), n[1:].flatten(0, 1)), _State(c[0], n[0])


@torch.library.custom_op("rsmamba::mlstm_chunkwise", mutates_args=())
def _mlstm(
    q: Tensor, k: Tensor, v: Tensor, i_gate: Tensor, f_gate: Tensor, chunk: int, eps: float
) -> tuple[Tensor, Tensor]:
    """The output (B, H, L, E) and, for the backward pass, its denominators (B, H, L)."""
    h, den = _outputs(q, v)
    if den.numel() == 0:
        return h, den
    with torch.autocast(q.device.type, enabled=False):
        flat_h, flat_den = h.flatten(0, 1), den.flatten(0, 1)
        inputs = [t.flatten(0, 1) for t in (q, k, v, i_gate, f_gate)]
        for steps in _Sequences.all(inputs, chunk):
            state = steps.empty()
            for group in steps.groups():
                handed, state = steps.states(group, state)
                scores = group.scores()
                total = scores.sum(-1) + (group.carried * handed.n[:, None]).sum(-1)
                norm = torch.maximum(total.abs(), steps.bound[group.chunks].flatten(0, 1)) + eps
                num = torch.bmm(group.carried, handed.c).baddbmm_(scores, group.v)
                steps.paste(flat_h, group.chunks, num.div_(norm[..., None]))
                steps.paste(flat_den, group.chunks, total)
    return h, den


@_mlstm.register_fake
def _outputs_fake(
    q: Tensor, k: Tensor, v: Tensor, i_gate: Tensor, f_gate: Tensor, chunk: int, eps: float
) -> tuple[Tensor, Tensor]:
    return _outputs(q, v)


def _outputs(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    h = q.new_empty(v.shape, dtype=dtype)
    return h, h.new_empty(v.shape[:3])


@torch.library.custom_op("rsmamba::mlstm_chunkwise_backward", mutates_args=())
def _mlstm_backward(
    grad_h: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_gate: Tensor,
    f_gate: Tensor,
    h: Tensor,
    den: Tensor,
    chunk: int,
    eps: float,
) -> List[Tensor]:  # noqa: UP006
    """Gradients of q, k, v, i_gate and f_gate.

    The gates act through the log weights ``w_ts = F_t - F_s + i_s``. With ``E_ts`` the gradient of
    ``w_ts``, an input gate gets the sum of ``E_ts`` over t, and log forget gate j the sum over all
    t >= j > s, because F_t - F_s holds it just then. That sum is put together from the parts of
    one chunk and of its two states, and never as a difference of two sums, which would leave
    rounding errors where the gradient is small.
    """
    given = (q, k, v, i_gate, f_gate)
    if den.numel() == 0:
        return [t.new_empty(t.shape) for t in given]
    with torch.autocast(q.device.type, enabled=False):
        inputs = [t.flatten(0, 1) for t in given]
        known = [t.flatten(0, 1) for t in (grad_h, h, den)]
        grads = [t.new_empty(t.shape) for t in inputs[:3]]
        grads += [known[2].new_empty(known[2].shape) for _ in range(3)]
        for steps in _Sequences.all(inputs, chunk):
            _differentiate_some(steps, known, grads, eps)
        *results, grad_log_f, _ = grads
        results.append(grad_log_f * torch.sigmoid(-inputs[4].to(h.dtype)))
        return [grad.view(t.shape).to(t.dtype) for grad, t in zip(results, given, strict=True)]


def _differentiate_some(
    steps: _Sequences, known: Sequence[Tensor], grads: Sequence[Tensor], eps: float
) -> None:
    """Write the gradients for some of the sequences.

    Args:
        steps: The sequences.
        known: grad_h, h and the denominators, each ``(all sequences, L, ...)``, as what follows.
        grads: Receive the gradients of q, k, v, i_gate, log sigmoid f_gate and the stabiliser.
        eps: Added to the normaliser.
    """
    known = [t[steps.place] for t in known]
    starts = [steps.empty()]
    for group in steps.groups():
        starts.append(steps.states(group, starts[-1])[1])
    starts.pop()
    grad_state = steps.empty()
    for group in steps.groups(backwards=True):
        handed, _ = steps.states(group, starts.pop())
        grad, out, total = (steps.cut(t, group.chunks) for t in known)
        bound, keep, carry = (
            t[group.chunks].flatten(0, 1) for t in (steps.bound, steps.keep, steps.carry)
        )
        norm = torch.maximum(total.abs(), bound) + eps
        slope = (grad * out).sum(-1) / norm
        grad_num = grad / norm[..., None]
        grad_den = torch.where(total.abs() > bound, -slope * total.sign(), 0)[..., None]
        later, grad_state = steps.grad_states(group, grad_num, grad_den, grad_state)

        scores = group.scores()
        grad_scores = torch.baddbmm(grad_den, grad_num, group.v.mT)
        inside = grad_scores * scores
        grad_scores.mul_(group.weights)
        dq = torch.baddbmm(grad_den * handed.n[:, None], grad_num, handed.c.mT)
        dk = torch.baddbmm(later.n[:, None], group.v, later.c.mT)
        arriving, leaving = (group.carried * dq).sum(-1), (group.kept * dk).sum(-1)
        dq.mul_((carry * steps.scale)[..., None]).baddbmm_(grad_scores, group.k)
        dk.mul_(keep[..., None]).baddbmm_(grad_scores.mT, group.q)
        dv = torch.bmm(group.kept, later.c).baddbmm_(scores.mT, grad_num)
        passing = (later.c * handed.c).sum((1, 2)) + (later.n * handed.n).sum(1)
        passing *= steps.decay[group.chunks].flatten()
        crossing = _crossing(inside, arriving, leaving, passing)
        # Numerator and norm scale alike with the stabiliser, which leaves eps alone.
        pieces = (dq, dk, dv, (group.k * dk).sum(-1), crossing, slope * -eps)
        for target, piece in zip(grads, pieces, strict=True):
            steps.paste(target, group.chunks, piece)

    # The stabiliser m_t is the log weight of t and its peak.
    grad_i, grad_log_f, grad_m = (t[steps.place] for t in grads[3:])
    grad_i.scatter_add_(1, steps.peak, grad_m)
    shift = grad_m.scatter_add(1, steps.peak, -grad_m)
    grad_log_f += shift.flip(-1).cumsum(-1).flip(-1)


def _crossing(inside: Tensor, arriving: Tensor, leaving: Tensor, passing: Tensor) -> Tensor:
    """Sums of log-weight gradients over all pairs t >= j > s, for each step j of a chunk.

    Args:
        inside: ``(N, T, T)`` gradients of the pairs (t, s) within the chunk, zero for s > t.
        arriving: ``(N, T)`` for each t, summed over s before the chunk.
        leaving: ``(N, T)`` for each s, summed over t after the chunk.
        passing: ``(N,)`` summed over all t after and s before the chunk.
    """
    sums = arriving.flip(-1).cumsum(-1).flip(-1) + passing[:, None]
    sums[:, 1:] += leaving[:, :-1].cumsum(-1)
    # Entry [t, j] of the cumulative sum without the last column: pairs (t, s) with s <= j.
    sums[:, 1:] += inside[:, :, :-1].cumsum(-1)[:, 1:].tril_().sum(1)
    return sums


@_mlstm_backward.register_fake
def _gradients_fake(
    grad_h: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_gate: Tensor,
    f_gate: Tensor,
    h: Tensor,
    den: Tensor,
    chunk: int,
    eps: float,
) -> List[Tensor]:  # noqa: UP006
    return [t.new_empty(t.shape) for t in (q, k, v, i_gate, f_gate)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, chunk, eps = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.options = (chunk, eps)


def _differentiate(ctx: Any, grad_h: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    return (*_mlstm_backward(grad_h, *ctx.saved_tensors, *ctx.options), None, None)


_mlstm.register_autograd(_differentiate, setup_context=_save)
