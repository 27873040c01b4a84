"""What the Triton scan launches, and with which arguments; see ``triton_scan``."""

import functools
import importlib
import math
import weakref
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rsmamba_models.ops.arguments import ScanArguments

_LOG2E = math.log2(math.e)
# Warps (of 32 channels) that fill a large GPU: 132 multiprocessors x 16. A constant, not the
# device's own figure, so that chunks and thereby rounding depend on the shapes alone.
_WARPS = 2112
_FORWARD_STEPS = (64, 512)  # shortest and longest chunk of a chunked forward pass
_BACKWARD_UNROLL = 4
_BACKWARD_PROGRAMS = 1056  # each owns a scratch of steps / unroll states: L2 holds them all
_CARRY_LANES = 128
_MERGE_LANES = 1024
BACKWARD_STEPS = 64  # of a chunk
Block = tuple[int, int]  # channels and warps of a program


@functools.cache
def _kernels() -> tuple[ModuleType, ModuleType]:
    """The modules with the kernels; imported late, because they need Triton."""
    package = "rsmamba_models.ops"
    kernels = importlib.import_module(f"{package}.triton_kernels")
    return kernels, importlib.import_module(f"{package}.triton_gradient")


# Which directions are each other's reversal, by the identity of the order table.
_found_pairs: dict[int, tuple[weakref.ref[Tensor], int, Tensor]] = {}


def opposite_pairs(order: Tensor) -> Tensor:
    """Directions that visit the same pixels in opposite order, two by two.

    The comparison reads the table back from the device once; the answer is kept for as long as the
    table lives. While a CUDA graph is being captured nothing can be read back: then directions that
    were not seen before stay single, which is as right and slower.

    Args:
        order: ``(K, L)`` integer table.

    Returns:
        ``(P, 2)`` int32 on the device of ``order``, ``P <= K``; the second is -1 for a direction
        without a partner. Every direction occurs once; first elements ascend.
    """
    version = 0 if order.is_inference() else order._version
    known = _found_pairs.get(id(order))
    if known is not None and known[0]() is order and known[1] == version:
        return known[2]
    directions = order.shape[0]
    capturing = order.is_cuda and torch.cuda.is_current_stream_capturing()
    partner = [-1] * directions
    if directions > 1 and not capturing:
        rows = order.detach().cpu()
        flipped = rows.flip(1)
        for i in range(directions):
            free = (j for j in range(i + 1, directions) if partner[j] < 0)
            if partner[i] < 0:
                match = next((j for j in free if torch.equal(rows[i], flipped[j])), -1)
                if match >= 0:
                    partner[i], partner[match] = match, i
    table = [[i, j] for i, j in enumerate(partner) if j < 0 or i < j]
    with torch.inference_mode(False):
        pairs = torch.tensor(table, dtype=torch.int32, device=order.device)
    if not capturing:
        key = id(order)
        _found_pairs[key] = (
            weakref.ref(order, lambda _: _found_pairs.pop(key, None)),
            version,
            pairs,
        )
    return pairs


class Weights:
    """What all samples of a batch share, in the dtype and layout that the kernels want."""

    def __init__(self, scan: ScanArguments) -> None:
        dtype, order = scan.state_dtype, scan.order
        skip, bias = scan.D, scan.delta_bias
        self.dtype = dtype
        self.number_bytes = dtype.itemsize
        self.pairs = opposite_pairs(order)
        self.order = order.contiguous()
        self.rates = (scan.A.to(dtype) * _LOG2E).transpose(1, 2).contiguous()  # (K, N, D)
        self.skip = None if skip is None else skip.to(dtype).contiguous()
        self.bias = None if bias is None else bias.to(dtype).contiguous()
        self.softplus = scan.delta_softplus


