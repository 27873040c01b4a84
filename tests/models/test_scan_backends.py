"""The pure PyTorch scan (and the compiled one) against the equation."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rsmamba_models.errors import ArgumentsError, BackendError
from rsmamba_models.ops import (
    available_backends,
    directional_scan,
    reference,
    resolve_backend,
    selective_scan,
    torch_scan,
    traceable,
)
from rsmamba_models.ops.arguments import ScanArguments
from rsmamba_models.ops.backends import SCAN

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def problem(batch, directions, length, channels, states, seed=0, dtype=torch.float64):
    """Random scan inputs, in the order of a back end's arguments."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    order = torch.stack([torch.randperm(length, generator=g) for _ in range(directions)])
    return (
        normal(batch, length, channels),
        normal(batch, directions, length, channels),
        -normal(directions, channels, states).exp(),
        normal(batch, directions, length, states),
        normal(batch, directions, length, states),
        normal(directions, channels),
        normal(directions, channels) - 2,
        order.int(),
        True,
    )


def relative(found, expected):
    return ((found - expected).norm() / expected.norm().clamp_min(1e-30)).item()


@pytest.fixture
def small_blocks(monkeypatch):
    """Sizes that make short sequences go through many chunks, blocks and segments."""
    monkeypatch.setattr(torch_scan, "_CPU", torch_scan._Sizes(split=48, width=40, block=100))
    monkeypatch.setattr(torch_scan, "_SEGMENT_STEPS", 24)


shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 60), st.integers(1, 5), st.integers(1, 4)
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=shapes, seed=st.integers(0, 99), softplus=st.booleans(), extras=st.booleans())
@example(shape=(1, 1, 1, 1, 1), seed=0, softplus=True, extras=True)
@example(shape=(2, 4, 59, 1, 1), seed=0, softplus=True, extras=True)
def test_torch_equals_reference_with_gradients(shape, seed, softplus, extras):
    *inputs, order, _ = problem(*shape, seed=seed)
    if not softplus:  # steps are not negative: the state would grow beyond all bounds
        inputs[1], inputs[6] = inputs[1].abs(), inputs[6].abs()
    if not extras:
        inputs[5] = inputs[6] = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_scan, "_CPU", torch_scan._Sizes(split=48, width=40, block=100))
        patch.setattr(torch_scan, "_SEGMENT_STEPS", 24)
        y = torch_scan.forward(ScanArguments(*inputs, order, softplus))
        expected = reference.forward(ScanArguments(*inputs, order, softplus))
        assert relative(y, expected) < 1e-13
        grad_y = torch.cos(expected)
        found = torch_scan.backward(grad_y, ScanArguments(*inputs, order, softplus))
        wanted = reference.backward(grad_y, ScanArguments(*inputs, order, softplus))
    for name, f, w in zip(NAMES, found, wanted, strict=True):
        assert (f is None) == (w is None), name
        assert f is None or relative(f, w) < 1e-12, name


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200, 64 * 64 + 1])
def test_the_traceable_form_equals_the_reference(length):
    scan = ScanArguments(*problem(2, 2, length, 3, 2))
    expected = reference.forward(scan)
    assert relative(traceable.forward(scan), expected) < 1e-13
    found = traceable.backward(expected.cos(), scan)
    wanted = torch_scan.backward(expected.cos(), scan)
    assert max(map(relative, found, wanted)) < 1e-12


@pytest.mark.parametrize(
    "shape", [(1, 8, 40 * 24, 12, 4), (2, 4, 33 * 17, 24, 16), (1, 1, 700, 6, 64)]
)
def test_torch_equals_reference_at_real_block_sizes(shape):
    *inputs, order, softplus = problem(*shape)
    expected = reference.forward(ScanArguments(*inputs, order, softplus))
    assert relative(torch_scan.forward(ScanArguments(*inputs, order, softplus)), expected) < 1e-13


