"""The mLSTM op: its forms against each other, extremes, memory, compilers, and what it refuses."""

import sys
import types
import weakref
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_models.errors import ArgumentsError, BackendError
from rsmamba_models.ops import mlstm_chunks, mlstm_chunkwise, third_party
from rsmamba_models.ops.backends import MLSTM
from rsmamba_models.ops.mlstm import mlstm


def make(shape=(2, 2, 21, 4, 5), dtype=torch.float64, seed=0, i_scale=1.0, f_shift=2.0):
    """q, k, v, i_gate, f_gate of (B, H, L, D, E)."""
    b, h, steps, d, e = shape
    rng = torch.Generator().manual_seed(seed)
    q, k, v, i, f = (
        torch.randn(s, generator=rng, dtype=torch.float64)
        for s in ((b, h, steps, d),) * 2 + ((b, h, steps, e),) + ((b, h, steps),) * 2
    )
    return [t.to(dtype) for t in (q, k, v, i * i_scale, f + f_shift)]


def with_gradients(inputs, *, autocast=False, **options):
    """The output and the gradients of a fixed weighted sum of it."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        h = mlstm(*inputs, **options)
    rng = torch.Generator().manual_seed(99)
    weights = torch.randn(h.shape, generator=rng, dtype=torch.float64).to(h.dtype)
    return [h.detach(), *torch.autograd.grad(h, inputs, weights)]


def error(ours, expected):
    difference = (ours.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp(min=1e-30))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 3, 40, 6, 6))),
    chunk=st.integers(1, 50),
    blocks=st.integers(1, 12),
    i_scale=st.sampled_from([0.1, 1.0, 10.0]),
    f_shift=st.sampled_from([-6.0, 0.0, 6.0]),
    one_thread=st.booleans(),
)
def test_chunkwise_equals_recurrent(shape, chunk, blocks, i_scale, f_shift, one_thread):
    inputs = make(shape, i_scale=i_scale, f_shift=f_shift)
    expected = with_gradients(inputs, form="recurrent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlstm_chunks, "_STEPS", blocks * chunk)
        patch.setattr(mlstm_chunks, "_CPU_CHUNKS", blocks)
        patch.setattr(mlstm_chunkwise, "one_thread", lambda tensor: one_thread)
        patch.setattr(mlstm_chunkwise, "_LONG", 20)
        result = with_gradients(inputs, form="chunkwise", chunk=chunk)
    for ours, reference in zip(result, expected, strict=True):
        assert torch.allclose(ours, reference, rtol=1e-8, atol=1e-9 * (1 + reference.abs().max()))


@settings(max_examples=20, deadline=None)
@given(shape=st.tuples(*(st.integers(1, n) for n in (2, 3, 30, 6, 6))), f_shift=st.floats(-4, 6))
def test_parallel_equals_recurrent(shape, f_shift):
    inputs = make(shape, f_shift=f_shift)
    expected = with_gradients(inputs, form="recurrent")
    for ours, reference in zip(with_gradients(inputs, form="parallel"), expected, strict=True):
        assert torch.allclose(ours, reference, rtol=1e-8, atol=1e-9 * (1 + reference.abs().max()))


@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_gradcheck(eps):
    # With a large eps the gradient that flows through the stabiliser counts, too.
    inputs = [t.requires_grad_() for t in make((1, 2, 9, 3, 2), i_scale=3.0)]
    assert torch.autograd.gradcheck(partial(mlstm, form="chunkwise", chunk=4, eps=eps), inputs)


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
@pytest.mark.parametrize("i", [-200.0, -80.0, 0.0, 80.0, 200.0])
@pytest.mark.parametrize("f", [-200.0, -80.0, 80.0, 200.0])
def test_extreme_gates_stay_finite_in_float32(form, i, f):
    q, k, v, i_gate, f_gate = make((1, 2, 40, 4, 4), torch.float32)
    result = with_gradients([q, k, v, i_gate + i, f_gate + f], form=form, chunk=16)
    assert all(t.isfinite().all() for t in result)


@pytest.mark.parametrize("f_shift", [-80.0, 80.0])
def test_chunkwise_is_accurate_for_closed_and_open_gates(f_shift):
    inputs = make((1, 2, 300, 8, 8), f_shift=f_shift)
    expected = with_gradients(inputs, form="recurrent")
    result = with_gradients([t.float() for t in inputs], form="chunkwise", chunk=64)
    # The forget gates' gradient included: closed gates leave 1e-35 of it.
    for ours, reference in zip(result, expected, strict=True):
        assert error(ours, reference) < 1e-5


def test_gates_of_one_sequence_may_swing_between_extremes():
    inputs = make((1, 1, 200, 4, 4))
    inputs[3] = inputs[3] + 80 * torch.sin(torch.arange(200.0))
    inputs[4] = inputs[4] + 80 * torch.cos(torch.arange(200.0) * 0.7)
    expected = mlstm(*inputs, form="recurrent")
    ours = mlstm(*(t.float() for t in inputs), form="chunkwise", chunk=32)
    assert error(ours, expected) < 1e-5


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
def test_a_step_sees_no_later_step(form):
    inputs = make((1, 1, 20, 3, 3))
    before = mlstm(*inputs, form=form, chunk=8)
    changed = [torch.cat([t[:, :, :13], t[:, :, 13:] + 1], 2) for t in inputs]
    after = mlstm(*changed, form=form, chunk=8)
    assert torch.allclose(before[:, :, :13], after[:, :, :13], rtol=1e-12)
    assert not torch.allclose(before[:, :, 13:], after[:, :, 13:])


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_have_a_float32_state(form, dtype):
    inputs = make((1, 2, 200, 4, 4), dtype)
    h = mlstm(*inputs, form=form, chunk=32)
    assert h.dtype == dtype
    exact = mlstm(*(t.double() for t in inputs), form="recurrent").to(dtype)
    # Only the last rounding, of the result, is in the low precision.
    assert error(h, exact) < torch.finfo(dtype).eps


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
def test_autocast_leaves_the_cell_in_float32(form):
    inputs = make((1, 2, 30, 8, 8), torch.float32)
    expected = with_gradients(inputs, form=form)
    result = with_gradients(inputs, form=form, autocast=True)
    assert all(torch.equal(x, y) for x, y in zip(result, expected, strict=True))


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
@pytest.mark.parametrize("shape", [(2, 2, 0, 4, 3), (0, 2, 5, 4, 3), (1, 2, 5, 4, 0)])
def test_empty(form, shape):
    inputs = [t.requires_grad_() for t in make(shape)]
    h = mlstm(*inputs, form=form)
    assert h.shape == (*shape[:3], shape[4])
    h.sum().backward()
    assert inputs[2].grad.shape == inputs[2].shape


def test_strided_inputs():
    b, h, steps, d = 2, 3, 20, 4
    packed = torch.randn(b, steps, 3, h, d, dtype=torch.float64)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    i, f = torch.randn(2, b, steps, h, dtype=torch.float64).transpose(2, 3)
    plain = [t.contiguous() for t in (q, k, v, i, f)]
    result, expected = (
        with_gradients([q, k, v, i, f], form="chunkwise", chunk=6),
        with_gradients(plain, form="recurrent"),
    )
    assert all(torch.allclose(x, y) for x, y in zip(result, expected, strict=True))


class Peak(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest total size of the tensors that were alive at once, and of any one of them."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak, self.largest = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(result):
            if isinstance(t, torch.Tensor):
                storage = t.untyped_storage()
                key = storage._cdata
                if key not in self.alive:
                    self.alive[key] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, key, None)
                    self.largest = max(self.largest, storage.nbytes())
                    self.peak = max(self.peak, sum(self.alive.values()))
        return result


def test_training_memory_is_linear():
    peaks = []
    for steps in (1024, 4096):
        inputs = [t.requires_grad_() for t in make((1, 1, steps, 16, 16), torch.float32)]
        with Peak() as memory:
            mlstm(*inputs, chunk=64).sum().backward()
        assert memory.largest < 4 * steps * 16 * 4  # no (L, L) anything
        peaks.append(memory.peak)
    assert peaks[1] < 4.4 * peaks[0]


def test_65536_tokens():
    inputs = make((1, 1, 65536, 8, 8), torch.float32)
    with torch.no_grad():
        h = mlstm(*inputs)
    tail = [t[:, :, -2000:] for t in inputs]  # open gates of about 0.9 forget the rest
    assert error(h[:, :, -100:], mlstm(*(t.double() for t in tail))[:, :, -100:]) < 1e-5


def test_opcheck():
    inputs = [t.requires_grad_() for t in make((1, 2, 11, 3, 4), torch.float32)]
    torch.library.opcheck(torch.ops.rsmamba.mlstm_chunkwise.default, (*inputs, 4, 1e-6))


@pytest.mark.parametrize("form", ["auto", "chunkwise", "parallel"])
def test_compiles_without_graph_break(form):
    inputs = make(dtype=torch.float32)
    attend = partial(mlstm, form=form, chunk=8)
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), attend(*inputs))


def test_gradients_of_the_compiled_op():
    inputs = [t.requires_grad_() for t in make(dtype=torch.float32)]
    attend = partial(mlstm, form="chunkwise", chunk=8)
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    result = torch.autograd.grad(compiled(*inputs).square().sum(), inputs)
    expected = torch.autograd.grad(attend(*inputs).square().sum(), inputs)
    assert all(torch.equal(x, y) for x, y in zip(result, expected, strict=True))


@pytest.mark.parametrize("form", ["auto", "chunkwise", "parallel"])
def test_exports(form):
    class Cell(torch.nn.Module):
        def forward(self, *inputs):
            return mlstm(*inputs, form=form)

    inputs = tuple(make(dtype=torch.float32))
    program = torch.export.export(Cell(), inputs)
    assert torch.equal(program.module()(*inputs), Cell()(*inputs))


@pytest.mark.parametrize(("steps", "form"), [(200, "parallel"), (201, "chunkwise")])
def test_long_sequences_go_in_chunks(steps, form):
    inputs = make((1, 1, steps, 4, 4), torch.float32)
    assert torch.equal(mlstm(*inputs), mlstm(*inputs, form=form))


def test_environment_names_the_form(monkeypatch):
    inputs = make(dtype=torch.float32)
    monkeypatch.setenv("RSMAMBA_MLSTM", "recurrent")
    assert torch.equal(mlstm(*inputs), mlstm(*inputs, form="recurrent"))


def test_the_caller_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("RSMAMBA_MLSTM", "no such form")
    mlstm(*make(), form="chunkwise")


@pytest.mark.parametrize("form", ["fast", "mlstm_kernels"])
def test_unusable_forms_are_refused_with_the_reason(form, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RSMAMBA_MLSTM", form)
    reason = "unknown; known" if form == "fast" else "it needs a CUDA device"
    with pytest.raises(BackendError, match=f"set by RSMAMBA_MLSTM.*{reason}"):
        mlstm(*make())


def test_available_forms_say_why_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(third_party.importlib.util, "find_spec", lambda name: None)
    reasons = MLSTM.available()
    assert reasons["chunkwise"] == reasons["parallel"] == reasons["recurrent"] == ""
    assert "not installed" in reasons["mlstm_kernels"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 21, 4)}, "takes q"),
        ({"k": torch.zeros(2, 2, 21, 5)}, "k has shape"),
        ({"v": torch.zeros(2, 2, 20, 5)}, "v has shape"),
        ({"f_gate": torch.zeros(2, 2, 21, 1)}, "f_gate has shape"),
        ({"i_gate": torch.zeros(2, 2, 21, dtype=torch.int64)}, "i_gate is torch.int64"),
        ({"chunk": 0}, "at least 1 step"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = dict(zip(("q", "k", "v", "i_gate", "f_gate"), make(), strict=True)) | change
    with pytest.raises(ArgumentsError, match=message):
        mlstm(**arguments)


class OnCuda(torch.Tensor):
    """A CPU tensor that says it is on a CUDA device, as far as the adapter asks."""

    is_cuda = True


@pytest.fixture
def foreign(monkeypatch):
    """Install a stand-in for ``mlstm_kernels``; ``error`` is added to what it returns."""

    def install(error):
        def kernel(*, q, k, v, i, f, eps, chunk_size, autocast_kernel_dtype):
            assert q.shape[2] % chunk_size == 0
            assert autocast_kernel_dtype == q.dtype
            return mlstm(q, k, v, i, f, form="chunkwise", eps=eps) + error

        module = types.ModuleType("mlstm_kernels.torch")
        module.get_mlstm_kernel = lambda name: kernel
        monkeypatch.setitem(sys.modules, "mlstm_kernels.torch", module)
        monkeypatch.setattr(third_party, "_verdicts", {})
        inputs = make((1, 2, 150, 4, 4), torch.float32)
        ours = partial(mlstm_chunkwise.chunkwise, chunk=64, eps=1e-6)
        return ours, inputs, [inputs[0].as_subclass(OnCuda), *inputs[1:]]

    return install


def test_foreign_kernel_that_agrees_is_used(foreign):
    ours, inputs, marked = foreign(0.0)
    h = third_party.mlstm_kernels(ours, *marked, 1e-6)
    assert error(h, ours(*inputs)) < 1e-5


def test_foreign_kernel_that_disagrees_is_refused(foreign):
    ours, _, marked = foreign(0.1)
    with pytest.raises(BackendError, match="differs from ours"):
        third_party.mlstm_kernels(ours, *marked, 1e-6)


def test_foreign_kernel_refuses_cpu_tensors(foreign, monkeypatch):
    _, inputs, _ = foreign(0.0)
    monkeypatch.setattr(third_party, "why_not", lambda package: "")
    with pytest.raises(BackendError, match=r"CUDA device.* on cpu"):
        mlstm(*inputs, form="mlstm_kernels")