class Scan:
    """One slice of a batch, and the launches that make up its passes."""

    def __init__(self, weights: Weights, whole: ScanArguments, part: slice) -> None:
        self.weights = weights
        self.u, self.delta = whole.u[part], whole.delta[part]
        self.B, self.C = whole.B[part], whole.C[part]
        self.batch, self.length, self.channels = self.u.shape
        self.directions, self.states = weights.rates.shape[:2]
        self.padded = 1 << max(0, self.states - 1).bit_length()
        self.pair_count = weights.pairs.shape[0]
        self.sides = 1 if self.pair_count == self.directions else 2

    def run(self, y: Tensor, block: Block) -> None:
        """Write y ``(B, L, D)``."""
        kernels, _ = _kernels()
        weights = self.weights
        steps = _forward_steps(self.length, self.batch * self.pair_count * -(-self.channels // 32))
        chunks = -(-self.length // steps)
        state = weights.rates.new_empty(0)
        if chunks > 1:
            state, total = self._ends(self.u, self.B, steps, block, adjoint=False)
            self._carry(state, total, adjoint=False)
        single = self.directions == 1
        parts = y if single else weights.rates.new_empty(y.shape[0], self.pair_count, *y.shape[1:])
        blocks = -(-self.channels // block[0])
        kernels.chunk_scan[(blocks * chunks * self.pair_count * self.batch,)](
            *(self.u, self.delta, self.B, self.C, weights.rates, weights.skip, weights.bias),
            *(weights.order, weights.pairs, state, parts),
            *(*self.u.stride()[:2], *self.delta.stride()[:3]),
            *(*self.B.stride()[:3], *self.C.stride()[:3]),
            *self._sizes(chunks, steps, blocks),
            **self._options(block),
            FROM_ZERO=chunks == 1,
            SKIP=single and weights.skip is not None,
        )
        if not single:
            self._merge(parts, self.u, y)

    def run_backward(
        self,
        grad_y: Tensor,
        du: Tensor,
        ddelta: Tensor,
        dB: Tensor,
        dC: Tensor,
        block: Block,
    ) -> tuple[Tensor, Tensor]:
        """Write du, ddelta, dB, dC; return dA ``(K, D, N)`` and dbias ``(K, D)``."""
        _, gradient = _kernels()
        weights = self.weights
        steps = BACKWARD_STEPS
        chunks = -(-self.length // steps)
        state, total = self._ends(self.u, self.B, steps, block, adjoint=False)
        self._carry(state, total, adjoint=False)
        adjoint, _ = self._ends(grad_y, self.C, steps, block, adjoint=True)
        self._carry(adjoint, total, adjoint=True)
        dbias = torch.empty_like(total)

        blocks = -(-self.channels // block[0])
        items = blocks * chunks * self.pair_count * self.batch
        programs = min(items, _BACKWARD_PROGRAMS)
        noted = -(-steps // _BACKWARD_UNROLL)
        new = weights.rates.new_empty
        scratch = new(programs, noted, self.padded, block[0])
        du_parts = new(self.batch, self.pair_count, self.length, self.channels)
        dB_parts, dC_parts = (new(blocks, *t.shape) for t in (self.B, self.C))
        gradient.chunk_backward[(programs,)](
            *(grad_y, self.u, self.delta, self.B, self.C, weights.rates, weights.bias),
            *(weights.order, weights.pairs, state, adjoint, scratch),
            *(du_parts, ddelta, dB_parts, dC_parts, dbias),
            *(*grad_y.stride()[:2], *self.u.stride()[:2], *self.delta.stride()[:3]),
            *(*self.B.stride()[:3], *self.C.stride()[:3]),
            *self._sizes(chunks, steps, blocks),
            *(items, self.batch),
            **self._options(block),
            UNROLL=_BACKWARD_UNROLL,
        )
        self._merge(du_parts, grad_y, du)
        dB.copy_(dB_parts.sum(0))
        dC.copy_(dC_parts.sum(0))
        # The kernel left every chunk's part of dA where its start state was.
        return state.sum((0, 2)).transpose(1, 2), dbias.sum((0, 2))

    def _ends(
        self, x: Tensor, weight: Tensor, steps: int, block: Block, adjoint: bool
    ) -> tuple[Tensor, Tensor]:
        """End states of chunks started from zero, and the chunks' summed steps."""
        kernels, _ = _kernels()
        weights = self.weights
        chunks = -(-self.length // steps)
        blocks = -(-self.channels // block[0])
        shape = (self.batch, self.directions, chunks)
        state = weights.rates.new_empty(*shape, self.states, self.channels)
        total = weights.rates.new_empty(0 if adjoint else (*shape, self.channels))
        kernels.chunk_state[(blocks * chunks * self.sides * self.pair_count * self.batch,)](
            *(x, self.delta, weight, weights.rates, weights.bias, weights.order, weights.pairs),
            *(state, total),
            *(*x.stride()[:2], *self.delta.stride()[:3], *weight.stride()[:3]),
            *self._sizes(chunks, steps, blocks),
            **self._options(block),
            ADJOINT=adjoint,
        )
        return state, total

    def _carry(self, state: Tensor, total: Tensor, adjoint: bool) -> None:
        kernels, _ = _kernels()
        weights = self.weights
        blocks = -(-self.states * self.channels // _CARRY_LANES)
        kernels.carry[(blocks * self.sides * self.pair_count * self.batch,)](
            *(state, total, weights.rates, weights.pairs),
            *(self.channels, self.states, self.directions, self.pair_count),
            *(state.shape[2], blocks),
            ADJOINT=adjoint,
            SIDES=self.sides,
            E=_CARRY_LANES,
            ACC=_triton_dtype(weights.dtype),
        )

    def _merge(self, parts: Tensor, x: Tensor, out: Tensor) -> None:
        """Write out = the parts' sum, and x times the skip weights of all directions."""
        kernels, _ = _kernels()
        skip = None if self.weights.skip is None else self.weights.skip.sum(0)
        size = self.length * self.channels
        kernels.merge[(-(-size // _MERGE_LANES), self.batch)](
            *(parts, x, skip, out, *x.stride()[:2], size, self.channels, self.pair_count),
            SKIP=skip is not None,
            E=_MERGE_LANES,
        )

    def _sizes(self, chunks: int, steps: int, blocks: int) -> tuple[int, ...]:
        return (
            *(self.length, self.channels, self.states, self.directions, self.pair_count),
            *(chunks, steps, blocks),
        )

    def _options(self, block: Block) -> dict[str, Any]:
        channels, warps = block
        return {
            "BIAS": self.weights.bias is not None,
            "SOFTPLUS": self.weights.softplus,
            "SIDES": self.sides,
            "NP": self.padded,
            "BD": channels,
            "ACC": _triton_dtype(self.weights.dtype),
            "num_warps": warps,
        }


def _forward_steps(length: int, warps: int) -> int:
    """Steps of a chunk, given how many warps there are without cutting time."""
    if 2 * warps >= _WARPS:
        return length
    shortest, longest = _FORWARD_STEPS
    wanted = -(-length * warps // _WARPS)
    return min(length, max(shortest, min(longest, -(-wanted // 8) * 8)))


def _triton_dtype(dtype: torch.dtype) -> Any:
    language = importlib.import_module("triton.language")
    return language.float64 if dtype == torch.float64 else language.float32
