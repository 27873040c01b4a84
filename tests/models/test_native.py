"""The native scan against the reference in float64, on every instruction set of this processor."""

import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rsmamba_models.errors import ArgumentsError, BackendError
from rsmamba_models.ops import native, reference, scan_order, torch_scan
from rsmamba_models.ops.arguments import ScanArguments

pytestmark = pytest.mark.skipif(not native.is_available(), reason=native.why_not())

ISAS = ("avx512", "avx2", "baseline")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(native.ISA_ENVIRONMENT, request.param)
    if not native.is_available():
        pytest.skip(native.why_not())
    return str(request.param)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make(
    batch: int = 1,
    directions: int = 2,
    length: int = 37,
    channels: int = 19,
    states: int = 5,
    seed: int = 0,
) -> Inputs:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    rows = [torch.randperm(length, generator=random) for _ in range(directions)]
    return (
        normal(batch, length, channels),
        normal(batch, directions, length, channels) - 1,
        -3 * torch.rand(directions, channels, states, generator=random),
        normal(batch, directions, length, states),
        normal(batch, directions, length, states),
        normal(directions, channels),
        normal(directions, channels) / 2,
        torch.stack(rows).int(),
    )


def exact(inputs: Inputs, softplus: bool = True) -> Tensor:
    *tensors, order = inputs
    wide = [None if t is None else t.double() for t in tensors]
    return reference.forward(ScanArguments(*wide, order, softplus))  # type: ignore[arg-type]


def exact_gradients(grad_y: Tensor, inputs: Inputs, softplus: bool = True) -> list[Tensor | None]:
    *tensors, order = inputs
    wide = [None if t is None else t.double() for t in tensors]
    return list(reference.backward(grad_y.double(), ScanArguments(*wide, order, softplus)))  # type: ignore[arg-type]


def error(found: Tensor | None, wanted: Tensor | None) -> float:
    """Largest difference, relative to the largest value."""
    assert found is not None
    assert wanted is not None
    assert found.shape == wanted.shape
    scale = wanted.abs().max().clamp_min(1e-30)
    return float((found.double() - wanted).abs().max() / scale)


