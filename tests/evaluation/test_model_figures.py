"""What an evaluation of a model says beyond pixels, and what calibrating and comparing change."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from rsmamba_cli.datasets import open_split
from rsmamba_cli.errors import InputError, OutputError
from rsmamba_cli.evaluation import calibrate, compare, evaluate
from rsmamba_cli.evaluation.boundary import boundary_counts
from rsmamba_cli.evaluation.whole import decide, run_split
from rsmamba_cli.events import Progress
from rsmamba_models import load_checkpoint, read_meta, save_checkpoint


@pytest.fixture
def half(model: Path, tmp_path: Path) -> Path:
    """The same weights in float16, with another threshold."""
    network, meta = load_checkpoint(model)
    import torch

    changed = meta.model_copy(update={"threshold": 0.6, "temperature": 2.0})
    save_checkpoint(tmp_path / "half.safetensors", network, changed, torch.float16)
    return tmp_path / "half.safetensors"


def test_boundaries_and_intervals(model: Path, tiles: Path) -> None:
    result = evaluate(model, "folder", tiles, "test", device="cpu", pictures=2)
    network, meta = load_checkpoint(model)
    split = open_split("folder", tiles, "test")
    shared = np.zeros((2, 2), np.int64)
    for _, sample, found in run_split(network, meta, "cpu", split, range(4), 4):
        shared += boundary_counts(sample.label, decide(found, meta), 2)
    assert result.metrics["boundary_iou"] == pytest.approx(shared[0, 1] / shared[1, 1])
    assert result.units == 4 and set(result.intervals) == set(result.metrics)
    low, high = result.intervals["oa"]
    assert low <= result.metrics["oa"] <= high
    again = evaluate(model, "folder", tiles, "test", device="cpu")
    assert repr(again.intervals) == repr(result.intervals)


def test_scenes_are_the_units_where_named(model: Path, tiles: Path) -> None:
    result = evaluate(model, "folder", tiles, "test", device="cpu", scenes=r"^([a-z]+)_\d+$")
    assert (result.units, result.intervals) == (1, {})


def test_names_without_a_scene_are_refused_before_anything_runs(model: Path, tiles: Path) -> None:
    def never(event: object) -> None:
        assert not isinstance(event, Progress)

    for run in (evaluate, partial(compare, model)):
        with pytest.raises(InputError, match="finds nothing"):
            run(model, "folder", tiles, "test", device="cpu", scenes="^x", on_event=never)


def test_the_worst_tiles_are_painted_and_random_ones(model: Path, tiles: Path) -> None:
    result = evaluate(model, "folder", tiles, "test", device="cpu", pictures=2)
    wrong = [shown.wrong for shown in result.worst]
    assert len(wrong) == len(result.random) == 2 and wrong == sorted(wrong, reverse=True)
    assert result.worst[0].picture.shape[1] > 4 * 64


def test_a_calibrated_model_is_better_on_its_split_and_predicts_so(
    half: Path, tiles: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new.safetensors"
    found = calibrate(half, new, "folder", tiles, device="cpu")
    assert found.metrics["nll"][1] < found.metrics["nll"][0]
    assert found.metrics["f1"][1] >= found.metrics["f1"][0]
    before, after = (evaluate(f, "folder", tiles, "val", device="cpu") for f in (half, new))
    for name in ("nll", "f1", "ece", "iou"):
        pair = (before.metrics[name], after.metrics[name])
        assert found.metrics[name] == pytest.approx(pair, rel=1e-3, abs=1e-6), name
    meta = read_meta(new)
    assert meta.temperature == found.temperature[1] and meta.threshold == found.threshold[1]
    assert meta.training["calibration"]["split"] == "val"
    ours, theirs = load_file(half), load_file(new)
    assert all(ours[k].dtype == theirs[k].dtype and (ours[k] == theirs[k]).all() for k in ours)


def test_areas_agree_when_asked_for(model: Path, tiles: Path, tmp_path: Path) -> None:
    found = calibrate(model, tmp_path / "n.safetensors", "folder", tiles, "val", "area")
    assert abs(found.metrics["area_bias"][1]) < 0.02


def test_the_test_split_is_not_for_fitting(model: Path, tiles: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.safetensors"
    with pytest.raises(InputError, match="worthless"):
        calibrate(model, new, "folder", tiles, "test")
    calibrate(model, new, "folder", tiles, "test", allow_test=True, device="cpu")
    with pytest.raises(OutputError, match="exists"):
        calibrate(model, new, "folder", tiles, device="cpu")


def test_a_model_does_not_differ_from_itself(model: Path, tiles: Path) -> None:
    found = compare(model, model, "folder", tiles, "test", device="cpu")
    assert all(d.first == d.second and d.p == 1 for d in found.differences.values() if d.p == d.p)
    assert found.pixels_only == (0, 0) and found.pixels_p == 1


def test_a_difference_is_that_of_two_evaluations(model: Path, half: Path, tiles: Path) -> None:
    found = compare(model, half, "folder", tiles, "test", device="cpu")
    one, two = (evaluate(m, "folder", tiles, "test", device="cpu") for m in (model, half))
    for name, d in found.differences.items():
        assert (d.first, d.second) == pytest.approx(
            (one.metrics[name], two.metrics[name]), nan_ok=True
        ), name
    right = [np.trace(r.confusion) for r in (one, two)]
    assert found.pixels_only[0] - found.pixels_only[1] == right[0] - right[1] != 0
