"""Linear layers: oneDNN's numbers are those of the plain form."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_models.layers import Linear, linear, pointwise


@pytest.fixture
def operators(monkeypatch):
    """Replaces PyTorch's operators of oneDNN, and looks the linear layer up again."""

    def replace(**found):
        monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**found))
        pointwise._onednn.cache_clear()

    yield replace
    monkeypatch.undo()
    pointwise._onednn.cache_clear()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    leading=st.lists(st.integers(0, 9), max_size=3),
    wide=st.integers(1, 70),
    out=st.integers(1, 40),
    bias=st.booleans(),
)
def test_outputs_are_those_of_the_plain_form(leading, wide, out, bias):
    generator = torch.Generator().manual_seed(wide)
    x, weight, offset = (
        torch.randn(*shape, generator=generator) for shape in ([*leading, wide], (out, wide), [out])
    )
    offset = offset if bias else None
    with torch.inference_mode():
        found = linear(x, weight, offset)
    expected = F.linear(x.double(), weight.double(), None if offset is None else offset.double())
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


def test_maps_and_weights_that_are_views():
    x, weight = torch.randn(8, 6, 5).permute(2, 1, 0), torch.randn(20, 16)[::2, 4:12]
    with torch.no_grad():
        found = linear(x, weight, torch.ones(20)[::2])
    torch.testing.assert_close(found, F.linear(x, weight, torch.ones(10)), rtol=1e-5, atol=1e-5)


def test_training_is_the_plain_form():
    torch.manual_seed(0)
    layer, x = Linear(6, 4), torch.randn(3, 6, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, F.linear(x, layer.weight, layer.bias))
    y.sum().backward()
    assert x.grad.any() and layer.weight.grad.any()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
def test_onednn_is_in_use_where_no_gradient_is_wanted():
    with torch.no_grad(), torch.profiler.profile() as found:
        linear(torch.randn(3, 6), torch.randn(4, 6))
    assert "mkldnn::_linear_pointwise" in {event.key for event in found.key_averages()}


def refuses(*arguments):
    raise RuntimeError("expected at most 5 arguments")


@pytest.mark.parametrize(
    "operator",
    [{}, {"default": lambda x, weight, *rest: F.linear(x, weight)}, {"default": refuses}],
    ids=["missing", "wrong", "of another signature"],
)
def test_the_plain_form_stands_in_for_an_operator(operators, operator):
    operators(_linear_pointwise=SimpleNamespace(**operator))
    x, weight, bias = torch.randn(3, 6), torch.randn(4, 6), torch.randn(4)
    with torch.inference_mode():
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_double_precision_and_autocast_keep_their_dtypes():
    x, weight = torch.randn(3, 6), torch.randn(4, 6)
    with torch.inference_mode():
        assert linear(x.double(), weight.double()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight).dtype == torch.bfloat16


def test_widths_that_do_not_fit_are_refused():
    with torch.inference_mode(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(torch.randn(3, 5), torch.randn(4, 6))
