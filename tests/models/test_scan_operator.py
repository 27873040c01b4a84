"""The scan as a PyTorch operator: autograd, compilers, export."""

import pytest
import torch

from rsmamba_models import create_model
from rsmamba_models.ops import directional_scan, scan_order
from rsmamba_models.ops.backends import SCAN
from rsmamba_models.rs_mamba import OmniBlock

PLAIN = ("reference", "traceable")
FAST = [name for name in SCAN.usable(torch.zeros(1)) if name not in PLAIN]


def arguments(backend, dtype=torch.float32, optional=True, grad=True):
    g = torch.Generator().manual_seed(0)
    shapes = [(2, 12, 4), (2, 8, 12, 4), (8, 4, 2), (2, 8, 12, 2), (2, 8, 12, 2), (8, 4), (8, 4)]
    tensors = [torch.randn(s, generator=g).to(dtype) for s in shapes]
    tensors[2] = -tensors[2].exp()
    tensors = [t.requires_grad_(grad) for t in tensors]
    if not optional:
        tensors[5:] = [None, None]
    return (*tensors, scan_order("omni", 3, 4), True, backend)


@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("backend", FAST)
def test_opcheck(backend, optional):
    torch.library.opcheck(torch.ops.rsmamba.directional_scan, arguments(backend, optional=optional))


@pytest.mark.parametrize("backend", FAST)
def test_opcheck_of_the_gradient(backend):
    inputs = arguments(backend, grad=False)
    grad_y = torch.ones(2, 12, 4)
    torch.library.opcheck(torch.ops.rsmamba.directional_scan_backward, (grad_y, *inputs))


@pytest.mark.parametrize("backend", FAST)
def test_gradients_come_in_the_dtype_of_their_inputs(backend):
    *tensors, order, _, _ = arguments(backend, torch.bfloat16)
    leaves = [t.detach().requires_grad_() for t in tensors]
    leaves[2] = leaves[2].detach().float().requires_grad_()
    directional_scan(*leaves, order=order, backend=backend).float().sum().backward()
    assert [t.grad.dtype for t in leaves] == [t.dtype for t in leaves]


def test_only_the_gradients_that_are_asked_for_are_returned():
    *tensors, order, _, _ = arguments("torch", grad=False)
    tensors[0].requires_grad_()
    directional_scan(*tensors, order=order).sum().backward()
    assert tensors[0].grad is not None
    assert tensors[1].grad is None


@pytest.fixture(scope="module")
def nano():
    torch.manual_seed(0)
    return create_model("rsm_ss_nano", depths=(1, 1, 1, 1))


def test_a_model_compiles_without_graph_breaks(nano):
    x = torch.randn(1, 3, 32, 32)
    compiled = torch.compile(nano.eval(), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(x), nano(x), atol=1e-5)


def test_a_compiled_block_has_the_same_gradients():
    torch.manual_seed(0)
    block = OmniBlock(8, d_state=2, ssm_ratio=1.0, dt_rank=1, mlp_ratio=2.0)
    x = torch.randn(2, 4, 6, 8)
    found = []
    for module in (torch.compile(block, fullgraph=True, backend="aot_eager"), block):
        block.zero_grad()
        module(x).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in block.parameters()]))
    assert torch.allclose(*found, rtol=1e-4, atol=1e-4)


def test_a_model_exports_and_comes_back(nano, tmp_path):
    x = torch.randn(1, 3, 40, 33)
    nano.eval()
    torch.export.save(torch.export.export(nano, (x,)), tmp_path / "nano.pt2")
    loaded = torch.export.load(tmp_path / "nano.pt2").module()
    with torch.no_grad():
        assert torch.allclose(loaded(x), nano(x), atol=1e-5)


def test_the_traceable_form_leaves_plain_operators_only(nano, monkeypatch):
    monkeypatch.setenv("RSMAMBA_SCAN", "traceable")
    x = torch.randn(1, 3, 40, 33)
    program = torch.export.export(nano.eval(), (x,))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in operators if not name.startswith(("aten.", "<built-in"))]
    with torch.no_grad():
        assert torch.allclose(program.module()(x), nano(x), atol=1e-5)


def test_tracing_leaves_no_fake_table_in_the_cache(nano):
    torch.export.export(nano.eval(), (torch.randn(1, 3, 96, 32),))
    assert type(scan_order("omni", 24, 8)) is torch.Tensor


def test_the_reference_has_gradients_inside_an_operator_too():
    inputs = arguments("reference", grad=False)
    grad_y = torch.randn(2, 12, 4)
    found = torch.ops.rsmamba.directional_scan_backward(grad_y, *inputs)
    expected = torch.ops.rsmamba.directional_scan_backward(grad_y, *inputs[:-1], "torch")
    for f, e in zip(found, expected, strict=True):
        assert torch.allclose(f, e, atol=1e-5)
