"""The computations of the bench as functions without arguments, one per form, over shared inputs.

Inputs are those of a freshly initialised model: steps of 0.001 to 0.1, decay rates -1 .. -N.
Extreme values would let states run into denormal numbers, which slow some peers a hundred times.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rsmamba_cli.bench.peers import step_loop, step_loop_bytes, unfold_attention
from rsmamba_cli.bench.records import Floor
from rsmamba_cli.resident import available_bytes
from rsmamba_models import create_model
from rsmamba_models.ops import directional_scan, mlstm, neighborhood, scan_order
from rsmamba_models.ops.arguments import ScanArguments
from rsmamba_models.ops.backends import ATTENTION, ENVIRONMENT, SCAN, load_backend

Sizes = Mapping[str, int | str]

# Vector instructions of the recurrence in float32, per state: the decay's exponent (1) and
# exponential (9: round to sixteenths, subtract, look up, degree-3 polynomial, scale), the drive
# (1), the update (1) and the output (1). Sums, look-up and scaling can run beside the
# multiplications.
_STATE_INSTRUCTIONS, _STATE_FMAS = 13, 8
# And per step: bias and softplus (exponential and logarithm to float32 accuracy), times the input.
_STEP_INSTRUCTIONS, _STEP_FMAS = 27, 15


@dataclass(frozen=True)
class Form:
    """One way of doing a computation.

    Attributes:
        call: Does it, and returns what is compared.
        peers: Forms that it is held against.
        compared: Whether the result is that of the case (a backward pass runs beside its forward).
        bounded: Whether the case's floor is a bound for this form.
        spreads: Whether it is run with two threads too.
    """

    call: Callable[[], Tensor]
    peers: tuple[str, ...] = ()
    compared: bool = True
    bounded: bool = True
    spreads: bool = False


@dataclass(frozen=True)
class Workload:
    """A case's forms, the first one being what the others' results are compared with."""

    forms: dict[str, Form]
    floor: Floor = field(default_factory=Floor)


def build(kind: str, sizes: Sizes) -> Workload:
    """Make the inputs of a case and the forms that can run here.

    Args:
        kind: ``scan_forward``, ``scan_backward``, ``scan_training``, ``mlstm``, ``neighborhood`` or
            ``model``.
        sizes: Its sizes: scans take batch, order, channels, states, side; mlstm takes heads, head,
            tokens; neighborhood takes heads, head, window, side; model takes model, side.
    """
    return _BUILDERS[kind](sizes)


def scan_back_ends() -> tuple[str, ...]:
    """The scan back ends that take float32 CPU tensors here.

    Interpreted GPU kernels are no measure, and the form for exporters is not there to be fast.
    """
    left_out = ("triton", "traceable")
    return tuple(name for name in SCAN.usable(torch.zeros(1)) if name not in left_out)


def guarded_step_loop(u: Tensor, delta: Tensor, A: Tensor, *rest: Any, **options: Any) -> Tensor:
    """``peers.step_loop``, refused where it would not fit into the memory that is free.

    Raises:
        MemoryError: It would not fit.
    """
    directions, channels, states = A.shape
    needed = step_loop_bytes(u.shape[0], directions, channels, states, u.shape[1])
    free = available_bytes()
    if free is not None and needed > 0.9 * free:
        raise MemoryError(
            f"the step loop needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        )
    return step_loop(u, delta, A, *rest, **options)


def projected_step_loop(
    u: Tensor, low: Tensor, dt_proj: Tensor, *rest: Tensor, order: Tensor
) -> Tensor:
    """``guarded_step_loop`` in place of ``ops.projected_scan``, all channels at once."""
    return guarded_step_loop(u, low @ dt_proj.transpose(1, 2), *rest, order=order)


@dataclass(frozen=True)
class _Scan:
    """Inputs of a directional scan."""

    arguments: ScanArguments

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """u, delta, A, B, C, D, delta_bias."""
        return tuple(t for t in self.arguments.differentiable if t is not None)

    @property
    def order(self) -> Tensor:
        """The directions."""
        return self.arguments.order

    @property
    def states(self) -> float:
        """State updates."""
        u, _, A = self.tensors[:3]
        return float(u.shape[0] * u.shape[1] * A.numel())

    def floor(self) -> Floor:
        """What a forward pass asks for; every tensor through memory once."""
        u, delta = self.tensors[:2]
        steps = float(delta.numel())
        return Floor(
            exps=self.states + steps,
            fmas=_STATE_FMAS * self.states + _STEP_FMAS * steps,
            instructions=_STATE_INSTRUCTIONS * self.states + _STEP_INSTRUCTIONS * steps,
            bytes=4.0 * (u.numel() + sum(t.numel() for t in self.tensors)),
        )

    def forward(self, back_end: str) -> Callable[[], Tensor]:
        """A function that scans with a back end."""
        return lambda: directional_scan(*self.tensors, order=self.order, backend=back_end)

    def loop(self) -> Tensor:
        """Scan with the step loop."""
        return guarded_step_loop(*self.tensors, order=self.order)


def _scan_inputs(sizes: Sizes) -> _Scan:
    batch, channels, states, side = (
        int(sizes[name]) for name in ("batch", "channels", "states", "side")
    )
    order = scan_order(str(sizes["order"]), side, side)
    directions, length = order.shape
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    span = math.log(1e-3), math.log(1e-1)
    step = torch.empty(directions, channels).uniform_(*span, generator=random).exp()
    arguments = ScanArguments(
        normal(batch, length, channels),
        0.5 * normal(batch, directions, length, channels),
        -torch.arange(1.0, states + 1).expand(directions, channels, states).contiguous(),
        normal(batch, directions, length, states),
        normal(batch, directions, length, states),
        torch.ones(directions, channels),
        step + torch.log(-torch.expm1(-step)),  # softplus's inverse
        order,
        delta_softplus=True,
    )
    return _Scan(arguments)


def _scan_forward(sizes: Sizes) -> Workload:
    scan = _scan_inputs(sizes)
    peers = ("step loop", "reference", "torch")
    forms: dict[str, Form] = {}
    for name in scan_back_ends():
        call = _inference(scan.forward(name))
        known = ("step loop", *forms)
        held = tuple(peer for peer in peers if peer in known)
        forms[name] = Form(call, held, spreads=name == "native")
        if name == "reference":
            forms["step loop"] = Form(_inference(scan.loop), ("reference",))
    return Workload(forms, scan.floor())


def _scan_backward(sizes: Sizes) -> Workload:
    scan = _scan_inputs(sizes)
    grad = torch.randn(scan.tensors[0].shape, generator=torch.Generator().manual_seed(1))
    forms = {}
    for name in scan_back_ends():
        if name == "reference":  # by autograd through every step: in the training step, short
            continue
        run = load_backend(name).backward

        def backward(run: Callable[..., tuple[Tensor, ...]] = run) -> Tensor:
            return run(grad, scan.arguments)[0]

        peers = (f"{name} forward", "torch")
        # No floor: what a backward pass must recompute depends on how it is written.
        forms[name] = Form(_inference(backward), peers, bounded=False, spreads=name == "native")
        forward = _inference(scan.forward(name))
        forms[f"{name} forward"] = Form(forward, compared=False)
    return Workload(forms, scan.floor())


def _scan_training(sizes: Sizes) -> Workload:
    scan = _scan_inputs(sizes)
    grad = torch.randn(scan.tensors[0].shape, generator=torch.Generator().manual_seed(1))

    def step(function: Callable[..., Tensor], **options: Any) -> Callable[[], Tensor]:
        def run() -> Tensor:
            leaves = [t.detach().requires_grad_() for t in scan.tensors]
            y = function(*leaves, order=scan.order, **options)
            return torch.autograd.grad(y, leaves, grad)[0]

        return run

    peers = ("step loop", "reference")
    forms = {}
    for name in scan_back_ends():
        forms[name] = Form(step(directional_scan, backend=name), peers)
        if name == "reference":
            forms["step loop"] = Form(step(guarded_step_loop), ("reference",))
    return Workload(forms)


def _mlstm(sizes: Sizes) -> Workload:
    heads, head, tokens = (int(sizes[name]) for name in ("heads", "head", "tokens"))
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, tokens, head, generator=random) for _ in range(3))
    i_gate = torch.randn(1, heads, tokens, generator=random) - 2
    f_gate = torch.randn(1, heads, tokens, generator=random) + 3

    def run(form: str) -> Callable[[], Tensor]:
        return _inference(lambda: mlstm.mlstm(q, k, v, i_gate, f_gate, form=form))

    forms = {
        "recurrent": Form(run("recurrent")),
        "parallel": Form(run("parallel"), ("recurrent",)),
        "chunkwise": Form(run("chunkwise"), ("parallel", "recurrent")),
    }
    # One update and one reading of a (head, head) memory a token.
    floor = Floor(
        fmas=2.0 * heads * tokens * head * head,
        bytes=4.0 * (4 * q.numel() + 2 * i_gate.numel()),
    )
    return Workload(forms, floor)


def _neighborhood(sizes: Sizes) -> Workload:
    heads, head, window, side = (int(sizes[n]) for n in ("heads", "head", "window", "side"))
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, side, side, head, generator=random) for _ in range(3))

    def run(form: str) -> Callable[[], Tensor]:
        return _inference(lambda: neighborhood.neighborhood_attention(q, k, v, window, form=form))

    forms: dict[str, Form] = {}
    for name in ATTENTION.usable(q):
        held = tuple(peer for peer in ("unfold", "reference", "tiled") if peer in forms)
        forms[name] = Form(run(name), held, spreads=name == "native")
        if name == "reference":
            unfold = _inference(lambda: unfold_attention(q, k, v, window))
            forms["unfold"] = Form(unfold, ("reference",))
    keys = float(heads * side**2 * window**2)
    floor = Floor(exps=keys, fmas=2 * head * keys, bytes=4.0 * 4 * q.numel())
    return Workload(forms, floor)


def _model(sizes: Sizes) -> Workload:
    name, side = str(sizes["model"]), int(sizes["side"])
    torch.manual_seed(0)
    model: nn.Module = create_model(name).eval()
    kinds = {kind for part in model.modules() for kind in type(part).__mro__}
    modules = {sys.modules[kind.__module__] for kind in kinds}
    peers_of = {"directional_scan": guarded_step_loop, "projected_scan": projected_step_loop}
    loops = [
        (m, name, peer) for m in modules for name, peer in peers_of.items() if hasattr(m, name)
    ]

    @cache
    def images() -> tuple[Tensor, ...]:
        # Made in the first run, so that a measurement of memory counts them.
        random = torch.Generator().manual_seed(0)
        return tuple(torch.randn(shape, generator=random) for shape in image_shapes(model, side))

    def with_back_end(back_end: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with _scan_forced(back_end):
                logits: Tensor = model(*images())
                return logits

        return _inference(run)

    def with_loop() -> Tensor:
        with ExitStack() as stack:
            for owner, name, loop in loops:
                stack.enter_context(_replaced(owner, name, loop))
            logits: Tensor = model(*images())
            return logits

    peers = ("step loop", "torch")
    forms = {
        back_end: Form(with_back_end(back_end), peers, spreads=back_end == "native")
        for back_end in scan_back_ends()
        if back_end != "reference"
    }
    if loops:
        forms["step loop"] = Form(_inference(with_loop))
    return Workload(forms)


def image_shapes(model: nn.Module, side: int) -> list[tuple[int, ...]]:
    """Shapes of what a model is called with: a batch of one."""
    bands: Any = model.in_chans
    if model.task == "change":
        bands = (bands, bands)
    return [(1, n, side, side) for n in ((bands,) if isinstance(bands, int) else bands)]


def _inference(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.inference_mode():
            return call()

    return run


@contextmanager
def _scan_forced(back_end: str) -> Iterator[None]:
    before = os.environ.get(ENVIRONMENT)
    os.environ[ENVIRONMENT] = back_end
    try:
        yield
    finally:
        if before is None:
            del os.environ[ENVIRONMENT]
        else:
            os.environ[ENVIRONMENT] = before


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


_BUILDERS: dict[str, Callable[[Sizes], Workload]] = {
    "scan_forward": _scan_forward,
    "scan_backward": _scan_backward,
    "scan_training": _scan_training,
    "mlstm": _mlstm,
    "neighborhood": _neighborhood,
    "model": _model,
}
