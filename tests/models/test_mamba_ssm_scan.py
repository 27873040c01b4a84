"""The scan through the official CUDA kernel: what surrounds the kernel, with a stand-in for it.

The stand-in has the kernel's documented signature and layout, and computes the plain recurrence.
"""

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from rsmamba_models.errors import BackendError
from rsmamba_models.ops import mamba_ssm, reference, scan_order
from rsmamba_models.ops.arguments import ScanArguments
from rsmamba_models.ops.selfcheck import disagreement

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def recurrence(u, delta, A, B, C, D, bias, softplus):
    """u, delta (B, D, L); A (D, N); B, C (B, G, N, L); D, bias (D,) or None -> (B, D, L)."""
    u, delta, B, C = (t.float() for t in (u, delta, B, C))
    step = delta if bias is None else delta + bias[:, None]
    step = F.softplus(step) if softplus else step
    B, C = (t.repeat_interleave(u.shape[1] // t.shape[1], 1) for t in (B, C))
    h, y = u.new_zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[2]):
        h = (step[..., t, None] * A).exp() * h + (step * u)[..., t, None] * B[..., t]
        y.append((h * C[..., t]).sum(-1))
    y = torch.stack(y, -1)
    return y if D is None else y + D[:, None] * u


class StandIn(ModuleType):
    """``selective_scan_cuda`` as its source declares it, checks of arguments included."""

    def __init__(self):
        super().__init__("selective_scan_cuda")

    def fwd(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        batch, channels, length = u.shape
        assert z is None
        assert {t.dtype for t in (u, delta, B, C)} == {u.dtype}
        assert all(t is None or t.dtype == torch.float32 for t in (A, D, delta_bias))
        assert all(t.stride(-1) == 1 or t.shape[-1] == 1 for t in (u, delta, B, C))
        assert B.shape == C.shape == (batch, B.shape[1], A.shape[1], length)
        assert delta.shape == u.shape
        assert A.shape[0] == channels
        assert channels % B.shape[1] == 0
        y = recurrence(u, delta, A, B, C, D, delta_bias, delta_softplus).to(delta.dtype)
        chunks = -(-length // 2048)
        return [y, u.new_zeros(batch, channels, chunks, 2 * A.shape[1], dtype=torch.float32)]

    def bwd(
        self, u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z
    ):
        assert z is None
        assert out is None
        assert dz is None
        assert not recompute_out_z
        assert x.shape[2] == -(-u.shape[2] // 2048)
        assert dout.shape == u.shape
        assert dout.dtype == u.dtype
        given = [
            None if t is None else t.detach().clone() for t in (u, delta, A, B, C, D, delta_bias)
        ]
        leaves = [t.requires_grad_() for t in given if t is not None]
        with torch.enable_grad():
            y = recurrence(*given, delta_softplus)
        grads = iter(torch.autograd.grad(y, leaves, dout.float()))
        found = [None if t is None else next(grads) for t in given]
        return [t if i in (0, 1) or t is None else t.float() for i, t in enumerate(found)]


@pytest.fixture
def kernel(monkeypatch):
    """Install the stand-in, and take CPU tensors as the GPU's; verdicts start afresh."""
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", stand_in)
    monkeypatch.setattr(mamba_ssm, "_DEVICE_TYPE", "cpu")
    mamba_ssm._check.forget()
    yield stand_in
    mamba_ssm._check.forget()


def problem(dtype=torch.float32, states=3):
    g = torch.Generator().manual_seed(0)
    order = scan_order("omni", 3, 5)
    directions, length = order.shape

    def normal(*shape):
        return torch.randn(shape, generator=g).to(dtype)

    return [
        normal(2, length, 6),
        normal(2, directions, length, 6),
        -normal(directions, 6, states).float().exp(),
        normal(2, directions, length, states),
        normal(2, directions, length, states),
        normal(directions, 6).float(),
        normal(directions, 6).float() - 1,
        order,
        True,
    ]


def exact(inputs):
    return [
        t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in inputs
    ]


def error(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.usefixtures("kernel")
def test_sequences_come_back_at_their_pixels():
    inputs = problem()
    assert (
        error(
            mamba_ssm.forward(ScanArguments(*inputs)),
            reference.forward(ScanArguments(*exact(inputs))),
        )
        < 1e-5
    )


@pytest.mark.usefixtures("kernel")
def test_gradients_come_back_at_their_pixels():
    inputs = problem()
    grad = inputs[0].flip(1)
    wanted = reference.backward(grad.double(), ScanArguments(*exact(inputs)))
    found = mamba_ssm.backward(grad, ScanArguments(*inputs))
    assert [t.shape for t in found] == [t.shape for t in inputs[:7]]
    errors = {n: error(f, w) for n, f, w in zip(NAMES, found, wanted, strict=True)}
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.usefixtures("kernel")
def test_gradients_of_absent_arguments_are_absent():
    inputs = problem()
    inputs[5:7] = [None, None]
    assert mamba_ssm.backward(inputs[0], ScanArguments(*inputs))[5:] == (None, None)


@pytest.mark.usefixtures("kernel")
def test_a_half_precision_map_is_passed_in_its_dtype():
    inputs = problem(torch.bfloat16)
    y = mamba_ssm.forward(ScanArguments(*inputs))
    assert y.dtype == torch.bfloat16
    assert error(y.double(), reference.forward(ScanArguments(*exact(inputs)))) < 0.02
    grads = mamba_ssm.backward(inputs[0], ScanArguments(*inputs))
    assert [t.dtype for t in grads] == [t.dtype for t in inputs[:7]]


@pytest.mark.usefixtures("kernel")
def test_mixed_dtypes_are_passed_as_float32():
    inputs = problem()
    inputs[0] = inputs[0].bfloat16()
    wanted = reference.forward(ScanArguments(*exact(inputs)))
    assert (
        error(mamba_ssm.forward(ScanArguments(*inputs)).double(), wanted)
        <= torch.finfo(torch.bfloat16).eps
    )


@pytest.mark.usefixtures("kernel")
def test_an_empty_batch_is_no_call():
    inputs = [t[:0] if n in (0, 1, 3, 4) else t for n, t in enumerate(problem())]
    assert mamba_ssm.forward(ScanArguments(*inputs)).shape == inputs[0].shape
    assert mamba_ssm.backward(inputs[0], ScanArguments(*inputs))[0].shape == inputs[0].shape


def test_a_kernel_that_agrees_is_available(kernel):
    assert mamba_ssm.is_available()


def test_a_kernel_with_another_result_is_refused(kernel, monkeypatch):
    right = kernel.fwd
    monkeypatch.setattr(kernel, "fwd", lambda *a: [2 * right(*a)[0], right(*a)[1]])
    with pytest.raises(BackendError, match="failed their check: y is off by"):
        mamba_ssm.forward(ScanArguments(*problem()))


def test_a_kernel_with_a_wrong_gradient_is_refused(kernel, monkeypatch):
    right = kernel.bwd
    monkeypatch.setattr(
        kernel, "bwd", lambda *a: [t * (1 + (i == 3)) for i, t in enumerate(right(*a))]
    )
    assert "the gradient of B is off" in mamba_ssm.why_not()


def test_a_kernel_with_another_signature_is_refused(kernel, monkeypatch):
    monkeypatch.setattr(kernel, "fwd", lambda u, delta: [u, delta])
    with pytest.raises(BackendError, match="TypeError"):
        mamba_ssm.forward(ScanArguments(*problem()))


@pytest.mark.usefixtures("kernel")
def test_a_missing_kernel_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", None)
    assert "mamba-ssm" in mamba_ssm.why_not()
    with pytest.raises(BackendError, match="selective_scan_cuda"):
        mamba_ssm.forward(ScanArguments(*problem()))


@pytest.mark.usefixtures("kernel")
def test_float64_is_refused():
    with pytest.raises(BackendError, match="float64"):
        mamba_ssm.forward(ScanArguments(*exact(problem())))


@pytest.mark.usefixtures("kernel")
def test_more_states_than_the_kernel_takes_are_refused():
    with pytest.raises(BackendError, match="at most 256 states"):
        mamba_ssm.forward(ScanArguments(*problem(states=257)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_without_a_gpu_the_reason_is_named():
    assert mamba_ssm.why_not() == "there is no CUDA device"
    with pytest.raises(BackendError, match="its input is on cpu"):
        mamba_ssm.forward(ScanArguments(*problem()))


def test_the_report_names_both_extensions():
    assert set(mamba_ssm.report()) == {"selective_scan_cuda", "causal_conv1d_cuda"}


def test_the_check_sees_nan():
    def broken(scan):
        return torch.full_like(scan.u, float("nan"))

    assert "y is off" in disagreement(broken, reference.backward, torch.device("cpu"))


def test_the_check_passes_the_equation_itself():
    device = torch.device("cpu")
    assert disagreement(reference.forward, reference.backward, device) == ""