SHAPES = [
    {"states": 1},
    {"states": 4, "channels": 8},
    {"states": 8, "channels": 33},
    {"states": 16, "channels": 96, "directions": 4},
    {"states": 64, "length": 18},
    {"states": 23, "channels": 3, "batch": 3},
    {"length": 1},
    {"length": 16, "channels": 1, "directions": 1},
    {"length": 600, "states": 3, "channels": 17, "directions": 1},
    {"length": 40, "states": 1, "channels": 200},
    {"length": 40, "states": 2, "channels": 196, "directions": 1},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_agrees_with_float64(isa: str, shape: dict[str, int]) -> None:
    inputs = make(**shape)
    assert error(native.forward(ScanArguments(*inputs, True)), exact(inputs)) < 2e-6


@pytest.mark.parametrize("rank", [1, 6, 24])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_steps_projected_inside_agree_with_float64(
    isa: str, shape: dict[str, int], rank: int
) -> None:
    u, delta, *rest = make(**shape)
    assert delta is not None
    random = torch.Generator().manual_seed(1)
    low = torch.randn(*delta.shape[:-1], rank, generator=random)
    weight = torch.randn(delta.shape[1], delta.shape[-1], rank, generator=random) / rank
    whole = low.double() @ weight.double().transpose(1, 2)
    found = native.forward(ScanArguments(u, low, *rest, True), weight)  # type: ignore[arg-type]
    assert error(found, exact((u, whole, *rest))) < 2e-6  # type: ignore[arg-type]


def test_a_projection_of_another_rank_is_refused() -> None:
    u, delta, *rest = make()
    low, weight = delta[..., :4], torch.zeros(2, 19, 3)  # type: ignore[index]
    with pytest.raises(ArgumentsError, match="dt_proj"):
        native.forward(ScanArguments(u, low, *rest, True), weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_agree_with_float64(isa: str, shape: dict[str, int]) -> None:
    inputs = make(**shape)
    grad_y = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    found = native.backward(grad_y, ScanArguments(*inputs, True))
    wanted = exact_gradients(grad_y, inputs)
    assert max(map(error, found, wanted)) < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    directions=st.integers(1, 4),
    length=st.integers(1, 50),
    channels=st.integers(1, 70),
    states=st.integers(1, 35),
    present=st.tuples(st.booleans(), st.booleans()),
    softplus=st.booleans(),
)
def test_any_shape_agrees_with_float64(
    batch: int,
    directions: int,
    length: int,
    channels: int,
    states: int,
    present: tuple[bool, bool],
    softplus: bool,
) -> None:
    u, delta, A, B, C, D, bias, order = make(batch, directions, length, channels, states)
    if not softplus:
        delta, bias = delta.abs(), None  # steps are not negative
    inputs = (u, delta, A, B, C, D if present[0] else None, bias if present[1] else None, order)
    grad_y = torch.randn(u.shape)
    assert error(native.forward(ScanArguments(*inputs, softplus)), exact(inputs, softplus)) < 5e-6
    found = native.backward(grad_y, ScanArguments(*inputs, softplus))
    wanted = exact_gradients(grad_y, inputs, softplus)
    assert [g is None for g in found] == [t is None for t in inputs[:7]]
    errors = [error(f, w) for f, w in zip(found, wanted, strict=True) if f is not None]
    assert max(errors) < 2e-5


@pytest.mark.parametrize("directions", [1, 4])
def test_the_number_of_threads_does_not_change_a_bit(isa: str, directions: int) -> None:
    inputs = make(2, directions, 700, 70, 16)
    grad_y = torch.randn(inputs[0].shape)
    torch.set_num_threads(1)
    y = native.forward(ScanArguments(*inputs, True))
    grads = native.backward(grad_y, ScanArguments(*inputs, True))
    for count in (2, 3, 16):
        torch.set_num_threads(count)
        assert torch.equal(native.forward(ScanArguments(*inputs, True)), y)
        assert all(map(torch.equal, native.backward(grad_y, ScanArguments(*inputs, True)), grads))


def test_instruction_sets_agree_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make(1, 4, 200, 40, 16)
    results = []
    for name in ISAS:
        monkeypatch.setenv(native.ISA_ENVIRONMENT, name)
        if native.is_available():
            results.append(native.forward(ScanArguments(*inputs, True)))
    assert all(error(y, results[-1].double()) < 2e-6 for y in results)


def test_scan_orders_of_the_models(isa: str) -> None:
    order = scan_order("omni", 5, 7)
    *tensors, _ = make(1, 8, 35, 24, 16)
    inputs = (*tensors, order)
    assert error(native.forward(ScanArguments(*inputs, True)), exact(inputs)) < 2e-6  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_empty_axes_give_zeros(axis: int) -> None:
    extents = [2, 3, 4, 5, 6]
    extents[axis + (axis > 0)] = 0
    batch, directions, length, channels, states = extents
    inputs = (
        torch.ones(batch, length, channels),
        torch.ones(batch, directions, length, channels),
        -torch.ones(directions, channels, states),
        torch.ones(batch, directions, length, states),
        torch.ones(batch, directions, length, states),
        torch.ones(directions, channels),
        None,
        torch.arange(length).expand(directions, length),
    )
    y = native.forward(ScanArguments(*inputs, True))
    grads = native.backward(y, ScanArguments(*inputs, True))
    assert y.shape == inputs[0].shape
    assert not y.any()
    assert not any(g.any() for g in grads if g is not None)


def test_outer_strides_are_free(isa: str) -> None:
    u, delta, A, B, C, D, bias, order = make(2, 3, 20, 19, 16)
    plain = native.forward(ScanArguments(u, delta, A, B, C, D, bias, order, True))
    both = torch.cat([B, C], -1)  # as one projection writes them
    strided = native.forward(
        ScanArguments(
            u.transpose(0, 1).contiguous().transpose(0, 1),
            delta.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3),
            A.transpose(0, 1).contiguous().transpose(0, 1),
            both[..., :16],
            both[..., 16:],
            D,
            bias,
            order.long(),
            True,
        )
    )
    assert torch.equal(strided, plain)


