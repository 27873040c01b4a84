"""The peers compute what they are compared for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_cli.bench import workloads
from rsmamba_cli.bench.peers import step_loop, step_loop_bytes, unfold_attention
from rsmamba_models.ops import directional_scan, neighborhood, scan_order


def scan_inputs(batch: int, kind: str, height: int, width: int, channels: int, states: int):
    order = scan_order(kind, height, width)
    directions, length = order.shape
    random = torch.Generator().manual_seed(batch + channels)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    tensors = (
        normal(batch, length, channels),
        normal(batch, directions, length, channels),
        -normal(directions, channels, states).exp(),
        normal(batch, directions, length, states),
        normal(batch, directions, length, states),
        normal(directions, channels),
        normal(directions, channels),
    )
    return tensors, order


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2),
    kind=st.sampled_from(["raster", "cross", "omni"]),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    channels=st.integers(1, 4),
    states=st.integers(1, 3),
    softplus=st.booleans(),
    extras=st.booleans(),
)
def test_step_loop_is_the_reference(
    batch, kind, height, width, channels, states, softplus, extras
) -> None:
    tensors, order = scan_inputs(batch, kind, height, width, channels, states)
    if not softplus:  # steps that may be negative would let states explode
        tensors = (tensors[0], tensors[1].abs(), *tensors[2:5], tensors[5], tensors[6].abs())
    if not extras:
        tensors = tensors[:5]
    options = {"order": order, "delta_softplus": softplus}
    wanted = directional_scan(*tensors, **options, backend="reference")
    torch.testing.assert_close(step_loop(*tensors, **options), wanted, rtol=1e-10, atol=1e-10)


def test_step_loop_has_the_gradients_of_the_reference() -> None:
    tensors, order = scan_inputs(2, "cross", 3, 2, 3, 2)
    found = []
    for function, more in ((step_loop, {}), (directional_scan, {"backend": "reference"})):
        leaves = [t.clone().requires_grad_() for t in tensors]
        y = function(*leaves, order=order, **more)
        found.append(torch.autograd.grad(y.square().sum(), leaves))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_step_loop_that_would_not_fit_is_refused_with_the_sizes(monkeypatch) -> None:
    tensors, order = scan_inputs(1, "raster", 2, 2, 1, 1)
    monkeypatch.setattr(workloads, "available_bytes", lambda: 10)
    with pytest.raises(MemoryError, match="needs about"):
        workloads.guarded_step_loop(*tensors, order=order)


def test_step_loop_runs_where_the_free_memory_is_unknown(monkeypatch) -> None:
    tensors, order = scan_inputs(1, "raster", 2, 2, 1, 1)
    monkeypatch.setattr(workloads, "available_bytes", lambda: None)
    assert workloads.guarded_step_loop(*tensors, order=order).shape == (1, 4, 1)


def test_step_loop_memory_is_five_tensors_of_states() -> None:
    assert step_loop_bytes(2, 4, 3, 5, 7) == 5 * 4 * (2 * 4 * 3 * 5 * 7)


@pytest.mark.parametrize(
    ("height", "width", "window"), [(5, 7, 3), (4, 4, 4), (6, 5, 1), (9, 8, 5)]
)
def test_unfold_attention_is_neighbourhood_attention(height, width, window) -> None:
    random = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 3, height, width, 4, generator=random, dtype=torch.float64) for _ in range(3)
    )
    wanted = neighborhood.neighborhood_attention(q, k, v, window, form="reference")
    torch.testing.assert_close(unfold_attention(q, k, v, window), wanted)
