"""The mLSTM's sequences in chunks, and the state that is handed from chunk to chunk.

With F the cumulative sum of ``log sigmoid f``, ``a = i - F`` and ``mu`` the running maximum of a,
the stabiliser of ``rsmamba_models.ops.mlstm`` is ``m_t = F_t + mu_t`` and the weight of step s at
time t ``exp(a_s - mu_t)``. Through the state it is made of two factors: in the state that a chunk
hands on its steps weigh ``exp(a_s - r)``, and a later step reads with ``exp(r - mu_t)``. The level
r is mu at the chunk's last step, rounded down to a multiple of 16. So it moves seldom, and as long
as it stays a state is added to without being scaled. No exponent is above 16, so no gate can
overflow. Nothing is approximated.

One thread of a CPU reads one state and brings it up to date, chunk after chunk. Several threads and
other devices first make the states of all chunks of a group, to be read in one matrix product.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

# What goes through one matrix product: enough to hide the cost of a call, little enough for a CPU's
# cache. Steps of a sequence that goes by itself, else chunks of one or several sequences.
_STEPS = 1024
_CPU_CHUNKS = 8
_DEVICE_CHUNKS = 512

_LEVEL_STEP = 16.0


def floor(m: Tensor) -> Tensor:
    """The normaliser's lower bound ``exp(-m)``, short of infinity, whose gradient would be NaN."""
    return torch.exp((-m).clamp(max=700.0 if m.dtype == torch.float64 else 88.0))


def one_thread(tensor: Tensor) -> bool:
    """Whether one CPU thread computes with it, which keeps one state in its cache."""
    return tensor.device.type == "cpu" and torch.get_num_threads() == 1


