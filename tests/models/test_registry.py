"""Architectures by name."""

import subprocess
import sys

import pytest

from rsmamba_models import UnknownModelError, create_model, list_models, model_info

SIZES = ("nano", "tiny", "small", "base")


def test_the_eight_models_are_listed():
    assert set(list_models("rsm_*")) == {f"rsm_{t}_{s}" for t in ("ss", "cd") for s in SIZES}


@pytest.mark.parametrize(("pattern", "count"), [("nano", 2), ("rsm_cd_*", 4), ("zebra", 0)])
def test_patterns(pattern, count):
    assert len([n for n in list_models(pattern) if n.startswith("rsm")]) == count


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("rsm_ss_tiny", 50_379_057),
        ("rsm_cd_tiny", 51_948_657),
        ("rsm_ss_small", 98_604_081),
        ("rsm_cd_small", 100_173_681),
        ("rsm_ss_base", 170_670_689),
        ("rsm_cd_base", 173_459_809),
    ],
)
def test_parameter_counts_are_the_official_ones(name, parameters):
    assert model_info(name)["parameters"] == parameters


@pytest.mark.parametrize("name", ["rsm_ss_nano", "rsm_cd_nano"])
def test_nano_fits_a_small_float16_file(name):
    assert model_info(name)["parameters"] * 2 < 2_700_000


def test_a_model_says_how_to_make_it_again():
    model = create_model("rsm_cd_nano", in_chans=4, num_classes=5, drop_path_rate=0.3)
    again = create_model(model.architecture, **model.arguments)
    assert again.arguments == model.arguments
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "task"), [("rsm_ss_nano", "segmentation"), ("rsm_cd_nano", "change")]
)
def test_a_model_describes_itself(name, task):
    model = create_model(name, in_chans=4, num_classes=2)
    assert (model.architecture, model.task, model.size_multiple) == (name, task, 32)
    assert (model.in_chans, model.num_classes) == (4, 2)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownModelError, match="did you mean rsm_ss_tiny"):
        create_model("rsm_ss_tinny")


def test_importing_the_package_imports_no_torch():
    code = "import sys, rsmamba_models; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "models"}).returncode == 0
    )