@pytest.fixture
def threads():
    """PyTorch's number of threads, put back at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_torch_gives_the_same_bits_with_any_number_of_threads(threads):
    scan = ScanArguments(*problem(1, 4, 64 * 64, 48, 4, dtype=torch.float32))
    results = []
    for count in (1, 2, 5):
        threads(count)
        y = torch_scan.forward(scan)
        results.append((y, *torch_scan.backward(y.cos(), scan)))
    for others in results[1:]:
        assert all(map(torch.equal, results[0], others))


def test_torch_gradients_pass_gradcheck(small_blocks):
    *inputs, order, _ = problem(1, 2, 13, 2, 2)
    leaves = [t.requires_grad_() for t in inputs]

    def f(*args):
        return directional_scan(*args, order=order, backend="torch")

    assert torch.autograd.gradcheck(f, leaves)


@pytest.mark.parametrize("backend", SCAN.usable(torch.zeros(1)))
class TestEveryBackend:
    def run(self, backend, inputs, order, dtype=torch.float32, **options):
        cast = [None if t is None else t.to(dtype) for t in inputs]
        return directional_scan(*cast, order=order, backend=backend, **options)

    def test_float32_is_close_to_float64(self, backend):
        *inputs, order, _ = problem(2, 4, 130, 24, 16)
        y = self.run(backend, inputs, order)
        expected = reference.forward(ScanArguments(*inputs, order, True))
        assert y.dtype == torch.float32
        assert relative(y.double(), expected) < 2e-6

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_inputs_have_a_float32_state(self, backend, dtype):
        *inputs, order, _ = problem(1, 2, 90, 8, 4)
        half = [t.to(dtype) for t in inputs]
        y = self.run(backend, half, order, dtype)
        expected = reference.forward(ScanArguments(*(t.double() for t in half), order, True))
        assert y.dtype == dtype
        assert relative(y.double(), expected) < torch.finfo(dtype).eps

    @pytest.mark.parametrize("length", [0, 1])
    def test_shortest_sequences(self, backend, length):
        *inputs, order, _ = problem(2, 2, length, 3, 2)
        y = self.run(backend, inputs, order)
        assert y.shape == (2, length, 3)
        assert torch.allclose(
            y.double(), reference.forward(ScanArguments(*inputs, order, True)), atol=1e-6
        )

    def test_the_fastest_decays_and_the_longest_steps_do_not_overflow(self, backend):
        u, delta, A, B, C, D, bias, order, _ = problem(1, 2, 200, 4, 4)
        y = self.run(backend, (u, delta.abs() * 100, A * 0 - 100, B, C, D, bias), order)
        wanted = reference.forward(
            ScanArguments(u, delta.abs() * 100, A * 0 - 100, B, C, D, bias, order, True)
        )
        assert torch.isfinite(y).all()
        assert relative(y.double(), wanted) < 1e-5

    def test_without_decay_the_state_is_a_plain_sum(self, backend):
        u, delta, A, _, _, _, _, order, _ = problem(1, 1, 300, 2, 1)
        ones = torch.ones(1, 1, 300, 1)
        inputs = (u, torch.ones_like(delta), A * 0, ones, ones, None, None)
        y = self.run(backend, inputs, order, delta_softplus=False)
        path = order[0].long()
        assert torch.allclose(y[:, path].double(), u[:, path].cumsum(1), atol=1e-4)

    def test_a_nan_reaches_all_later_pixels_and_no_earlier_one(self, backend):
        *inputs, order, _ = problem(1, 1, 150, 3, 2)
        inputs[0][0, order[0, 70]] = float("nan")
        y = self.run(backend, inputs, order)[0, order[0].long()]
        assert torch.isfinite(y[:70]).all()
        assert torch.isnan(y[70:]).all()

    def test_outer_strides_are_free(self, backend):
        *inputs, order, _ = problem(2, 2, 30, 4, 3, dtype=torch.float32)
        expected = self.run(backend, inputs, order)
        for i in (1, 3, 4):  # (B, K, L, .) stored as (B, L, K, .), every other row of twice as many
            doubled = inputs[i].transpose(1, 2).repeat_interleave(2, 1)
            inputs[i] = doubled[:, ::2].transpose(1, 2)
        inputs[0] = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
        assert torch.equal(self.run(backend, inputs, order), expected)

    def test_selective_scan_with_gate_and_ungrouped_weights(self, backend):
        g = torch.Generator().manual_seed(3)
        u, delta, z = (torch.randn(2, 6, 40, generator=g) for _ in range(3))
        A, D, bias = -torch.rand(6, 4, generator=g), torch.randn(6), torch.randn(6)
        B, C = (torch.randn(2, 4, 40, generator=g) for _ in range(2))
        y = selective_scan(u, delta, A, B, C, D, z, bias, True, backend=backend)
        h, rows = torch.zeros(2, 6, 4), []
        for t in range(40):
            step = torch.nn.functional.softplus(delta[:, :, t] + bias)
            h = (
                torch.exp(step[..., None] * A) * h
                + (step * u[:, :, t])[..., None] * B[:, None, :, t]
            )
            rows.append((h * C[:, None, :, t]).sum(-1) + D * u[:, :, t])
        expected = torch.stack(rows, -1) * torch.nn.functional.silu(z)
        assert relative(y, expected) < 2e-6


class LargestTensor(TorchDispatchMode):
    """Watches every operation for the most numbers that one result holds."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, torch.Tensor):
                self.numbers = max(self.numbers, t.numel())
        return out


