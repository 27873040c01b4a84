"""The scan with unprojected steps: blocks of channels give what all channels at once give."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_models import ArgumentsError
from rsmamba_models.ops import (
    available_backends,
    directional_scan,
    projected,
    projected_scan,
    scan_order,
)

FAST = [name for name, why in available_backends().items() if not why and name != "mamba_ssm"]


def inputs(batch=2, height=3, width=5, channels=70, states=3, rank=2, kind="omni", dtype=None):
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=dtype)

    order = scan_order(kind, height, width)
    k, length = order.shape
    # Strided as a module's joint projection leaves them.
    joint = normal(batch, length, k, rank + 2 * states).transpose(1, 2)
    low, b, c = joint.split([rank, states, states], -1)
    tensors = [
        *(normal(batch, length, channels), low, normal(k, channels, rank)),
        *(-normal(k, channels, states).exp(), b, c, normal(k, channels), normal(k, channels)),
    ]
    return tensors, order


def whole(u, low, dt_proj, *rest, order, backend=None):
    return directional_scan(u, low @ dt_proj.transpose(1, 2), *rest, order=order, backend=backend)


@pytest.mark.parametrize("backend", FAST)
def test_blocks_agree_with_the_whole(backend, monkeypatch):
    monkeypatch.setattr(projected, "_BLOCK_BYTES", 1)
    sizes = {"batch": 1, "channels": 40} if backend == "triton" else {}
    tensors, order = inputs(**sizes)
    with torch.inference_mode():
        blocks = projected_scan(*tensors, order=order, backend=backend)
        together = whole(*tensors, order=order, backend=backend)
    torch.testing.assert_close(blocks, together, rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    channels=st.integers(1, 100),
    rank=st.integers(1, 4),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    kind=st.sampled_from(["raster", "cross", "omni"]),
)
def test_blocks_of_any_shape_agree_in_float64(channels, rank, height, width, kind):
    tensors, order = inputs(1, height, width, channels, 2, rank, kind, torch.float64)
    before = projected._BLOCK_BYTES
    projected._BLOCK_BYTES = 1
    try:
        with torch.no_grad():
            blocks = projected_scan(*tensors, order=order)
    finally:
        projected._BLOCK_BYTES = before
    torch.testing.assert_close(blocks, whole(*tensors, order=order), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_written_out_form():
    tensors, order = inputs(dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in tensors]
    again = [t.clone().requires_grad_() for t in tensors]
    projected_scan(*leaves, order=order).square().sum().backward()
    whole(*again, order=order).square().sum().backward()
    for ours, theirs in zip(leaves, again, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_without_gradients_not_all_steps_exist_at_once(monkeypatch):
    monkeypatch.setattr(projected, "_BLOCK_BYTES", 1)
    seen = []
    real = projected.directional_scan
    monkeypatch.setattr(
        projected,
        "directional_scan",
        lambda u, delta, *rest, **options: (
            seen.append(delta.shape[-1]) or real(u, delta, *rest, **options)
        ),
    )
    tensors, order = inputs()
    with torch.inference_mode():
        projected_scan(*tensors, order=order, backend="torch")
    assert seen == [32, 32, 6]


def test_skip_and_bias_may_be_absent(monkeypatch):
    monkeypatch.setattr(projected, "_BLOCK_BYTES", 1)
    tensors, order = inputs()
    with torch.no_grad():
        blocks = projected_scan(*tensors[:6], order=order)
    torch.testing.assert_close(blocks, whole(*tensors[:6], order=order), rtol=1e-5, atol=1e-5)


def test_half_precision_comes_back_in_its_own_dtype(monkeypatch):
    monkeypatch.setattr(projected, "_BLOCK_BYTES", 1)
    tensors, order = inputs()
    halves = [t.bfloat16() if i in (0, 1, 4, 5) else t for i, t in enumerate(tensors)]
    with torch.inference_mode():
        y = projected_scan(*halves, order=order)
    assert y.dtype == torch.bfloat16
    exact = whole(*tensors, order=order)
    assert (y - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_projection_that_does_not_fit_is_refused():
    tensors, order = inputs()
    with pytest.raises(ArgumentsError, match="do not fit"):
        projected_scan(tensors[0], tensors[1], tensors[2][..., :1], *tensors[3:], order=order)