class Place(NamedTuple):
    """Some consecutive chunks of some sequences; N = chunks x sequences, of T steps each."""

    lanes: slice
    chunks: slice
    steps: slice

    def cut(self, tensor: Tensor) -> Tensor:
        """These steps of an (all sequences, L, ...) tensor as (N, T, ...).

        Many chunks come before many sequences, so that steps of one sequence are never copied.
        """
        piece = tensor[self.lanes, self.steps]
        (lanes, steps, *rest), number = piece.shape, self.chunks.stop - self.chunks.start
        if lanes == 1:
            return piece.reshape(number, steps // number, *rest)
        return piece.reshape(lanes, number, steps // number, *rest).transpose(0, 1).flatten(0, 1)

    def paste(self, target: Tensor, piece: Tensor) -> None:
        """Put (N, T, ...) back into an (all sequences, L, ...) tensor."""
        number = self.chunks.stop - self.chunks.start
        pieces = piece.reshape(number, len(piece) // number, *piece.shape[1:])
        target[self.lanes, self.steps] = pieces.transpose(0, 1).flatten(1, 2)


class Group(NamedTuple):
    """What is known of some chunks."""

    place: Place
    q: Tensor  # (N, T, D)
    k: Tensor  # (N, T, D)
    v: Tensor  # (N, T, E)
    keep: Tensor  # (N, T, 1) weights of the steps in the state that the chunk hands on
    carry: Tensor  # (N, T, 1) weights of the state that it is handed, times the scale
    kept: Tensor  # (N, T, D) weighted keys


class State(NamedTuple):
    """What a chunk hands on, divided by the exponential of its level."""

    c: Tensor  # (..., D, E) sum of the outer products of weighted keys and values
    n: Tensor  # (..., D) sum of the weighted keys


class Sequences:
    """The sequences, with the weights that their gates make.

    Args:
        inputs: q, k, v, i_gate, f_gate, each ``(sequences, L, ...)``.
        chunk: Steps of one chunk.
        one_by_one: Whether sequences go by themselves, and one state is brought up to date chunk
            after chunk; for CPU tensors only.
    """

    def __init__(self, inputs: Sequence[Tensor], chunk: int, *, one_by_one: bool) -> None:
        q, k, v, i_gate, f_gate = inputs
        self.inputs = (q, k, v)
        self.number, self.length = q.shape[:2]
        self.size = min(chunk, self.length)
        self.dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        self.one_by_one = one_by_one
        self.chunks = _CPU_CHUNKS if q.device.type == "cpu" else _DEVICE_CHUNKS
        self.rooms: dict[str, Tensor] = {}
        log_scale = -math.log(q.shape[-1]) / 2
        # The sums reach millions and their differences matter to the last digit. Apple's GPUs have
        # no float64: there the sums are made on the CPU and only the chunks' own parts go back.
        apple = q.device.type == "mps"
        i, f = (t.to("cpu" if apple else t.device).double() for t in (i_gate, f_gate))
        total = F.logsigmoid(f).cumsum(-1)
        a = i - total
        mu, peak = a.cummax(-1)
        self.peak = peak.to(q.device)
        self.bound = floor((total + mu).to(q.device, self.dtype))
        # Of the state before the first chunk, which is empty, and of the one that each hands on.
        level = torch.cat([mu[:, :1], mu[:, self.size - 1 : -1 : self.size], mu[:, -1:]], 1)
        level = level.div(_LEVEL_STEP, rounding_mode="floor").mul_(_LEVEL_STEP)
        before, after = (
            t.repeat_interleave(self.size, 1)[:, : self.length]
            for t in (level[:, :-1], level[:, 1:])
        )
        fine = torch.float32 if apple else torch.float64
        self.level = level
        self.a, self.mu = (t.to(q.device, fine) for t in (a - after, mu - after - log_scale))
        self.keep, self.carry, self.decay = (
            t.exp_().to(q.device, self.dtype)
            for t in (a - after, before - mu + log_scale, level[:, :-1] - level[:, 1:])
        )

    def lanes(self) -> Iterator[slice]:
        """All sequences: one by one, or as many at a time as make a group of all their chunks."""
        number = 1 if self.one_by_one else max(1, self.chunks * self.size // self.length)
        for first in range(0, self.number, number):
            yield slice(first, min(first + number, self.number))

    def groups(self, lanes: slice, *, backwards: bool = False) -> Iterator[Group]:
        """All chunks of some sequences; a shorter last chunk makes a group of its own."""
        number = max(1, _STEPS // self.size) if self.one_by_one else self.chunks
        whole, rest = divmod(self.length, self.size)
        ends = [*range(0, whole, number), whole] + [whole + 1] * (rest > 0)
        pieces = [slice(*pair) for pair in itertools.pairwise(ends)]
        for chunks in reversed(pieces) if backwards else pieces:
            last = min(chunks.stop * self.size, self.length)
            yield self.group(Place(lanes, chunks, slice(chunks.start * self.size, last)))

    def group(self, place: Place) -> Group:
        """Some chunks of some sequences."""
        q, k, v = (place.cut(t).to(self.dtype) for t in self.inputs)
        keep, carry = (place.cut(t)[..., None] for t in (self.keep, self.carry))
        kept = torch.mul(k, keep, out=self.room("kept", k.shape))
        return Group(place, q, k, v, keep, carry, kept)

    def weights(self, place: Place) -> Tensor:
        """(N, T, T) of step s (last axis) at time t, times the scale; zero for s > t."""
        a, mu = place.cut(self.a)[:, None], place.cut(self.mu)[..., None]
        pairs = a.shape[0], a.shape[2], a.shape[2]
        exponents = torch.sub(a, mu, out=self.room("exponents", pairs, a.dtype))
        return self.room("weights", pairs).copy_(exponents).exp_().tril_()

    def scores(self, group: Group, weights: Tensor) -> Tensor:
        """(N, T, T) weighted products of queries and keys."""
        scores = self.room("scores", weights.shape)
        return torch.bmm(group.q, group.k.mT, out=scores).mul_(weights)

    def room(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Memory for one group after the other, which a CPU keeps in its cache."""
        size = math.prod(shape)
        if name not in self.rooms or self.rooms[name].numel() < size:
            self.rooms[name] = self.keep.new_empty(size, dtype=dtype)
        return self.rooms[name][:size].view(shape)

    def empty(self, lanes: slice) -> State:
        """The state before the first chunk, per sequence."""
        q, _, v = self.inputs
        c = q.new_zeros(lanes.stop - lanes.start, q.shape[-1], v.shape[-1], dtype=self.dtype)
        return State(c, c.new_zeros(c.shape[:2]))

    def sums(self, group: Group, start: Tensor) -> tuple[Tensor, Tensor]:
        """The n handed to each chunk of a group, (N, D), and the one that it hands on."""
        lanes, chunks, _ = group.place
        level = self.level[lanes, chunks.start : chunks.stop + 1]
        # Of what chunk s - 1 adds (what the group is handed for s = 0), in what t is handed.
        decays = torch.exp(level[:, None] - level[..., None]).tril_().to(start)
        added = group.kept.sum(1).view(-1, *start.shape)
        n = torch.bmm(decays, torch.cat([start[None], added]).transpose(0, 1)).transpose(0, 1)
        return n[:-1].flatten(0, 1), n[-1]

    def states(self, group: Group, start: Tensor) -> tuple[Tensor, Tensor]:
        """The c handed to each chunk of a group, (N, D, E), and the one that it hands on."""
        lanes, chunks, _ = group.place
        c = start.new_empty(chunks.stop - chunks.start + 1, *start.shape)
        c[0] = start
        torch.bmm(group.kept.mT, group.v, out=c[1:].flatten(0, 1))
        decays = self.decay[lanes, chunks].mT[..., None, None]
        for earlier, later, decay in zip(c[:-1], c[1:], decays, strict=True):
            later.addcmul_(earlier, decay)
        return c[:-1].flatten(0, 1), c[-1]

    def factors(self, group: Group) -> list[float]:
        """By what each chunk of one sequence scales the state; almost always 1, which is free."""
        (decays,) = self.decay[group.place.lanes, group.place.chunks].tolist()
        return cast("list[float]", decays)

    def hand_on(self, group: Group, start: Tensor) -> Tensor:
        """The c that a group hands on, of the one that it is handed, (sequences, D, E)."""
        if not self.one_by_one:
            return self.states(group, start)[1]
        end = start.clone()
        for decay, k, v in zip(self.factors(group), group.kept.mT, group.v, strict=True):
            end[0].addmm_(k, v, beta=decay)
        return end

    def read(self, group: Group, start: Tensor, carried: Tensor, out: Tensor) -> Tensor:
        """Add what the chunks of a group read from the states handed to them.

        Args:
            group: The chunks.
            start: The c handed to the first, ``(sequences, D, E)``, may be overwritten.
            carried: ``(N, T, D)`` weighted queries.
            out: ``(N, T, E)``, changed.

        Returns:
            The c that the last chunk hands on.
        """
        if not self.one_by_one:
            c, end = self.states(group, start)
            out.baddbmm_(carried, c)
            return end
        (c,) = start
        chunks = zip(self.factors(group), out, carried, group.kept.mT, group.v, strict=True)
        for decay, h, q, k, v in chunks:
            h.addmm_(q, c)
            c.addmm_(k, v, beta=decay)
        return start

    def grad_states(
        self, group: Group, carried: Tensor, grad_num: Tensor, grad_den: Tensor, end: State
    ) -> tuple[State, State]:
        """Gradients of the states that each chunk of a group hands on, and is handed.

        Args:
            group: The chunks.
            carried: ``(N, T, D)`` weighted queries.
            grad_num: ``(N, T, E)`` gradient of the output's numerator.
            grad_den: ``(N, T, 1)`` gradient of its denominator.
            end: Gradient of the state that the last chunk hands on.

        Returns:
            Gradients of the states handed on by each chunk, ``(N, ...)``, and of the one that the
            first chunk is handed.
        """
        lanes, chunks, _ = group.place
        number = chunks.stop - chunks.start
        c, n = (t.new_empty(number + 1, *t.shape) for t in end)
        c[-1], n[-1] = end
        torch.bmm(carried.mT, grad_num, out=c[:-1].flatten(0, 1))
        torch.sum(carried * grad_den, 1, out=n[:-1].flatten(0, 1))
        decays = self.decay[lanes, chunks].mT[..., None]
        for j in reversed(range(number)):
            c[j].addcmul_(c[j + 1], decays[j, ..., None])
            n[j].addcmul_(n[j + 1], decays[j])
        return State(c[1:].flatten(0, 1), n[1:].flatten(0, 1)), State(c[0], n[0])
