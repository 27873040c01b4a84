"""The selective scan in plain PyTorch operations: any device, no compiler, bounded memory.

A step-by-step loop over a sequence spends its time starting tiny operations. Here everything that
is not recurrent (decays, drives, outputs, gradients of the inputs) is computed for a block of
steps at once, and only ``h_t = a_t h_{t-1} + b_t`` is left to the loop, one operation a step for
all directions together. Where even those states are small, a sequence is cut into chunks that run
side by side: every chunk from zero first, then a carry from chunk to chunk
(``start_{g+1} = exp(A sum_t step_t) start_g + end_g``, because the recurrence is linear), then
every chunk from its true start.

Decays are only ever multiplied, never divided: nothing can overflow, whatever the step. Rows are
gathered a segment at a time, so no permuted copy of a whole tensor exists; the backward pass keeps
one state a block and recomputes the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rsmamba_models.ops import torch_block as block
from rsmamba_models.ops.arguments import ScanArguments

_SEGMENT_STEPS = 512


@dataclass(frozen=True)
class _Sizes:
    """How much to do at once, in numbers of a state (rows x N x D).

    Attributes:
        split: From this many numbers on, a sequence's state is split by batch and direction.
        width: What chunks are added for until one step reaches it.
        block: A block of steps: what the decays of all its steps come to.
    """

    split: int
    width: int
    block: int


# On a CPU, one step stays below the 32,768 numbers from which PyTorch splits an operation over
# threads (tiny parallel regions cost more than they gain), and a block stays in the last cache.
_CPU = _Sizes(split=32_767, width=8_192, block=3 << 17)
_GPU = _Sizes(split=1 << 22, width=1 << 20, block=1 << 26)


def forward(arguments: ScanArguments) -> Tensor:
    """Scan a map along every direction and sum the results; see ``directional_scan``."""
    u, D = arguments.u, arguments.D
    scan = _Scan(arguments)
    total = u.new_zeros(u.shape, dtype=scan.dtype)
    for part in scan.parts():
        scan.run(part, total.view(-1, u.shape[-1]))
    if D is not None:
        total.addcmul_(u.to(scan.dtype), D.to(scan.dtype).sum(0))
    return total.to(u.dtype)


def backward(grad_y: Tensor, arguments: ScanArguments) -> tuple[Tensor | None, ...]:
    """Gradients of ``forward``: ``(du, ddelta, dA, dB, dC, dD, dbias)``, None where not given."""
    u, delta, A, B, C, D, delta_bias = arguments[:7]
    scan = _Scan(arguments)
    gy = grad_y.to(scan.dtype).contiguous()
    du, ddelta, dA, dB, dC = (
        torch.zeros(t.shape, dtype=scan.dtype, device=t.device) for t in (u, delta, A, B, C)
    )
    flat = [t.view(-1, t.shape[-1]) for t in (gy, du, ddelta, dB, dC)]
    for part in scan.parts():
        dA[part.directions] += scan.run_backward(part, *flat)
    dbias = None
    if delta_bias is not None:
        dbias = ddelta.sum((0, 2)).to(delta_bias.dtype)
    dD = None
    if D is not None:
        du.addcmul_(gy, D.to(scan.dtype).sum(0))
        dD = (gy * u.to(scan.dtype)).sum((0, 1)).expand(D.shape).to(D.dtype, copy=True)
    grads = (
        g.to(t.dtype) for g, t in zip((du, ddelta, dA, dB, dC), (u, delta, A, B, C), strict=True)
    )
    return (*grads, dD, dbias)


@dataclass(frozen=True)
class _Part:
    """Batch items and directions that are scanned together."""

    batch: slice
    directions: slice


@dataclass(frozen=True)
class _Segment:
    """Times ``start .. start + chunks * steps`` of every sequence of a part.

    Several chunks run side by side in one block; one chunk may go through several blocks.
    """

    start: int
    chunks: int
    steps: int


@dataclass(frozen=True)
class _Index:
    """Where a segment's rows lie: row numbers (T, chunks, directions, batch) of flat tensors."""

    pixel: Tensor  # of (batch * L, .)
    path: Tensor  # of (batch * K * L, .)