def test_a_strided_last_axis_is_copied(isa: str) -> None:
    inputs = make(1, 2, 20, 19, 4)
    turned = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in inputs[:5]]
    grad_y = torch.randn(1, 19, 20).transpose(1, 2)
    assert torch.equal(
        native.forward(ScanArguments(*turned, *inputs[5:], True)),
        native.forward(ScanArguments(*inputs, True)),
    )
    found = native.backward(grad_y, ScanArguments(*turned, *inputs[5:], True))
    wanted = native.backward(grad_y.contiguous(), ScanArguments(*inputs, True))
    assert all(map(torch.equal, found, wanted))


def test_expanded_rows_are_read_in_place(isa: str) -> None:
    u, delta, A, B, C, D, bias, order = make(1, 2, 20, 19, 4)
    inputs = (u, delta, A, B[:, :1, :1].expand_as(B), C[:, :1].expand_as(C), D, bias, order)
    assert error(native.forward(ScanArguments(*inputs, True)), exact(inputs)) < 2e-6


def test_the_default_dtype_does_not_matter() -> None:
    inputs = make()
    wanted = native.forward(ScanArguments(*inputs, True))
    torch.set_default_dtype(torch.float64)
    try:
        y = native.forward(ScanArguments(*inputs, True))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(y, wanted)


def test_extreme_steps_and_rates(isa: str) -> None:
    u, delta, A, B, C, D, _, order = make(1, 2, 60, 20, 16)
    delta = delta.sign() * 10 ** (4 * torch.rand(delta.shape) - 2)  # +-0.01 to +-100
    A = -(10 ** (4 * torch.rand(A.shape) - 2))  # -0.01 to -100
    inputs = (u, delta, A, B, C, D, None, order)
    grad_y = torch.randn(u.shape)
    assert error(native.forward(ScanArguments(*inputs, True)), exact(inputs)) < 2e-6
    found = native.backward(grad_y, ScanArguments(*inputs, True))[:6]
    assert max(map(error, found, exact_gradients(grad_y, inputs)[:6])) < 1e-5


def test_a_rate_of_zero_sums_without_decay(isa: str) -> None:
    length = 1 << 12
    ones = torch.ones(1, 1, length, 1)
    order = torch.arange(length)[None]
    y = native.forward(
        ScanArguments(ones[0], ones, torch.zeros(1, 1, 1), ones, ones, None, None, order, False)
    )
    assert torch.equal(y[0, :, 0], torch.arange(1.0, length + 1))


@pytest.mark.parametrize("raw", [-60.0, -20.0, -5.0, 0.0, 5.0, 19.99, 20.01, 80.0])
def test_softplus_is_accurate_relative_to_its_value(isa: str, raw: float) -> None:
    one = torch.ones(1, 1, 1, 1)
    zero = torch.zeros(1, 1, 1)
    order = torch.zeros(1, 1, dtype=torch.int32)
    step = native.forward(ScanArguments(one[0], raw * one, zero, one, one, None, None, order, True))
    wanted = torch.tensor(raw, dtype=torch.float64).exp().log1p() if raw < 20 else torch.tensor(raw)
    assert step.item() == pytest.approx(wanted.item(), rel=4e-7)
    slope = native.backward(
        one[0], ScanArguments(one[0], raw * one, zero, one, one, None, None, order, True)
    )[1]
    assert slope.item() == pytest.approx(torch.tensor(raw).double().sigmoid().item(), rel=4e-7)


@pytest.fixture(scope="module")
def long_scan() -> tuple[Inputs, Tensor, list[Tensor]]:
    """20 000 steps of slow decay, with y and the gradients of u, delta, A by the equations."""
    length, channels, states = 20_000, 4, 2
    u, delta, A, B, C, _, _, order = make(1, 1, length, channels, states)
    inputs = (u, delta - 6, A / 10, B.abs(), C, None, None, order)
    grad_y = torch.rand(u.shape)
    path = order[0].numpy()
    x, raw, b, c, g = (
        t.reshape(length, -1).double().numpy()[path] for t in (*inputs[:2], *inputs[3:5], grad_y)
    )
    rate = inputs[2][0].double().numpy()
    step = np.logaddexp(0, raw)
    decay = np.exp(step[:, :, None] * rate)
    h = np.zeros((length + 1, channels, states))
    for t in range(length):
        h[t + 1] = decay[t] * h[t] + (step[t] * x[t])[:, None] * b[t]
    adjoint = np.zeros((length + 1, channels, states))  # of h after each step
    for t in reversed(range(length)):
        later = decay[t + 1] * adjoint[t + 1] if t + 1 < length else 0.0
        adjoint[t] = g[t][:, None] * c[t] + later
    arrived = adjoint[:length]
    drift = arrived * decay * h[:length]
    into = (arrived * b[:, None]).sum(-1)
    wanted = [
        (h[1:] * c[:, None]).sum(-1),
        into * step,
        ((drift * rate).sum(-1) + into * x) * -np.expm1(-step),
        (drift * step[:, :, None]).sum(0),
    ]
    back = np.argsort(path)
    maps = [torch.from_numpy(w[back])[None] for w in wanted[:3]]
    return inputs, grad_y, [maps[0], maps[1], maps[2][None], torch.from_numpy(wanted[3])[None]]


