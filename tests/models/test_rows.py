"""Pixel-wise parts in blocks: the same numbers, less memory."""

import pytest
import torch
from torch import nn

from rsmamba_models.layers import Mlp, by_rows, rows


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(rows, "_FEWEST", 5)


def test_blocks_give_what_the_whole_gives():
    torch.manual_seed(0)
    mlp = Mlp(6, 10)
    x = torch.randn(2, 3, 7, 6)
    with torch.no_grad():
        inside = mlp(x)
    torch.testing.assert_close(inside, mlp(x).detach(), rtol=1e-6, atol=1e-6)


def test_a_block_holds_few_pixels_and_all_pixels_come_by():
    seen = []

    def function(a, b):
        seen.append(a.shape[0])
        return a + b.sum(-1, keepdim=True)

    a, b = torch.randn(2, 11, 3), torch.randn(2, 11, 4)
    with torch.inference_mode():
        out = by_rows(function, a, b, width=3)
    assert seen == [5, 5, 5, 5, 2]
    torch.testing.assert_close(out, a + b.sum(-1, keepdim=True))


def test_a_map_may_be_overwritten_by_its_result():
    x = torch.randn(12, 4)
    expected = 2 * x
    with torch.no_grad():
        out = by_rows(lambda x: 2 * x, x, width=4, out=x)
    assert out.data_ptr() == x.data_ptr()
    torch.testing.assert_close(x, expected)


def test_nothing_is_overwritten_where_a_gradient_is_wanted():
    x = torch.randn(12, 4, requires_grad=True)
    before = x.detach().clone()
    out = by_rows(lambda x: 2 * x, x, width=4, out=x)
    out.sum().backward()
    assert torch.equal(x.detach(), before)
    assert torch.equal(x.grad, torch.full((12, 4), 2.0))


def test_maps_whose_pixels_are_not_contiguous():
    x = torch.randn(1, 4, 6, 5).permute(0, 2, 3, 1)
    with torch.no_grad():
        out = by_rows(torch.exp, x, width=4)
    torch.testing.assert_close(out, x.exp())


def test_the_graph_of_an_export_has_no_blocks():
    program = torch.export.export(Mlp(4, 8).eval(), (torch.randn(3, 9, 4),))
    assert sum("linear" in str(node.target) for node in program.graph.nodes) == 2
    x = torch.randn(3, 9, 4)
    assert isinstance(program.module()(x), torch.Tensor)


def test_empty_maps_stay_empty():
    with torch.no_grad():
        assert by_rows(nn.Linear(4, 3), torch.empty(0, 4), width=4).shape == (0, 3)
