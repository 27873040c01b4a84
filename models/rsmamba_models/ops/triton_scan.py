"""The directional scan on a GPU through Triton: fused, channel-last, deterministic.

Nothing is permuted in memory: a program walks the pixels of a chunk by the order table, for a block
of channels, with the state in registers. Where two directions are each other's reversal one program
runs both over the chunk and stores their sum, so outputs need no atomics and half the traffic.

Time is cut into chunks, because one program a (batch, direction, channel block) leaves most of a
GPU idle: local end states (1), a carry over the chunks (2), and a second run from the true start
states, which writes y (3). Same mathematics as ``torch_scan``. With enough programs (large batches)
the chunk is the whole sequence and (1) and (2) are skipped.

The backward pass keeps nothing from the forward pass: it recomputes chunk start states, runs the
adjoint recurrence the same way, and sums the parts of dA, dB, dC over chunks and channel blocks in
a fixed order. State and sums are float32 (float64 for float64 input).

Kernels are specialised on N (padded to a power of two) and the dtypes; channels and length are
free. Set ``RSMAMBA_TRITON_TUNE=1`` to time a few block shapes on first use instead of taking the
shipped ones; the last bits of gradients, and of y at many states, may then differ between runs.
"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from rsmamba_models.errors import BackendError
from rsmamba_models.ops import triton_launch
from rsmamba_models.ops.arguments import ScanArguments
from rsmamba_models.ops.selfcheck import FirstUse
from rsmamba_models.ops.triton_launch import Block, Scan, Weights

TUNE = "RSMAMBA_TRITON_TUNE"
_MINIMUM = (3, 4)
_SLICE_BYTES = 1 << 31  # temporary memory of a call: larger batches run in slices
# What tuning tries. A lane holds one channel, so that Triton needs no change of layout; warps
# beyond channels / 32 share the states of a channel.
_BLOCKS: tuple[Block, ...] = ((32, 1), (32, 2), (32, 4), (64, 2), (128, 4))
_tuned: dict[tuple[object, ...], Block] = {}


def is_available() -> bool:
    """Whether the kernels can run here; see ``why_not``."""
    return not why_not()


def why_not() -> str:
    """Why the kernels cannot run here, or "" when they can.

    They need Triton 3.4 or newer and a GPU, or Triton's interpreter (``TRITON_INTERPRET=1``, set
    before Triton is first imported), which runs them on the CPU, very slowly, to check them.
    """
    if reason := _installation():
        return reason
    if interpreted():
        return ""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return _check(torch.device("cuda", torch.cuda.current_device()))


def interpreted() -> bool:
    """Whether Triton runs its kernels in its interpreter (on CPU tensors)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


def forward(arguments: ScanArguments) -> Tensor:
    """Scan a map along every direction and sum the results; see ``directional_scan``.

    Raises:
        BackendError: The tensors are not on a GPU, or this machine's kernels failed their check.
    """
    _require(arguments.u.device)
    return _forward(arguments)


def backward(grad_y: Tensor, arguments: ScanArguments) -> tuple[Tensor | None, ...]:
    """Gradients of ``forward``: ``(du, ddelta, dA, dB, dC, dD, dbias)``, None where not given.

    Raises:
        BackendError: The tensors are not on a GPU, or this machine's kernels failed their check.
    """
    _require(arguments.u.device)
    return _backward(grad_y, arguments)


@functools.cache
def _installation() -> str:
    """What is wrong with the installed Triton, or ""."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    try:
        triton = importlib.import_module("triton")
    except Exception as error:  # a broken driver or build raises more than ImportError
        return f"triton cannot be imported ({error})"
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < _MINIMUM:
        return f"triton {triton.__version__} is older than {_MINIMUM[0]}.{_MINIMUM[1]}"
    return ""


def _require(device: torch.device) -> None:
    if interpreted():
        return
    if device.type != "cuda":
        raise BackendError(f"the triton scan runs on a GPU; its input is on {device}")
    if reason := _check(device):
        raise BackendError(f"the triton scan is not usable: {reason}")


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _forward(arguments: ScanArguments) -> Tensor:
    u = arguments.u
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    if u.numel() == 0:
        return y
    with _on(u.device):
        weights = Weights(arguments)
        sample = u[0].numel() * weights.pairs.shape[0] * weights.number_bytes
        for part in _slices(u.shape[0], sample):
            scan = Scan(weights, arguments, part)
            block = _block("forward", scan, functools.partial(scan.run, y[part]))
            scan.run(y[part], block)
    return y


def _backward(grad_y: Tensor, arguments: ScanArguments) -> tuple[Tensor | None, ...]:
    u, delta, A, B, C, D, delta_bias = arguments[:7]
    shaped = (u, delta, B, C)
    du, ddelta, dB, dC = (torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in shaped)
    with _on(u.device):
        weights = Weights(arguments)
        dA, dbias = weights.rates.new_zeros(A.shape), weights.rates.new_zeros(A.shape[:2])
        if u.numel():
            grad_y = grad_y if grad_y.stride(-1) == 1 else grad_y.contiguous()
            states = 2 * A.numel() * -(-u.shape[1] // triton_launch.BACKWARD_STEPS)
            blocks = -(-u.shape[2] // 32)
            sample = u[0].numel() * weights.pairs.shape[0] + states + 2 * blocks * B[0].numel()
            for part in _slices(u.shape[0], sample * weights.number_bytes):
                scan = Scan(weights, arguments, part)
                run = functools.partial(
                    scan.run_backward, grad_y[part], du[part], ddelta[part], dB[part], dC[part]
                )
                part_dA, part_dbias = run(_block("backward", scan, run))
                dA += part_dA
                dbias += part_dbias
    dD = None
    if D is not None:
        # The skip weights of all directions meet the same sum.
        both = (grad_y.to(weights.dtype) * u.to(weights.dtype)).sum((0, 1))
        dD = both.to(D.dtype).expand(D.shape).contiguous()
    given = None if delta_bias is None else dbias.to(delta_bias.dtype)
    return du, ddelta, dA.to(A.dtype), dB, dC, dD, given


_check = FirstUse(_forward, _backward)


def _slices(batch: int, sample_bytes: int) -> list[slice]:
    """The batch in slices whose temporaries fit ``_SLICE_BYTES`` (or of one sample)."""
    size = max(1, _SLICE_BYTES // max(1, sample_bytes))
    return [slice(i, min(i + size, batch)) for i in range(0, batch, size)]


def _block(kind: str, scan: Scan, run: Callable[[Block], object]) -> Block:
    """Channels and warps of a program: the shipped choice, or on request the fastest of a few."""
    n = scan.padded
    # 16 states a lane leave room for the rows loaded ahead. A forward pass with next to no state is
    # bound by memory, which more warps in flight serve.
    shipped = (64, 2) if kind == "forward" and n <= 4 else (32, min(8, max(1, n // 16)))
    if interpreted() or os.environ.get(TUNE, "") in ("", "0"):
        return shipped
    key = (kind, n, scan.u.shape[-1], scan.u.dtype, scan.u.device)
    if key not in _tuned:
        time = importlib.import_module("triton.testing").do_bench
        trial = dict.fromkeys((shipped, *_BLOCKS))
        _tuned[key] = min(trial, key=lambda block: time(lambda: run(block), warmup=5, rep=20))
    return _tuned[key]