def test_a_long_slow_decay_keeps_its_accuracy(
    isa: str, long_scan: tuple[Inputs, Tensor, list[Tensor]]
) -> None:
    inputs, grad_y, wanted = long_scan
    found = (
        native.forward(ScanArguments(*inputs, True)),
        *native.backward(grad_y, ScanArguments(*inputs, True))[:3],
    )
    assert max(map(error, found, wanted)) < 1e-5


def test_a_million_steps_keep_their_accuracy() -> None:
    length, channels = 1 << 20, 4
    u, delta, _, B, C, D, _, order = make(1, 1, length, channels, 1)
    random = torch.Generator().manual_seed(1)
    step = torch.empty(1, channels).uniform_(1e-3, 1e-1, generator=random)  # as models begin
    bias = step.expm1().log()
    inputs = (u, delta / 2, -torch.ones(1, channels, 1), B, C, D, bias, order)
    grad_y = torch.randn(u.shape, generator=random)
    wide = [t.double() for t in inputs[:7]]
    wanted = [
        torch_scan.forward(ScanArguments(*wide, order, True)),
        *torch_scan.backward(grad_y.double(), ScanArguments(*wide, order, True)),
    ]
    y, *grads = (
        native.forward(ScanArguments(*inputs, True)),
        *native.backward(grad_y, ScanArguments(*inputs, True)),
    )
    assert error(y, wanted[0]) < 2e-6
    assert max(map(error, grads, wanted[1:])) < 1e-5


def test_denormal_inputs_give_a_result_within_denormals(isa: str) -> None:
    u, delta, A, B, C, _, _, order = make(1, 1, 40, 8, 4)
    y = native.forward(ScanArguments(u * 1e-39, delta, A, B, C, None, None, order, True))
    assert y.isfinite().all()
    assert y.abs().max() < 1e-36


def test_denormals_are_left_alone_outside_the_call() -> None:
    native.forward(ScanArguments(*make(), True))
    assert torch.tensor([1e-40]).mul(2.0).item() > 0


@pytest.mark.parametrize("name", ["u", "delta", "B", "C"])
def test_a_nan_reaches_every_later_output_it_should(isa: str, name: str) -> None:
    u, delta, A, B, C, D, bias, _ = make(1, 1, 50, 40, 16)
    order = torch.arange(50)[None]
    at, channel = 20, 33
    tensors = {"u": u, "delta": delta, "B": B, "C": C}
    if name == "C":
        C[0, 0, at, 3] = torch.nan
        rows, columns = slice(at, at + 1), slice(None)
    elif name == "B":
        B[0, 0, at, 3] = torch.nan
        rows, columns = slice(at, None), slice(None)
    else:
        tensors[name][..., at, channel] = torch.nan
        rows, columns = slice(at, None), slice(channel, channel + 1)
    wanted = torch.zeros(50, 40, dtype=torch.bool)
    wanted[rows, columns] = True
    y = native.forward(ScanArguments(u, delta, A, B, C, D, bias, order, True))
    assert torch.equal(y[0].isnan(), wanted)


