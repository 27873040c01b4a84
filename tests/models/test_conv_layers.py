"""Convolutions in another form than PyTorch's own: the same numbers and gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rsmamba_models.layers import ConvNormAct, NarrowConv2d, UpsampleFuse


def result_and_gradients(function, *tensors):
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    y = function(*tensors)
    (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    return y.detach(), [t.grad for t in tensors]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    out=st.integers(1, 17),
    kernel=st.sampled_from([1, 3, 7]),
    height=st.integers(1, 12),
    width=st.integers(1, 19),
)
def test_a_narrow_convolution_is_a_convolution(out, kernel, height, width):
    torch.manual_seed(0)
    ours = NarrowConv2d(3, out, kernel)
    plain = nn.Conv2d(3, out, kernel, padding=kernel // 2)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, height, width)
    found, grads = result_and_gradients(ours, x)
    expected, expected_grads = result_and_gradients(plain, x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-4)
    for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_a_narrow_convolution_is_exported_as_one():
    x = torch.randn(1, 3, 8, 16)
    graph = torch.export.export(NarrowConv2d(3, 1, 7).eval(), (x,)).graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert called == ["aten.conv2d.default"]


@pytest.mark.parametrize("fine_size", [(8, 12), (7, 11)])
@pytest.mark.parametrize("training", [False, True])
def test_upsample_fuse_is_upsample_concatenate_convolve(fine_size, training):
    torch.manual_seed(0)
    ours = UpsampleFuse(5, 3).train(training)
    plain = ConvNormAct(8, 3, 1, bias=False).train(training)
    plain.load_state_dict(ours.state_dict())
    maps = torch.randn(2, 5, 4, 6), torch.randn(2, 3, *fine_size)

    def concatenated(coarse, fine):
        return plain(torch.cat([F.interpolate(coarse, size=fine_size, mode="nearest"), fine], 1))

    found, grads = result_and_gradients(ours, *maps)
    expected, expected_grads = result_and_gradients(concatenated, *maps)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-5)