class _Scan:
    """One call's tensors, flattened so that every gather is one of whole rows."""

    def __init__(self, arguments: ScanArguments) -> None:
        u, delta, A, B, C, _, delta_bias, order, delta_softplus = arguments
        self.dtype = arguments.state_dtype
        self.sizes = _CPU if u.device.type == "cpu" else _GPU
        self.batch, self.length = u.shape[:2]
        self.order = order.long()
        # Where the map of every batch item starts in flat tensors, and its paths: (K, batch).
        item = torch.arange(self.batch, device=order.device)
        k = torch.arange(order.shape[0], device=order.device)[:, None]
        self.map_start = item * self.length
        self.path_start = (item * order.shape[0] + k) * self.length
        self.u, self.delta, self.B, self.C = (t.reshape(-1, t.shape[-1]) for t in (u, delta, B, C))
        self.A = A.to(self.dtype).transpose(1, 2).contiguous()  # (K, N, D)
        self.bias = None if delta_bias is None else delta_bias.to(self.dtype)
        self.softplus = delta_softplus

    def parts(self) -> Iterator[_Part]:
        """Batch items and directions in groups whose joint state is small enough."""
        at_once = max(1, self.sizes.split // self.A[0].numel())
        directions = min(self.order.shape[0], at_once)
        items = max(1, at_once // directions)
        for b in range(0, self.batch, items):
            for k in range(0, self.order.shape[0], directions):
                yield _Part(
                    slice(b, min(b + items, self.batch)),
                    slice(k, min(k + directions, self.order.shape[0])),
                )

    def run(self, part: _Part, total: Tensor) -> None:
        """Add a part's result, without the skip, to ``total`` (batch * L, D)."""
        a2, h = self._start(part)
        buffers = block.Buffers(a2)
        for segment in _segments(self.length, h.numel(), self.sizes):
            index = self._index(part, segment)
            rows = self._gather(part, index, buffers)
            for of_block in block.blocks(rows, self._blocks(segment, h)):
                h = block.forward(of_block, a2, h, buffers)
            self._add(total, index.pixel, rows.fed)

    def run_backward(
        self, part: _Part, gy: Tensor, du: Tensor, ddelta: Tensor, dB: Tensor, dC: Tensor
    ) -> Tensor:
        """Add a part's gradients, without the skip, to flat tensors; returned is dA (k, D, N)."""
        a2, h = self._start(part)
        buffers = block.Buffers(a2)
        segments = _segments(self.length, h.numel(), self.sizes)
        starts = []  # of every block, the state of each of its chunks
        for segment in segments:
            rows = self._gather(part, self._index(part, segment), buffers)
            for of_block in block.blocks(rows, self._blocks(segment, h)):
                start, h = block.start_states(of_block, a2, h, buffers)
                starts.append(start)
        g = torch.zeros_like(h)
        dA = torch.zeros_like(a2)
        for segment in reversed(segments):
            index = self._index(part, segment)
            rows = self._gather(part, index, buffers)
            grads = block.RowGradients(
                self._take("gy", gy, index.pixel, buffers),
                buffers.take("du", rows.u.shape),
                buffers.take("dstep", rows.step.shape),
                buffers.take("dB", rows.B.shape),
                buffers.take("dC", rows.C.shape),
            )
            count = self._blocks(segment, h)
            of_blocks = zip(block.blocks(rows, count), block.blocks(grads, count), strict=True)
            for of_block, into in reversed(list(of_blocks)):
                g = block.backward(of_block, a2, starts.pop(), g, buffers, into, dA)
            self._add(du, index.pixel, grads.u)
            dstep = grads.step
            if self.softplus:
                dstep = torch.ops.aten.softplus_backward(dstep, rows.raw, 1, 20)
            for flat, of_rows in ((ddelta, dstep), (dB, grads.B), (dC, grads.C)):
                flat.index_add_(0, index.path.flatten(), of_rows.flatten(0, -2))
        return dA.flatten(1, 2).transpose(1, 2)

    def _start(self, part: _Part) -> tuple[Tensor, Tensor]:
        """Decay rates to base 2 (k, 1, N, D) and the first state (k * batch, N, D)."""
        a2 = self.A[part.directions, None] * block.LOG2E
        rows = a2.shape[0] * (part.batch.stop - part.batch.start)
        return a2, a2.new_zeros(rows, *a2.shape[2:])

    def _blocks(self, segment: _Segment, h: Tensor) -> int:
        """Into how many blocks a segment is cut; chunks side by side share one."""
        return 1 if segment.chunks > 1 else -(-segment.steps * h.numel() // self.sizes.block)

    def _index(self, part: _Part, segment: _Segment) -> _Index:
        times = slice(segment.start, segment.start + segment.chunks * segment.steps)
        pixel = self.order[part.directions, times].view(-1, segment.chunks, segment.steps)
        pixel = pixel.permute(2, 1, 0).contiguous().unsqueeze(-1)
        return _Index(
            pixel + self.map_start[part.batch],
            pixel + self.path_start[part.directions, part.batch],
        )

    def _gather(self, part: _Part, index: _Index, buffers: block.Buffers) -> block.Rows:
        u = self._take("u", self.u, index.pixel, buffers)
        raw, b, c = (
            self._take(name, flat, index.path, buffers)
            for name, flat in (("delta", self.delta), ("B", self.B), ("C", self.C))
        )
        if self.bias is not None:
            raw += self.bias[part.directions, None, None]
        step = raw
        if self.softplus:
            step = torch.ops.aten.softplus.out(raw, 1, 20, out=buffers.take("step", raw.shape))
        fed = torch.mul(step, u, out=buffers.take("fed", u.shape))
        return block.Rows(raw, step, u, fed, b, c)

    def _take(self, name: str, flat: Tensor, index: Tensor, buffers: block.Buffers) -> Tensor:
        """The rows of a flat tensor that an index asks for, in scratch memory."""
        shape = torch.Size((index.numel(), flat.shape[-1]))
        out = buffers.take(name, shape, flat.dtype)
        torch.index_select(flat, 0, index.flatten(), out=out)
        return out.to(self.dtype).view(*index.shape, 1, shape[-1])

    @staticmethod
    def _add(total: Tensor, pixel: Tensor, rows: Tensor) -> None:
        # The sum has one order on any device: a CPU adds rows in theirs; elsewhere, directions are
        # added one at a time, each of which meets a pixel once.
        groups = [(pixel, rows)]
        if total.device.type != "cpu":
            groups = list(zip(pixel.unbind(2), rows.unbind(2), strict=True))
        for at, added in groups:
            total.index_add_(0, at.flatten(), added.flatten(0, -2))


def _segments(length: int, numbers: int, sizes: _Sizes) -> list[_Segment]:
    """Cut a sequence whose state has ``numbers`` numbers into segments."""
    chunks = sizes.width // numbers
    steps = max(1, min(_SEGMENT_STEPS // 8, sizes.block // (max(1, chunks) * numbers)))
    segments = []
    start = 0
    if chunks >= 4:
        while (fitting := min(chunks, (length - start) // steps)) > 1:
            segments.append(_Segment(start, fitting, steps))
            start += fitting * steps
    while start < length:
        segments.append(_Segment(start, 1, min(_SEGMENT_STEPS, length - start)))
        start += segments[-1].steps
    return segments