@pytest.mark.parametrize("payload", [0x7FC00000, 0x7FC00001, -0x3FFFFF, 0x7FFFFFFF])
def test_every_nan_in_a_rate_is_seen(isa: str, payload: int) -> None:
    u, delta, A, B, C, D, bias, order = make(1, 1, 9, 5, 3)
    A[0, 2, 1] = torch.tensor(payload, dtype=torch.int32).view(torch.float32)
    y = native.forward(ScanArguments(u, delta, A, B, C, D, bias, order, True))
    later = torch.zeros(9, 5, dtype=torch.bool)
    later[:, 2] = True
    assert torch.equal(y[0].isnan(), later)


def test_a_nan_in_the_gradient_stays_in_its_channel(isa: str) -> None:
    inputs = make(1, 2, 30, 40, 16)
    grad_y = torch.randn(inputs[0].shape)
    grad_y[0, 11, 7] = torch.nan
    du, ddelta, dA, dB, dC, *_ = native.backward(grad_y, ScanArguments(*inputs, True))
    assert du[..., 7].isnan().any()
    assert ddelta[..., 7].isnan().any()
    assert dA[:, 7].isnan().all()
    assert dB.isnan().any()
    assert dC[:, :, 11].isnan().all()
    rest = [i for i in range(40) if i != 7]
    assert du[..., rest].isfinite().all()
    assert dA[:, rest].isfinite().all()


def test_a_growing_state_overflows_to_infinity(isa: str) -> None:
    ones = torch.ones(1, 1, 3, 1)
    order = torch.arange(3)[None]
    rate = torch.full((1, 1, 1), 80.0)
    y = native.forward(ScanArguments(ones[0], ones, rate, ones, ones, None, None, order, False))
    assert y.flatten().tolist() == pytest.approx([1.0, math.exp(80), math.inf], rel=1e-5)


def test_positions_outside_the_map_are_refused() -> None:
    *tensors, order = make()
    for wrong in (-1, 37):
        bad = order.clone()
        bad[1, 5] = wrong
        with pytest.raises(ArgumentsError, match="outside"):
            native.forward(ScanArguments(*tensors, bad, True))


def test_what_does_not_fit_is_refused() -> None:
    u, delta, A, B, C, D, bias, order = make()
    with pytest.raises(ArgumentsError, match="float64"):
        native.forward(ScanArguments(u.double(), delta, A, B, C, D, bias, order, True))
    with pytest.raises(ArgumentsError, match="delta has shape"):
        native.forward(ScanArguments(u, delta[:, :1], A, B, C, D, bias, order, True))
    with pytest.raises(ArgumentsError, match="D has shape"):
        native.forward(ScanArguments(u, delta, A, B, C, D[:1], bias, order, True))  # type: ignore[index]
    with pytest.raises(ArgumentsError, match="order must be integers"):
        native.forward(ScanArguments(u, delta, A, B, C, D, bias, order.float(), True))
    with pytest.raises(ArgumentsError, match="grad_y has shape"):
        native.backward(u[:, :3], ScanArguments(u, delta, A, B, C, D, bias, order, True))


def test_a_lesser_instruction_set_can_be_forced(isa: str) -> None:
    info = native.build_info()
    assert info["isa"] == isa
    assert Path(info["library"]).is_file()


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.ISA_ENVIRONMENT, "mmx")
    assert not native.is_available()
    assert "mmx" in native.why_not()
    with pytest.raises(BackendError, match="known: avx512, avx2, baseline"):
        native.forward(ScanArguments(*make(), True))


def test_many_callers_share_the_waiting_threads() -> None:
    torch.set_num_threads(3)
    cases = [make(1, 4, length, 64, 16, seed=length) for length in range(150, 270, 10)]
    wanted = [native.forward(ScanArguments(*inputs, True)) for inputs in cases]

    def run(i: int) -> bool:
        torch.set_num_threads(3)
        return torch.equal(native.forward(ScanArguments(*cases[i % 12], True)), wanted[i % 12])

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(run, range(120)))


def _child(inputs: Inputs, queue: "multiprocessing.Queue[list[float]]") -> None:
    queue.put(native.forward(ScanArguments(*inputs, True)).flatten().tolist())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_can_call_after_its_parent_did() -> None:
    torch.set_num_threads(3)
    inputs = make(1, 4, 300, 64, 16)
    wanted = native.forward(ScanArguments(*inputs, True)).flatten().tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(inputs, queue))
    child.start()
    try:
        assert queue.get(timeout=60) == wanted
    finally:
        child.join(60)
