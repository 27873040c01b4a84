"""The ``native`` back end: a C++ library of ours, loaded with ctypes; float32 on the CPU.

The library (``csrc/``) has a plain C interface and no tie to the Python or torch version. It is
built by ``pip install`` where a C++ compiler is at hand, or by ``python setup.py build_ext
--inplace`` in a checkout, and holds one kernel per instruction set; the processor decides which one
runs. ``RSMAMBA_NATIVE_ISA`` (``avx512``, ``avx2`` or ``baseline``) asks for a lesser one.

Numbers: results do not depend on the number of threads by a single bit. Against float64, outputs
agree to about 1e-6 and gradients to 1e-5 of their largest value. Denormals count as zero. A decay
is a float32, so one that is very close to 1 is rounded, and where states last for ten thousands of
steps the roundings add up: over 2^20 tokens, steps of 0.01 and decay rates of -1 leave outputs and
gradients right to 1e-6 (dD 1.2e-6), rates of -0.01 to 4e-6, rates of -0.001 to 7e-6 (outputs) and
1.2e-5 (gradients). Who needs more calls the ``reference`` back end with float64.

Threads help each other as long as that pays: where another program keeps a core busy, calls go
without the thread that waits for it (see csrc/threads.h).
"""

import ctypes
import functools
import os
from pathlib import Path

import torch
from torch import Tensor

from rsmamba_models.errors import ArgumentsError, BackendError
from rsmamba_models.ops.arguments import ScanArguments

ISA_ENVIRONMENT = "RSMAMBA_NATIVE_ISA"
_ISAS = {"avx512": 2, "avx2": 1, "baseline": 0}  # best first; the numbers of csrc/library.h
_INTERFACE_VERSION = 3
_BAD_ORDER = 2  # a status of csrc/library.h
_LIBRARY = Path(__file__).with_name("_native.so")  # so named on every platform

_DIFFERENTIABLE = ("u", "delta", "a", "b", "c", "skip", "bias")  # as in ScanArguments
_POINTERS_IN = (*_DIFFERENTIABLE, "order", "dt_proj")
_POINTERS_OUT = ("y", "grad_y", *(f"grad_{name}" for name in _DIFFERENTIABLE))
_SIZES = (
    *("batch", "directions", "length", "channels", "states"),
    *("u_batch", "u_length"),
    *("delta_batch", "delta_direction", "delta_length"),
    *("b_batch", "b_direction", "b_length"),
    *("c_batch", "c_direction", "c_length"),
    *("grad_batch", "grad_length", "softplus", "rank"),
)


