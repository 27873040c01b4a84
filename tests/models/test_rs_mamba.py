"""RS-Mamba as a model: sizes, padding, initialisation, stochastic depth, precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_models import ArgumentsError, create_model
from rsmamba_models.layers import DropPath
from rsmamba_models.rs_mamba import OmniScan

SMALL = {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1), "ssm_d_state": 2}


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return create_model("rsm_ss_nano", in_chans=2, num_classes=3, **SMALL).eval()


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return create_model("rsm_cd_nano", **SMALL).eval()


@settings(max_examples=12, deadline=None, derandomize=True)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_logits_have_the_size_of_the_image(segmenter, height, width):
    with torch.no_grad():
        logits = segmenter(torch.randn(1, 2, height, width))
    assert logits.shape == (1, 3, height, width)


def test_padding_is_replication(segmenter):
    x = torch.randn(1, 2, 20, 41)
    padded = torch.nn.functional.pad(x, (0, 23, 0, 12), mode="replicate")
    with torch.no_grad():
        assert torch.equal(segmenter(x), segmenter(padded)[..., :20, :41])


def test_one_pixel_is_padded_by_far_more_than_its_size(detector):
    x = torch.full((1, 3, 1, 1), 0.3)
    with torch.no_grad():
        same = detector(x.expand(1, 3, 32, 32), x.expand(1, 3, 32, 32))[..., :1, :1]
        assert torch.allclose(detector(x, x), same, atol=1e-6)


def test_items_of_a_batch_do_not_meet(segmenter):
    x = torch.randn(3, 2, 32, 32)
    with torch.no_grad():
        alone = torch.cat([segmenter(item[None]) for item in x])
        assert torch.allclose(segmenter(x), alone, atol=1e-5)


def test_the_order_of_the_dates_matters(detector):
    a, b = torch.randn(2, 1, 3, 32, 32).unbind()
    with torch.no_grad():
        assert not torch.allclose(detector(a, b), detector(b, a), atol=1e-3)


def test_training_forward_returns_the_logits(segmenter):
    x = torch.randn(1, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(segmenter.training_forward(x)["logits"], segmenter(x))


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = create_model("rsm_cd_nano", **SMALL).train()
    model(torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_autocast_stays_close_to_float32(segmenter):
    x = torch.randn(1, 2, 64, 64)
    with torch.no_grad():
        exact = segmenter(x)
        with torch.autocast("cpu", torch.bfloat16):
            logits = segmenter(x)
    assert (logits.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_channels_last_and_contiguous_images_agree(segmenter):
    x = torch.randn(2, 2, 32, 64)
    with torch.no_grad():
        other = segmenter(x.to(memory_format=torch.channels_last))
        assert torch.allclose(segmenter(x), other, atol=1e-5)


def test_wrong_band_count_is_refused(segmenter):
    with pytest.raises(ArgumentsError, match="2 bands, the image has 3"):
        segmenter(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("shape", [(1, 2, 0, 4), (2, 4, 4)])
def test_images_without_pixels_or_batch_are_refused(segmenter, shape):
    with pytest.raises(ArgumentsError, match=r"\(B, C, H, W\)"):
        segmenter(torch.zeros(shape))


def test_dates_of_two_sizes_are_refused(detector):
    with pytest.raises(ArgumentsError, match="differ in shape"):
        detector(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 33))


@pytest.mark.parametrize(
    "wrong",
    [
        {"dims": (8, 16, 32)},
        {"dims": (8, 16, 32, 60)},
        {"depths": (1, 0, 1, 1)},
        {"depths": (1, 1, 1, 10**9)},
        {"ssm_dt_rank": 0},
        {"drop_path_rate": 1.0},
        {"ssm_ratio": 0.0},
        {"layer_norm_eps": 0.0},
        {"batch_norm_eps": "small"},
        {"dims": 5},
        {"in_chans": 0},
        {"num_classes": True},
        {"nonsense": 1},
    ],
)
def test_arguments_that_make_no_model_are_refused(wrong):
    with pytest.raises(ArgumentsError):
        create_model("rsm_ss_nano", **(SMALL | wrong))


@pytest.fixture(scope="module")
def scan():
    torch.manual_seed(0)
    return OmniScan(32, d_state=4, ratio=2.0, dt_rank=2)


class TestInitialisation:
    def test_decays_are_minus_one_to_minus_n(self, scan):
        assert torch.allclose(scan.A_log.exp(), torch.arange(1.0, 5.0).expand(8, 64, 4))

    def test_steps_lie_between_a_thousandth_and_a_tenth(self, scan):
        step = torch.nn.functional.softplus(scan.dt_bias)
        assert step.min() >= 0.99e-3
        assert step.max() <= 1.01e-1

    def test_projections_are_uniform(self, scan):
        assert scan.x_proj.abs().max() <= 64**-0.5
        assert scan.dt_proj.abs().max() <= 2**-0.5
        assert math.isclose(scan.x_proj.std().item(), 64**-0.5 / 3**0.5, rel_tol=0.05)

    def test_linear_layers_are_narrow(self):
        torch.manual_seed(0)
        mlp = create_model("rsm_ss_nano").encoder.stages[3][1].mlp
        assert math.isclose(mlp.fc1.weight.std().item(), 0.02, rel_tol=0.05)
        assert not mlp.fc1.bias.any()


def test_stochastic_depth_grows_linearly_over_the_blocks():
    model = create_model("rsm_ss_nano", **(SMALL | {"depths": (2, 1, 1, 1), "drop_path_rate": 0.4}))
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


class TestDropPath:
    def test_drops_whole_samples_and_keeps_the_mean(self):
        torch.manual_seed(0)
        y = DropPath(0.25).train()(torch.ones(4000, 3, 2))
        assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
        assert torch.equal(y.amin((1, 2)), y.amax((1, 2)))
        assert y.mean().item() == pytest.approx(1.0, abs=0.05)

    def test_is_the_identity_in_evaluation(self):
        x = torch.randn(3, 2)
        assert DropPath(0.9).eval()(x) is x
