"""The Triton scan against the equation, on the CPU through Triton's interpreter.

It checks arithmetic, indexing and masks; races, layouts and speed need a GPU (tests/gpu).
The interpreter takes about 20 ms a pixel and direction, so maps are tiny.
"""

import gc
import importlib.util

import pytest
import torch

from rsmamba_models.errors import BackendError
from rsmamba_models.ops import directional_scan, reference, scan_order, triton_launch, triton_scan
from rsmamba_models.ops.arguments import ScanArguments

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if torch.cuda.is_available():
    pytest.skip("a GPU is present: tests/gpu checks the compiled kernels", allow_module_level=True)

# Whether our kernels are interpreted is settled when they are defined; for Triton's own functions
# tests/conftest.py has seen to it.
with pytest.MonkeyPatch.context() as patch:
    patch.setenv("TRITON_INTERPRET", "1")
    triton_launch._kernels()

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


@pytest.fixture(autouse=True)
def interpreter_and_short_chunks(monkeypatch):
    """Chunks so short that tiny maps have several, the last one shorter."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_launch, "_FORWARD_STEPS", (8, 8))
    monkeypatch.setattr(triton_launch, "BACKWARD_STEPS", 6)


def problem(order, channels, states, batch=1, dtype=torch.float32, seed=0):
    """Random scan inputs, in the order of a back end's arguments, and a gradient of y."""
    g = torch.Generator().manual_seed(seed)
    directions, length = order.shape

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    inputs = [
        normal(batch, length, channels),
        normal(batch, directions, length, channels),
        -normal(directions, channels, states).exp(),
        normal(batch, directions, length, states),
        normal(batch, directions, length, states),
        normal(directions, channels),
        normal(directions, channels) - 1,
        order,
        True,
    ]
    return inputs, normal(batch, length, channels)


def exact(inputs):
    return [
        t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in inputs
    ]


