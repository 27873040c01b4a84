"""Neighbourhood attention: its forms against each other, borders, layouts, memory, refusals."""

import os
import shutil
import subprocess
import sys
import types
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_models.errors import ArgumentsError, BackendError
from rsmamba_models.ops import native, neighborhood_tiled, third_party
from rsmamba_models.ops.backends import ATTENTION
from rsmamba_models.ops.neighborhood import neighborhood_attention

NATIVE = native.is_available()
needs_native = pytest.mark.skipif(not NATIVE, reason=native.why_not())
FAST = ["tiled", *(["native"] if NATIVE else [])]
CSRC = Path(native.__file__).parent / "csrc"
COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def make(shape=(2, 2, 11, 13, 5), kernel_size=5, dtype=torch.float64, seed=0, with_bias=True):
    """q, k, v and the bias table."""
    rng = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=rng, dtype=torch.float64)
    side = 2 * kernel_size - 1
    bias = draw(shape[1], side, side).to(dtype) if with_bias else None
    return [*(draw(shape).to(dtype) for _ in range(3)), bias]


def with_gradients(inputs, kernel_size, *, autocast=False, **options):
    """The output, and the gradients of a fixed weighted sum of it."""
    inputs = [None if t is None else t.detach().requires_grad_() for t in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = neighborhood_attention(*inputs[:3], kernel_size, bias=inputs[3], **options)
    rng = torch.Generator().manual_seed(99)
    weights = torch.randn(y.shape, generator=rng, dtype=torch.float64).to(y.dtype)
    present = [t for t in inputs if t is not None]
    return [y.detach(), *torch.autograd.grad(y, present, weights)]


def error(ours, expected):
    difference = (ours.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp(min=1e-3))


def by_definition(q, k, v, kernel_size, scale, bias):
    """Pixel by pixel, for one image and head: what the docstring says, and nothing else."""
    _, _, height, width, _ = q.shape
    rows, columns = min(kernel_size, height), min(kernel_size, width)
    y = torch.zeros_like(q)
    for r in range(height):
        for c in range(width):
            r0 = min(max(r - rows // 2, 0), height - rows)
            c0 = min(max(c - columns // 2, 0), width - columns)
            logits = []
            values = []
            for i in range(r0, r0 + rows):
                for j in range(c0, c0 + columns):
                    entry = bias[0, i - r + kernel_size - 1, j - c + kernel_size - 1]
                    logits.append(scale * q[0, 0, r, c].dot(k[0, 0, i, j]) + entry)
                    values.append(v[0, 0, i, j])
            y[0, 0, r, c] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return y


@pytest.mark.parametrize("form", ["reference", *FAST])
@pytest.mark.parametrize(
    ("height", "width", "kernel_size"), [(7, 9, 5), (6, 6, 4), (3, 8, 5), (4, 1, 3), (5, 5, 1)]
)
def test_definition(form, height, width, kernel_size):
    dtype = torch.float32 if form == "native" else torch.float64
    q, k, v, bias = make((1, 1, height, width, 3), kernel_size, dtype)
    y = neighborhood_attention(q, k, v, kernel_size, scale=0.6, bias=bias, form=form)
    assert error(y, by_definition(q, k, v, kernel_size, 0.6, bias)) < 1e-6


sizes = st.tuples(*(st.integers(1, n) for n in (2, 3, 40, 40, 8)))


@settings(max_examples=25, deadline=None)
@given(shape=sizes, kernel_size=st.integers(1, 11), with_bias=st.booleans())
def test_tiled_equals_reference(shape, kernel_size, with_bias):
    inputs = make(shape, kernel_size, with_bias=with_bias)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighborhood_tiled, "_CPU_BYTES", 2**16)  # several batches of tiles
        result = with_gradients(inputs, kernel_size, form="tiled")
    expected = with_gradients(inputs, kernel_size, form="reference")
    assert all(error(x, y) < 1e-12 for x, y in zip(result, expected, strict=True))


@needs_native
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 3, 40, 150, 40))),
    kernel_size=st.integers(1, 13),
    with_bias=st.booleans(),
    isa=st.sampled_from(["avx512", "avx2", "baseline"]),
    layout=st.permutations(range(5)),
)
def test_native_equals_tiled(shape, kernel_size, with_bias, isa, layout):
    inputs = make(shape, kernel_size, torch.float32, with_bias=with_bias)
    expected = with_gradients(
        [None if t is None else t.double() for t in inputs], kernel_size, form="tiled"
    )
    back = torch.argsort(torch.tensor(layout)).tolist()
    inputs[:3] = [t.permute(layout).contiguous().permute(back) for t in inputs[:3]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.ISA_ENVIRONMENT, isa)
        if native.why_not():
            patch.delenv(native.ISA_ENVIRONMENT)
        result = with_gradients(inputs, kernel_size, form="native")
    assert all(error(x, y) < 2e-5 for x, y in zip(result, expected, strict=True))


