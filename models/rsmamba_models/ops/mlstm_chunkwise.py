"""The mLSTM in chunks: matrix products inside a chunk, one state handed from chunk to chunk.

``rsmamba_models.ops.mlstm_chunks`` says how steps are weighted. The backward pass is written out:
it keeps the inputs, the output and one number a step, and recomputes the states, so that training
takes memory linear in the number of steps.
"""

from collections.abc import Sequence

# Older torch (2.4 for one) reads an operator's types from typing's List and Optional only.
from typing import Any, List, Optional  # noqa: UP035

import torch
from torch import Tensor

from rsmamba_models.ops.mlstm_chunks import Sequences, State, one_thread

_Steps = Optional[int]  # noqa: UP045

# The fastest chunks for heads of 16 to 384.
_CHUNK = 64
_CHUNK_ONE_THREAD = 32

# Shorter sequences give one thread enough to do in the backward pass only several at a time.
_LONG = 512


def chunkwise(
    q: Tensor, k: Tensor, v: Tensor, i_gate: Tensor, f_gate: Tensor, chunk: int | None, eps: float
) -> Tensor:
    """The chunkwise form; arguments as for ``mlstm``.

    Returns:
        ``(B, H, L, E)`` in float32, or float64 for float64 ``q``.
    """
    h: Tensor = _mlstm(q, k, v, i_gate, f_gate, chunk, eps)[0]
    return h


@torch.library.custom_op("rsmamba::mlstm_chunkwise", mutates_args=())
def _mlstm(
    q: Tensor, k: Tensor, v: Tensor, i_gate: Tensor, f_gate: Tensor, chunk: _Steps, eps: float
) -> tuple[Tensor, Tensor]:
    """The output (B, H, L, E) and, for the backward pass, its denominators (B, H, L)."""
    h, den = _outputs(q, v)
    if den.numel() == 0:
        return h, den
    if chunk is None:
        chunk = _CHUNK_ONE_THREAD if one_thread(q) else _CHUNK
    with torch.autocast(q.device.type, enabled=False):
        flat_h, flat_den = h.flatten(0, 1), den.flatten(0, 1)
        inputs = [t.flatten(0, 1) for t in (q, k, v, i_gate, f_gate)]
        sequences = Sequences(inputs, chunk, one_by_one=one_thread(q))
        for lanes in sequences.lanes():
            c, n = sequences.empty(lanes)
            for group in sequences.groups(lanes):
                place = group.place
                handed, n = sequences.sums(group, n)
                carried = sequences.room("carried", group.q.shape)
                earlier = torch.mul(group.q, handed[:, None], out=carried).sum(-1, keepdim=True)
                scores = sequences.scores(group, sequences.weights(place))
                total = earlier.mul_(group.carry).add_(scores.sum(-1, keepdim=True))
                bound = place.cut(sequences.bound)[..., None]
                # The normaliser goes into what is multiplied, which is smaller than the products.
                factor = torch.maximum(total.abs(), bound).add_(eps).reciprocal_()
                torch.mul(group.q, group.carry * factor, out=carried)
                out = place.cut(flat_h)  # of one sequence a view, else a copy
                torch.bmm(scores.mul_(factor), group.v, out=out)
                c = sequences.read(group, c, carried, out)
                if lanes.stop - lanes.start > 1:
                    place.paste(flat_h, out)
                place.paste(flat_den, total[..., 0])
    return h, den


@_mlstm.register_fake
def _outputs_fake(
    q: Tensor, k: Tensor, v: Tensor, i_gate: Tensor, f_gate: Tensor, chunk: _Steps, eps: float
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
    chunk: _Steps,
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
        chunk = _CHUNK if chunk is None else chunk
        alone = one_thread(q) and q.shape[2] >= _LONG
        sequences = Sequences(inputs, chunk, one_by_one=alone)
        for lanes in sequences.lanes():
            _differentiate_some(sequences, lanes, known, grads, eps)
        *results, grad_log_f, _ = grads
        results.append(grad_log_f * torch.sigmoid(-inputs[4].to(h.dtype)))
        return [grad.view(t.shape).to(t.dtype) for grad, t in zip(results, given, strict=True)]


def _differentiate_some(
    sequences: Sequences,
    lanes: slice,
    known: Sequence[Tensor],
    grads: Sequence[Tensor],
    eps: float,
) -> None:
    """Write the gradients for some of the sequences.

    Args:
        sequences: All sequences.
        lanes: Some of them.
        known: grad_h, h and the denominators, each ``(all sequences, L, ...)``, as what follows.
        grads: Receive the gradients of q, k, v, i_gate, log sigmoid f_gate and the stabiliser.
        eps: Added to the normaliser.
    """
    starts = [sequences.empty(lanes)]
    for group in sequences.groups(lanes):
        last = starts[-1]
        starts.append(State(sequences.hand_on(group, last.c), sequences.sums(group, last.n)[1]))
    starts.pop()
    grad_state = sequences.empty(lanes)
    for group in sequences.groups(lanes, backwards=True):
        start = starts.pop()
        c, _ = sequences.states(group, start.c)
        n, _ = sequences.sums(group, start.n)
        grad, out, total = (group.place.cut(t) for t in known)
        bound = group.place.cut(sequences.bound)
        norm = torch.maximum(total.abs(), bound) + eps
        slope = (grad * out).sum(-1) / norm
        grad_num = grad / norm[..., None]
        grad_den = torch.where(total.abs() > bound, -slope * total.sign(), 0)[..., None]
        carried = group.q * group.carry
        later, grad_state = sequences.grad_states(group, carried, grad_num, grad_den, grad_state)

        weights = sequences.weights(group.place)
        scores = sequences.scores(group, weights)
        grad_scores = torch.baddbmm(grad_den, grad_num, group.v.mT)
        inside = grad_scores * scores
        grad_scores.mul_(weights)
        dq = torch.baddbmm(grad_den * n[:, None], grad_num, c.mT)
        dk = torch.baddbmm(later.n[:, None], group.v, later.c.mT)
        arriving, leaving = (carried * dq).sum(-1), (group.kept * dk).sum(-1)
        dq.mul_(group.carry).baddbmm_(grad_scores, group.k)
        dk.mul_(group.keep).baddbmm_(grad_scores.mT, group.q)
        dv = torch.bmm(group.kept, later.c).baddbmm_(scores.mT, grad_num)
        passing = (later.c * c).sum((1, 2)) + (later.n * n).sum(1)
        passing *= sequences.decay[lanes, group.place.chunks].mT.flatten()
        crossing = _crossing(inside, arriving, leaving, passing)
        # Numerator and norm scale alike with the stabiliser, which leaves eps alone.
        pieces = (dq, dk, dv, (group.k * dk).sum(-1), crossing, slope * -eps)
        for target, piece in zip(grads, pieces, strict=True):
            group.place.paste(target, piece)

    # The stabiliser m_t is the log weight of t and its peak.
    grad_i, grad_log_f, grad_m = (t[lanes] for t in grads[3:])
    grad_i.scatter_add_(1, sequences.peak[lanes], grad_m)
    shift = grad_m.scatter_add(1, sequences.peak[lanes], -grad_m)
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
    chunk: _Steps,
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
