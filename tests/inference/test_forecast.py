"""Memory foretold without computing: storages are counted, families can be walked through."""

import pytest
import torch
from inference_models import Pixelwise, meta_of

from rsmamba_cli.bench.memory import measure_peak
from rsmamba_cli.inference.forecast import held_bytes
from rsmamba_cli.inference.predictor import Predictor
from rsmamba_models import create_model

CPU = torch.device("cpu")
KIB = (256,)  # of float32


def test_what_lives_together_is_added_up():
    def call(x):
        kept = [x + 1, x + 2]
        return kept[0] * kept[1]

    assert held_bytes(call, [KIB], CPU) == 4 * 1024


def test_what_is_gone_is_not_counted():
    def call(x):
        for _ in range(10):
            x = x + 1
        return x

    assert held_bytes(call, [KIB], CPU) == 3 * 1024  # the argument stays, two generations


def test_views_and_writing_in_place_take_nothing():
    assert held_bytes(lambda x: x.view(16, 16).t().add_(1), [KIB], CPU) == 1024


def test_nothing_is_computed():
    assert held_bytes(lambda x: x @ x, [(1 << 20, 1 << 20)], CPU) == 8 << 40


def test_the_numbers_of_a_model_stay_as_they_are():
    model = Pixelwise(3, 4)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    Predictor(model, meta_of(3, 4)).memory_forecast([3], (64, 64))
    for name, tensor in model.state_dict().items():
        assert type(tensor) is torch.Tensor
        assert torch.equal(tensor, before[name])


def test_a_model_works_after_it_was_walked_through():
    model = create_model("rsm_ss_nano").eval()
    predictor = Predictor(model, meta_of(3, 2))
    predictor.memory_forecast([3], (96, 64))
    with torch.inference_mode():
        assert type(model(torch.zeros(1, 3, 96, 64))) is torch.Tensor


def test_large_windows_follow_the_area():
    predictor = Predictor(Pixelwise(3, 4), meta_of(3, 4))
    small, large, larger = (predictor.memory_forecast([3], (n, 512)) for n in (512, 4608, 8704))
    assert larger - large == large - small > 0


FAMILIES = {
    "rsm_ss_nano": [3],
    "rsm_cd_nano": [3, 3],
    "samba_upernet_nano": [3],
    "seglstm_upernet_nano": [3],
    "segman_nano": [3],
    "mamba_diffusion_nano": [2, 1],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_walked_through(name):
    bands = FAMILIES[name]
    model = create_model(name, in_chans=bands if len(bands) != bands.count(3) else 3)
    classes = max(2, model.num_classes)
    predictor = Predictor(model, meta_of(3, classes, size_multiple=model.size_multiple))
    weights = sum(t.nbytes for t in model.state_dict().values())
    assert predictor.memory_forecast(bands, (64, 64)) > weights


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("rsm_ss_nano", 1024), ("samba_upernet_nano", 512)])
def test_the_forecast_is_what_a_pass_takes(name, side):
    model = create_model(name)
    predictor = Predictor(model, meta_of(3, 2, size_multiple=model.size_multiple))
    foretold = predictor.memory_forecast([3], (side, side))
    foretold -= sum(t.nbytes for t in model.state_dict().values())
    taken = measure_peak("model", {"model": name, "side": side}, "native", 1).bytes
    assert foretold == pytest.approx(taken, rel=0.25)