@needs_native
def test_threads_do_not_change_native_results():
    inputs = make((2, 3, 70, 75, 8), 7, torch.float32)
    expected = with_gradients(inputs, 7, form="native")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        result = with_gradients(inputs, 7, form="native")
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for x, y in zip(result, expected, strict=True))


def test_gradcheck():
    inputs = [t.requires_grad_() for t in make((1, 2, 5, 10, 2), 3)]

    def attend(q, k, v, bias):
        return neighborhood_attention(q, k, v, 3, bias=bias, form="tiled")

    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("form", ["reference", *FAST])
def test_large_logits_stay_finite(form):
    q, k, v, bias = make(dtype=torch.float32)
    result = with_gradients([q * 300, k * 300, v, bias * 100], 5, form=form)
    assert all(t.isfinite().all() for t in result)


@pytest.mark.parametrize("form", ["reference", *FAST])
def test_pixels_outside_the_window_do_not_count(form):
    q, k, v, bias = make((1, 1, 20, 40, 4), 5, torch.float32)
    y = neighborhood_attention(q, k, v, 5, bias=bias, form=form)
    k, v = k.clone(), v.clone()
    k[..., 19, 39, :] += 100
    v[..., 19, 39, :] -= 7
    changed = neighborhood_attention(q, k, v, 5, bias=bias, form=form) != y
    assert changed.any(-1)[0, 0].nonzero().amin(0).tolist() == [
        17,
        37,
    ]  # their windows are shifted inwards


@pytest.mark.parametrize("form", ["reference", *FAST])
def test_scale_is_that_of_attention_by_default(form):
    q, k, v, bias = make(dtype=torch.float32)
    expected = neighborhood_attention(q, k, v, 5, scale=5**-0.5, bias=bias, form=form)
    assert torch.equal(neighborhood_attention(q, k, v, 5, bias=bias, form=form), expected)


@pytest.mark.parametrize("form", ["reference", *FAST])
def test_a_window_of_the_whole_map_is_plain_attention(form):
    q, k, v, _ = make((2, 3, 6, 7, 4), dtype=torch.float32)
    y = neighborhood_attention(q, k, v, 99, form=form)
    plain = torch.nn.functional.scaled_dot_product_attention(*(t.flatten(2, 3) for t in (q, k, v)))
    assert error(y.flatten(2, 3), plain) < 1e-6


@pytest.mark.parametrize("form", ["reference", *FAST])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_worked_on_in_float32(form, dtype):
    inputs = make(dtype=dtype)
    y = neighborhood_attention(*inputs[:3], 5, bias=inputs[3], form=form)
    assert y.dtype == dtype
    exact = neighborhood_attention(
        *(t.double() for t in inputs[:3]), 5, bias=inputs[3].double(), form="reference"
    )
    assert error(y, exact.to(dtype)) < torch.finfo(dtype).eps


@pytest.mark.parametrize("form", ["reference", *FAST])
def test_autocast_leaves_the_op_in_float32(form):
    inputs = make(dtype=torch.float32)
    expected = with_gradients(inputs, 5, form=form)
    result = with_gradients(inputs, 5, form=form, autocast=True)
    assert all(torch.equal(x, y) for x, y in zip(result, expected, strict=True))