class _ScanProblem(ctypes.Structure):
    """``ScanProblem`` of csrc/scan.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_void_p) for name in (*_POINTERS_IN, *_POINTERS_OUT)),
    )


def is_available() -> bool:
    """Whether the library was built, loads, and knows the instruction set asked for."""
    return not why_not()


def why_not() -> str:
    """Why the back end cannot be used here, in a sentence; "" when it can."""
    try:
        _isa()
    except BackendError as error:
        return str(error)
    return ""


def build_info() -> dict[str, str]:
    """The library file in use and the instruction set that runs.

    Raises:
        BackendError: The back end is not usable here.
    """
    return {"library": str(_LIBRARY), "isa": _isa()}


def forward(scan: ScanArguments, dt_proj: Tensor | None = None) -> Tensor:
    """Scan a map along K directions and sum the results; see ``ops.directional_scan``.

    Args:
        scan: All tensors but the order are float32 on the CPU, of any outer strides. The order's
            range is checked.
        dt_proj: ``(K, D, R)`` if ``scan.delta`` is ``(B, K, L, R)``, the steps in their low rank
            (see ``ops.projected``): they are projected where they are used, a few at a time.

    Returns:
        ``(B, L, D)`` float32, contiguous.

    Raises:
        ArgumentsError: Shapes or dtypes that do not fit, or an order outside ``0..L-1``.
        BackendError: The back end is not usable here, or memory ran out.
    """
    call = _Call(scan, dt_proj)
    y = scan.u.new_empty(scan.u.shape)
    if call.empty:
        return y.zero_()
    call.point("y", y)
    call.run("rsmamba_scan_forward")
    return y


def backward(grad_y: Tensor, scan: ScanArguments) -> tuple[Tensor | None, ...]:
    """Gradients of ``forward``.

    Args:
        grad_y: ``(B, L, D)`` float32, the gradient of the result.
        scan: As in ``forward``; here a row of the order that is no permutation leaves gradients
            undefined.

    Returns:
        ``(du, ddelta, dA, dB, dC, dD, ddelta_bias)``, contiguous and shaped as the inputs; None
        for ``D`` or ``delta_bias`` that were None.

    Raises:
        ArgumentsError: As in ``forward``.
        BackendError: As in ``forward``.
    """
    call = _Call(scan)
    if grad_y.shape != scan.u.shape:
        raise ArgumentsError(
            f"grad_y has shape {tuple(grad_y.shape)}, expected {tuple(scan.u.shape)}"
        )
    _require_float32("grad_y", grad_y)
    grads = tuple(None if t is None else t.new_empty(t.shape) for t in scan.differentiable)
    if call.empty:
        return tuple(None if g is None else g.zero_() for g in grads)
    call.point("grad_y", call.rows("grad", grad_y, ("batch", "length")))
    for name, grad in zip(_DIFFERENTIABLE, grads, strict=True):
        call.point(f"grad_{name}", grad)
    call.run("rsmamba_scan_backward")
    return grads


class _Call:
    """One call of the library: the checked arguments, and what must stay alive until it returns."""

    def __init__(self, scan: ScanArguments, dt_proj: Tensor | None = None) -> None:
        rank = 0
        if dt_proj is None:
            scan.check()
        else:
            rank = dt_proj.shape[-1]
            whole = scan.delta.new_empty(1).expand(*scan.delta.shape[:-1], scan.u.shape[-1])
            scan._replace(delta=whole).check()
            if rank == 0 or tuple(dt_proj.shape) != (*scan.A.shape[:2], scan.delta.shape[-1]):
                raise ArgumentsError(
                    f"dt_proj {tuple(dt_proj.shape)} does not fit delta {tuple(scan.delta.shape)} "
                    f"and A {tuple(scan.A.shape)}"
                )
            _require_float32("dt_proj", dt_proj)
        for name, tensor in zip(scan._fields, scan.differentiable, strict=False):
            if tensor is not None:
                _require_float32(name, tensor)
        batch, length, channels = scan.u.shape
        directions, _, states = scan.A.shape
        if length > torch.iinfo(torch.int32).max:
            raise ArgumentsError(
                f"a map of {length} pixels is beyond the native scan's 32-bit order"
            )

        self.empty = 0 in (batch, directions, length, channels, states)
        self._alive: list[Tensor] = []
        self._problem = _ScanProblem(
            batch=batch,
            directions=directions,
            length=length,
            channels=channels,
            states=states,
            softplus=int(scan.delta_softplus),
            rank=rank,
        )
        if self.empty:
            return
        self.point("u", self.rows("u", scan.u, ("batch", "length")))
        self.point("delta", self.rows("delta", scan.delta, ("batch", "direction", "length")))
        self.point("b", self.rows("b", scan.B, ("batch", "direction", "length")))
        self.point("c", self.rows("c", scan.C, ("batch", "direction", "length")))
        small_ones = (
            ("a", scan.A),
            ("skip", scan.D),
            ("bias", scan.delta_bias),
            ("dt_proj", dt_proj),
        )
        for name, small in small_ones:
            self.point(name, None if small is None else small.contiguous())
        self.point("order", scan.order.to(torch.int32).contiguous())

    def rows(self, name: str, tensor: Tensor, axes: tuple[str, ...]) -> Tensor:
        """``tensor``, its last axis made contiguous, with its outer strides noted."""
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            tensor = tensor.contiguous()
        for axis, stride in zip(axes, tensor.stride(), strict=False):
            setattr(self._problem, f"{name}_{axis}", stride)
        return tensor

    def point(self, name: str, tensor: Tensor | None) -> None:
        """Let a field point at a tensor, and keep the tensor alive."""
        if tensor is not None:
            self._alive.append(tensor)
            setattr(self._problem, name, tensor.data_ptr())

    def run(self, function: str) -> None:
        """Let the library work on the problem.

        Raises:
            ArgumentsError: The order holds positions outside the map.
            BackendError: As in ``call``.
        """
        if call(function, self._problem) == _BAD_ORDER:
            raise ArgumentsError("order holds positions outside 0..L-1")


def _require_float32(name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise ArgumentsError(
            f"the native scan takes float32 on the CPU; {name} is {tensor.dtype} on {tensor.device}"
        )


def call(function: str, problem: ctypes.Structure) -> int:
    """Call a function of the library; ctypes gives the interpreter lock free meanwhile.

    Args:
        function: Its name.
        problem: What it works on, laid out as the function's C structure.

    Returns:
        0, or the status that tells what is wrong with the problem.

    Raises:
        BackendError: The back end is not usable here, or memory ran out.
    """
    entry = getattr(_library(), function)
    entry.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    entry.restype = ctypes.c_int
    status = int(entry(ctypes.byref(problem), _ISAS[_isa()], torch.get_num_threads()))
    if status in (0, _BAD_ORDER):
        return status
    raise BackendError(
        "the native library ran out of memory"
        if status == 1
        else f"the native library returned status {status}"
    )


@functools.cache
def _library() -> ctypes.CDLL:
    if not _LIBRARY.is_file():
        raise BackendError(
            "the native library was not built (no C++ compiler when rsmamba was installed?); "
            "install a compiler and reinstall"
        )
    try:
        library = ctypes.CDLL(str(_LIBRARY))
        version = library.rsmamba_interface_version()
    except (OSError, AttributeError) as error:
        raise BackendError(f"the native library {_LIBRARY} cannot be loaded: {error}") from error
    if version != _INTERFACE_VERSION:
        raise BackendError(
            f"the native library {_LIBRARY} is of interface {version}, this code needs "
            f"{_INTERFACE_VERSION}: reinstall rsmamba"
        )
    return library


def _isa() -> str:
    """The instruction set to run: the best one here, or the one the environment asks for.

    Raises:
        BackendError: No library, or it or the processor lacks what the environment asks for.
    """
    library = _library()
    asked = os.environ.get(ISA_ENVIRONMENT)
    if not asked:
        return next(name for name, number in _ISAS.items() if library.rsmamba_has_isa(number))
    if asked not in _ISAS:
        raise BackendError(f"{ISA_ENVIRONMENT}={asked!r} is unknown; known: {', '.join(_ISAS)}")
    if not library.rsmamba_has_isa(_ISAS[asked]):
        raise BackendError(f"{ISA_ENVIRONMENT}={asked}: this processor or build does not have it")
    return asked