def test_the_states_of_a_whole_sequence_are_never_held():
    *inputs, order, _ = problem(1, 2, 8_000, 64, 16, dtype=torch.float32)
    with LargestTensor() as largest:
        torch_scan.backward(torch.ones_like(inputs[0]), ScanArguments(*inputs, order, True))
    assert largest.numbers <= inputs[1].numel()  # a direction's states alone: 8 times that


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("delta", torch.zeros(1, 1, 9, 2)),
        ("A", torch.zeros(2, 3, 2)),
        ("B", torch.zeros(1, 2, 9, 3)),
        ("D", torch.zeros(3)),
        ("order", torch.zeros(1, 9, dtype=torch.int32)),
    ],
)
def test_shapes_that_do_not_fit_are_named(name, wrong):
    *inputs, order, _ = problem(1, 2, 9, 2, 2)
    arguments = dict(zip(NAMES, inputs, strict=True)) | {"order": order}
    with pytest.raises(ArgumentsError, match=name):
        directional_scan(**(arguments | {name: wrong}))


def test_groups_that_do_not_divide_the_channels_are_refused():
    u = torch.zeros(1, 5, 4)
    weights = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ArgumentsError, match="5 channels"):
        selective_scan(u, u, torch.zeros(5, 3), weights, weights)


class TestResolver:
    def test_the_environment_forces_a_backend(self, monkeypatch):
        monkeypatch.setenv("RSMAMBA_SCAN", "reference")
        assert resolve_backend("directional_scan", torch.zeros(1)) == "reference"

    def test_an_argument_beats_the_environment(self, monkeypatch):
        monkeypatch.setenv("RSMAMBA_SCAN", "reference")
        assert resolve_backend("directional_scan", torch.zeros(1), "torch") == "torch"

    def test_every_op_chooses_by_its_tensor(self):
        few, many = torch.zeros(1, 1, 8, 4), torch.zeros(1, 1, 4096, 4)
        assert resolve_backend("mlstm", few) == "parallel"
        assert resolve_backend("mlstm", many) == "chunkwise"
        assert resolve_backend("mlstm", many, "parallel") == "parallel"
        assert resolve_backend("neighborhood_attention", few.double()) == "tiled"

    def test_auto_is_a_free_choice_in_the_environment_too(self, monkeypatch):
        monkeypatch.setenv("RSMAMBA_SCAN", "auto")
        assert resolve_backend("directional_scan", torch.zeros(1), "auto") in ("native", "torch")

    def test_an_unknown_op_is_refused(self):
        with pytest.raises(BackendError, match="known: directional_scan"):
            resolve_backend("convolution", torch.zeros(1))

    def test_float64_is_never_computed_in_float32(self):
        assert resolve_backend("directional_scan", torch.zeros(1, dtype=torch.float64)) == "torch"
        with pytest.raises(BackendError, match=r"float64|not usable"):
            resolve_backend("directional_scan", torch.zeros(1, dtype=torch.float64), "native")

    def test_unknown_names_list_the_known_ones(self, monkeypatch):
        monkeypatch.setenv("RSMAMBA_SCAN", "fast")
        with pytest.raises(BackendError, match=r"RSMAMBA_SCAN.*known: reference, traceable, torch"):
            resolve_backend("directional_scan", torch.zeros(1))

    def test_an_unusable_backend_says_why(self, monkeypatch):
        from rsmamba_models.ops import native

        monkeypatch.setattr(native, "is_available", lambda: False)
        monkeypatch.setattr(native, "why_not", lambda: "no compiler")
        assert available_backends()["native"] == "no compiler"
        assert resolve_backend("directional_scan", torch.zeros(1)) == "torch"
        with pytest.raises(BackendError, match="no compiler"):
            resolve_backend("directional_scan", torch.zeros(1), "native")