@pytest.mark.parametrize("form", FAST)
def test_a_channel_last_map_gives_a_channel_last_map(form):
    packed = torch.randn(2, 9, 12, 3, 2, 4)  # B, H, W, which, heads, D
    q, k, v = packed.permute(3, 0, 4, 1, 2, 5)
    y = neighborhood_attention(q, k, v, 5, form=form)
    assert y.permute(0, 2, 3, 1, 4).is_contiguous()
    plain = [t.contiguous() for t in (q, k, v)]
    assert error(y, neighborhood_attention(*plain, 5, form="reference")) < 1e-6


@pytest.mark.parametrize("form", ["reference", *FAST])
def test_empty(form):
    inputs = [t.requires_grad_() for t in make((0, 2, 5, 6, 4), dtype=torch.float32)]
    y = neighborhood_attention(*inputs[:3], 5, bias=inputs[3], form=form)
    y.sum().backward()
    assert y.shape == (0, 2, 5, 6, 4)
    assert not inputs[3].grad.any()


class Peak(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest total size of the tensors that were alive at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(result):
            storage = t.untyped_storage() if isinstance(t, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.alive:
                self.alive[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, storage._cdata, None)
                self.peak = max(self.peak, sum(self.alive.values()))
        return result


@pytest.mark.parametrize("form", FAST)
def test_training_keeps_the_inputs_only(form):
    inputs = [t.requires_grad_() for t in make((1, 2, 96, 96, 16), 7, torch.float32)]
    one = inputs[0].numel() * 4
    with Peak() as memory:
        neighborhood_attention(*inputs[:3], 7, bias=inputs[3], form=form).sum().backward()
    # The output, its gradient, three gradients; windows alone would take 49 times the map.
    assert memory.peak < 7 * one + 6 * neighborhood_tiled._CPU_BYTES


@pytest.mark.parametrize("form", FAST)
def test_opcheck(form):
    q, k, v, bias = (t.requires_grad_() for t in make((1, 2, 9, 11, 4), 5, torch.float32))
    for table in (bias, None):
        arguments = (q, k, v, table, 5, 0.5, form)
        torch.library.opcheck(torch.ops.rsmamba.neighborhood_attention.default, arguments)


@pytest.mark.parametrize("form", ["auto", "reference", *FAST])
def test_compiles_without_graph_break(form):
    inputs = make(dtype=torch.float32)
    inputs[0] = inputs[0].permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4)

    def attend(q, k, v, bias):
        return neighborhood_attention(q, k, v, 5, bias=bias, form=form)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), attend(*inputs))


@pytest.mark.parametrize("form", ["auto", "reference"])
def test_exports(form):
    class Layer(torch.nn.Module):
        def forward(self, q, k, v, bias):
            return neighborhood_attention(q, k, v, 5, bias=bias, form=form)

    inputs = tuple(make(dtype=torch.float32))
    program = torch.export.export(Layer(), inputs)
    assert torch.equal(program.module()(*inputs), Layer()(*inputs))


def test_environment_names_the_form(monkeypatch):
    q, k, v, bias = make(dtype=torch.float32)
    monkeypatch.setenv("RSMAMBA_NA", "reference")
    expected = neighborhood_attention(q, k, v, 5, bias=bias, form="reference")
    assert torch.equal(neighborhood_attention(q, k, v, 5, bias=bias), expected)


def test_without_the_library_the_tiled_form_runs(monkeypatch):
    q, k, v, bias = make(dtype=torch.float32)
    monkeypatch.setattr(native, "why_not", lambda: "it was not built")
    expected = neighborhood_attention(q, k, v, 5, bias=bias, form="tiled")
    assert torch.equal(neighborhood_attention(q, k, v, 5, bias=bias), expected)