def error(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def agree(inputs, grad, tolerance):
    """Assert that y and every gradient are those of the equation."""
    truth = exact(inputs)
    wanted = {"y": reference.forward(ScanArguments(*truth))}
    wanted.update(zip(NAMES, reference.backward(grad.double(), ScanArguments(*truth)), strict=True))
    found = {"y": triton_scan.forward(ScanArguments(*inputs))}
    found.update(zip(NAMES, triton_scan.backward(grad, ScanArguments(*inputs)), strict=True))
    errors = {
        name: 0.0 if found[name] is None else error(found[name], value)
        for name, value in wanted.items()
        if value is not None
    }
    missing = [name for name in wanted if (wanted[name] is None) != (found[name] is None)]
    assert not missing
    assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize(
    ("kind", "height", "width", "channels", "states"),
    [("raster", 5, 7, 24, 16), ("cross", 3, 5, 40, 4), ("omni", 3, 3, 24, 1)],
)
def test_y_and_every_gradient_are_those_of_the_equation(kind, height, width, channels, states):
    agree(*problem(scan_order(kind, height, width), channels, states), tolerance=2e-6)


def test_float64_input_is_computed_in_float64():
    order = scan_order("cross", 2, 4)
    agree(*problem(order, channels=5, states=3, dtype=torch.float64), tolerance=1e-13)


def test_directions_without_a_partner_scan_alone():
    forward = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    order = torch.stack([forward, torch.arange(11), forward.flip(0)])
    agree(*problem(order, channels=6, states=2), tolerance=2e-6)


def test_skip_bias_and_softplus_are_optional():
    inputs, grad = problem(scan_order("raster", 2, 5), channels=6, states=2)
    inputs[1] = inputs[1].abs()
    inputs[5:7] = [None, None]
    inputs[8] = False
    agree(inputs, grad, tolerance=2e-6)


def test_steps_far_below_and_above_the_softplus_bend_stay_exact():
    inputs, grad = problem(scan_order("raster", 2, 4), channels=6, states=2)
    inputs[1] = torch.linspace(-30, 30, inputs[1].numel()).view(inputs[1].shape)
    agree(inputs, grad, tolerance=5e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_keep_a_float32_state(dtype):
    inputs, grad = problem(scan_order("raster", 2, 5), channels=6, states=4)
    inputs = [t.to(dtype) if i in (0, 1, 3, 4) else t for i, t in enumerate(inputs)]
    y = triton_scan.forward(ScanArguments(*inputs))
    wanted = reference.forward(ScanArguments(*exact(inputs))).to(dtype)
    assert y.dtype == dtype
    assert error(y.double(), wanted.double()) <= torch.finfo(dtype).eps
    found = triton_scan.backward(grad.to(dtype), ScanArguments(*inputs))
    truth = reference.backward(grad.to(dtype).double(), ScanArguments(*exact(inputs)))
    assert [t.dtype for t in found] == [t.dtype for t in inputs[:7]]
    assert (
        max(error(f.double(), t) for f, t in zip(found, truth, strict=True))
        < 2 * torch.finfo(dtype).eps
    )


def test_a_single_pass_gives_what_chunks_give(monkeypatch):
    inputs, _ = problem(scan_order("cross", 2, 5), channels=6, states=2)
    chunked = triton_scan.forward(ScanArguments(*inputs))
    monkeypatch.setattr(triton_launch, "_WARPS", 1)
    assert error(triton_scan.forward(ScanArguments(*inputs)), chunked) < 1e-6


def test_results_are_the_same_bits_every_time():
    inputs, grad = problem(scan_order("cross", 2, 4), channels=6, states=2)
    first = (
        triton_scan.forward(ScanArguments(*inputs)),
        *triton_scan.backward(grad, ScanArguments(*inputs)),
    )
    again = (
        triton_scan.forward(ScanArguments(*inputs)),
        *triton_scan.backward(grad, ScanArguments(*inputs)),
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_batch_in_slices_gives_what_its_samples_give_alone(monkeypatch):
    inputs, grad = problem(scan_order("raster", 2, 4), channels=6, states=2, batch=3)
    alone = [
        triton_scan.forward(
            ScanArguments(*[t[i : i + 1] if n in (0, 1, 3, 4) else t for n, t in enumerate(inputs)])
        )
        for i in range(3)
    ]
    monkeypatch.setattr(triton_scan, "_SLICE_BYTES", 1)
    assert torch.equal(triton_scan.forward(ScanArguments(*inputs)), torch.cat(alone))
    agree(inputs, grad, tolerance=2e-6)


def test_a_nan_spreads_to_what_depends_on_it_and_no_further():
    inputs, _ = problem(scan_order("raster", 1, 12), channels=6, states=2)
    inputs[0][0, 5, 2] = float("nan")
    bad = triton_scan.forward(ScanArguments(*inputs)).isnan()
    wanted = torch.zeros_like(bad)
    wanted[0, 5:, 2] = True
    assert torch.equal(bad, wanted)


@pytest.mark.parametrize("argument", [0, 3, 4], ids=["u", "B", "C"])
def test_a_nan_reaches_the_gradients_that_depend_on_it_and_no_further(argument):
    inputs, grad = problem(scan_order("raster", 1, 9), channels=4, states=2)
    inputs[argument][..., -1, 1] = float("nan")  # in the last chunk, which is not full
    found = triton_scan.backward(grad, ScanArguments(*inputs))
    wanted = reference.backward(grad.double(), ScanArguments(*exact(inputs)))
    places = [(f.isnan(), w.isnan()) for f, w in zip(found, wanted, strict=True)]
    assert [n for n, (f, w) in zip(NAMES, places, strict=True) if not torch.equal(f, w)] == []


def test_outer_strides_and_index_types_are_free():
    inputs, grad = problem(scan_order("raster", 3, 4), channels=6, states=2)
    strided = list(inputs)
    for i in (0, 1, 3, 4):
        wide = torch.full((*inputs[i].shape[:-1], inputs[i].shape[-1] + 3), float("nan"))
        wide[..., : inputs[i].shape[-1]] = inputs[i]
        strided[i] = wide[..., : inputs[i].shape[-1]]
    strided[7] = inputs[7].long()
    assert torch.equal(
        triton_scan.forward(ScanArguments(*strided)), triton_scan.forward(ScanArguments(*inputs))
    )
    agree(strided, grad, tolerance=2e-6)


@pytest.mark.parametrize(("batch", "length"), [(0, 4), (2, 0)])
def test_nothing_in_gives_nothing_out(batch, length):
    order = torch.arange(length)[None]
    inputs, grad = problem(order, channels=3, states=2, batch=batch)
    assert triton_scan.forward(ScanArguments(*inputs)).shape == (batch, length, 3)
    found = triton_scan.backward(grad, ScanArguments(*inputs))
    assert [t.shape for t in found] == [t.shape for t in inputs[:7]]
    assert not any(t.any() for t in found)


def test_the_public_op_differentiates_through_it():
    inputs, _ = problem(scan_order("raster", 1, 5), channels=4, states=2)
    leaves = [t.requires_grad_() for t in inputs[:7]]
    y = directional_scan(*leaves, order=inputs[7], backend="triton")
    y.square().sum().backward()
    truth = [t.detach().double().requires_grad_() for t in inputs[:7]]
    reference.forward(ScanArguments(*truth, inputs[7], True)).square().sum().backward()
    assert max(error(a.grad, b.grad) for a, b in zip(leaves, truth, strict=True)) < 2e-6


def test_opposite_directions_are_found_in_pairs():
    assert triton_launch.opposite_pairs(scan_order("omni", 3, 4)).tolist() == [
        [0, 2],
        [1, 3],
        [4, 6],
        [5, 7],
    ]


def test_a_direction_is_nobodys_partner_twice():
    order = torch.stack([torch.arange(5), torch.arange(5).flip(0), torch.arange(5).flip(0)])
    assert triton_launch.opposite_pairs(order).tolist() == [[0, 1], [2, -1]]


def test_an_order_table_changed_in_place_is_looked_at_again():
    order = torch.stack([torch.arange(5), torch.arange(5).flip(0)])
    triton_launch.opposite_pairs(order)
    order[1] = order[0]
    assert triton_launch.opposite_pairs(order).tolist() == [[0, -1], [1, -1]]


def test_known_pairs_are_forgotten_with_their_table():
    order = scan_order("cross", 2, 3).clone()
    triton_launch.opposite_pairs(order)
    key = id(order)
    del order
    gc.collect()
    assert key not in triton_launch._found_pairs


def test_cpu_tensors_are_refused_outside_the_interpreter(monkeypatch):
    inputs, _ = problem(scan_order("raster", 1, 3), channels=2, states=1)
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(BackendError, match="on a GPU"):
        triton_scan.forward(ScanArguments(*inputs))


def test_without_a_gpu_or_the_interpreter_the_reason_is_named(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    assert triton_scan.why_not() == "there is no CUDA device"