@pytest.mark.parametrize(
    ("form", "reason"), [("fast", "unknown; known"), ("natten", "it needs a CUDA device")]
)
def test_unusable_forms_are_refused_with_the_reason(form, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RSMAMBA_NA", form)
    with pytest.raises(BackendError, match=f"set by RSMAMBA_NA.*{reason}"):
        neighborhood_attention(*make()[:3], 5)


@needs_native
def test_the_native_form_refuses_float64():
    with pytest.raises(BackendError, match="computes in float32"):
        neighborhood_attention(*make()[:3], 5, form="native")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 11, 13, 5)}, "of one shape"),
        ({"k": torch.zeros(2, 2, 11, 12, 5)}, "of one shape"),
        ({"bias": torch.zeros(2, 5, 5)}, "bias has shape"),
        ({"kernel_size": 0}, "at least 1 pixel"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = dict(zip(("q", "k", "v", "bias"), make(), strict=True)) | {"kernel_size": 5}
    with pytest.raises(ArgumentsError, match=message):
        neighborhood_attention(**(arguments | change))


class OnCuda(torch.Tensor):
    """A CPU tensor that says it is on a CUDA device, as far as the adapter asks."""

    is_cuda = True


@pytest.fixture
def foreign(monkeypatch):
    """Install a stand-in for ``natten`` that adds ``error`` to what it returns."""

    def install(error):
        def na2d(q, k, v, *, kernel_size, scale):
            first = (t.permute(0, 3, 1, 2, 4) for t in (q, k, v))
            y = neighborhood_attention(*first, kernel_size, scale=scale, form="reference")
            return y.permute(0, 2, 3, 1, 4) + error

        module = types.ModuleType("natten")
        module.na2d = na2d
        module.__spec__ = types.SimpleNamespace(name="natten")
        monkeypatch.setitem(sys.modules, "natten", module)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(third_party, "_verdicts", {})

    return install


def test_foreign_kernel_that_agrees_is_used(foreign):
    foreign(0.0)
    q, k, v, _ = make(dtype=torch.float32)
    expected = neighborhood_attention(q, k, v, 5, form="tiled")
    y = neighborhood_attention(q.as_subclass(OnCuda), k, v, 5, form="natten")
    assert ATTENTION.available()["natten"] == ""
    assert error(y, expected) < 1e-5


def test_foreign_kernel_that_disagrees_is_refused(foreign):
    foreign(0.1)
    q, k, v, _ = make(dtype=torch.float32)
    with pytest.raises(BackendError, match="differs from ours"):
        neighborhood_attention(q.as_subclass(OnCuda), k, v, 5, form="natten")


def test_foreign_kernel_takes_no_bias(foreign):
    foreign(0.0)
    q, k, v, bias = make(dtype=torch.float32)
    with pytest.raises(BackendError, match="no relative position bias"):
        neighborhood_attention(q.as_subclass(OnCuda), k, v, 5, bias=bias, form="natten")


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on the path")
@pytest.mark.parametrize(
    "flags",
    [("-fsanitize=address,undefined", "-fno-sanitize-recover=all"), ("-fsanitize=thread",)],
    ids=["address", "thread"],
)
def test_the_kernels_are_clean_under_sanitizers(tmp_path, flags):
    common = [COMPILER, "-O2", "-g", "-std=c++17", "-pthread", f"-I{CSRC}", *flags]
    x86 = os.uname().machine in ("x86_64", "amd64")
    own = {
        "avx2": ["-mavx2", "-mfma"],
        "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512dq"],
    }
    objects = []
    driver = Path(__file__).with_name("neighborhood_driver.cpp")
    for source in (*sorted(CSRC.glob("*.cpp")), driver):
        target = tmp_path / f"{source.stem}.o"
        isa = own.get(source.stem.rpartition("_")[2], []) if x86 else []
        subprocess.run([*common, *isa, "-c", str(source), "-o", str(target)], check=True)
        objects.append(str(target))
    program = tmp_path / "driver"
    if subprocess.run([*common, *objects, "-o", str(program)], check=False).returncode:
        pytest.skip(f"the compiler cannot link with {' '.join(flags)}")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok\n")
