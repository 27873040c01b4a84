"""Optical and radar through training, evaluation and prediction."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from miniatures import write_image
from torch import nn

from rsmamba_cli.datasets import open_dataset
from rsmamba_cli.errors import CheckpointError, InputError, ResumeError
from rsmamba_cli.evaluation import evaluate
from rsmamba_cli.inference import PredictOptions, change, predict
from rsmamba_cli.training import train
from rsmamba_cli.training.data import TrainSamples, measure_transform
from rsmamba_cli.training.recipe import AugmentPart, DataPart
from rsmamba_models import Transform, load_checkpoint
from rsmamba_models.zoo import Entry

SMALLEST = {"dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "ssm_d_state": 2}


@pytest.fixture(scope="session")
def floods(tmp_path_factory) -> Path:
    """Water is dark to the radar, in power, with NaN in a corner; the optical image is noise."""
    root = tmp_path_factory.mktemp("floods")
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for i in range(count):
            rng = np.random.default_rng(10 * count + i)
            water = np.kron(rng.integers(0, 2, (4, 4)), np.ones((16, 16))).astype(np.uint8)
            power = rng.gamma(4, 0.05, (1, 64, 64)) * np.where(water, 0.02, 1.0)
            power[:, :6, :6] = np.nan
            optical = rng.integers(1, 250, (3, 64, 64)).astype(np.uint8)
            for role, array in (
                ("image", optical),
                ("sar", power.astype(np.float32)),
                ("label", water),
            ):
                write_image(root / split / role / f"t{i}.tif", array, georeferenced=True)
    return root


@pytest.fixture
def flood_config(tiny_config, floods):
    def make(**changes):
        data = {"root": str(floods), "decibels": ["sar"], **changes.pop("data", {})}
        return tiny_config(data=data, **changes)

    return make


def test_radar_is_learnt_from_and_the_checkpoint_describes_both(
    tmp_path, flood_config, floods
) -> None:
    config = flood_config(
        loop={"steps": 60, "epochs": None, "validate_every_epochs": None},
        optimiser={"lr": 1e-2},
        data={"crop": 64, "batch_size": 4},
    )
    result = train(config, tmp_path / "run")
    assert result.last_metrics["f1"] > 0.85
    model, meta = load_checkpoint(result.last)
    assert (meta.task, model.in_chans) == ("multimodal", (3, 1))
    optical, sar = meta.inputs
    assert (optical.name, optical.transform) == ("optical", Transform.imagenet8())
    assert (sar.name, sar.dtype, sar.transform.db, sar.missing) == (
        "sar", "float32", True, "refuse",
    )  # fmt: skip
    assert -35 < sar.transform.mean[0] < -5
    found = evaluate(result.last, "folder", floods, "val", device="cpu")
    assert found.metrics["f1"] == pytest.approx(meta.metrics["val_f1"], abs=1e-6)
    # Windows, and the same tile as a scene with its radar image beside it.
    assert evaluate(result.last, "folder", floods, "val", device="cpu", tile=32).pixels > 0
    predict(
        floods / "val" / "image" / "t0.tif",
        tmp_path / "m.tif",
        PredictOptions(model=result.last, sar=floods / "val" / "sar" / "t0.tif", threads=1),
    )
    with (
        rasterio.open(tmp_path / "m.tif") as mask,
        rasterio.open(floods / "val" / "label" / "t0.tif") as truth,
    ):
        answer, water = mask.read(1), truth.read(1)
    assert (answer[:6, :6] == 255).all()
    known = answer != 255
    assert known.sum() == 64 * 64 - 36
    assert (answer == water)[known].mean() > 0.85


def test_a_run_with_other_roles_or_bands_is_not_gone_on_with(tmp_path, flood_config) -> None:
    train(flood_config(loop={"limit_steps": 1}), tmp_path / "run")
    for changed in ({"nodata": [0, None]}, {"bands": [[1, 2, 3], [1]]}, {"optional": ["sar"]}):
        with pytest.raises(ResumeError, match=f"data.{next(iter(changed))}"):
            train(flood_config(data=changed), tmp_path / "run", resume=True)


@pytest.fixture
def samples(floods):
    def make(optional=(), **options):
        dataset = open_dataset("folder", floods)
        data = DataPart(dataset="folder", root=floods, crop=64, optional=optional)
        plain = [
            Transform(offset=(0,) * n, scale=(1,) * n, mean=(-1,) * n, std=(1,) * n) for n in (3, 1)
        ]
        return TrainSamples(dataset.split("train"), plain, data, AugmentPart(**options), seed=0)

    return make


def test_modalities_are_never_exchanged(samples) -> None:
    drawn = samples(swap_dates=1.0)
    for place in range(8):
        images, _, _ = drawn[(0, place, place % 4)]
        assert [image.shape[0] for image in images] == [3, 1]


def test_an_optional_image_is_missing_now_and_then(samples) -> None:
    drawn = samples(optional=("sar",), drop_input=0.5)
    gone = [
        [bool((image == 0).all()) for image in drawn[(0, place, place % 4)][0]]
        for place in range(40)
    ]
    assert 8 < sum(sar for _, sar in gone) < 32
    assert not any(optical for optical, _ in gone)
    never = samples(drop_input=0.9)
    assert all((image != 0).any() for place in range(8) for image in never[(0, place, 0)][0])


def test_radar_can_keep_its_values(samples) -> None:
    changed, kept = samples(brightness=1.0), samples(brightness=1.0, sar_colors=0.0)
    plain = samples()
    for place in range(4):
        wanted = plain[(0, place, 0)][0]
        torch.testing.assert_close(kept[(0, place, 0)][0][1], wanted[1])
        assert not torch.allclose(kept[(0, place, 0)][0][0], wanted[0])
        assert not torch.allclose(changed[(0, place, 0)][0][1], wanted[1])


def test_statistics_are_of_decibels_and_of_valid_pixels(floods) -> None:
    split = open_dataset("folder", floods).split("train")
    values = [split[i].images[1][0][split[i].valid] for i in range(len(split))]
    wanted = 10 * np.log10(np.maximum(np.concatenate(values), 1e-10))
    found = measure_transform(split, (1,), decibels=True)
    assert found.db
    np.testing.assert_allclose(found.mean, wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.std, wanted.std(), rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"decibels": ["radar"]}}, "names radar.*optical, sar"),
        ({"data": {"optional": ["t1"]}}, "data.optional names t1"),
        ({"data": {"normalise": "unit", "decibels": []}}, "sar images of 1 band of float32"),
        (
            {"model": {"name": "rsm_cd_nano"}, "data": {"task": "multimodal"}},
            "rsm_cd_nano is a model for change.*for multimodal",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, flood_config, changes, message) -> None:
    with pytest.raises(InputError, match=message):
        train(flood_config(**changes), tmp_path / "run")


def test_a_model_that_may_lack_radar_predicts_without(tmp_path, flood_config, floods) -> None:
    result = train(
        flood_config(data={"optional": ["sar"]}, loop={"limit_steps": 1}), tmp_path / "run"
    )
    scene = floods / "val" / "image" / "t0.tif"
    found = predict(scene, tmp_path / "m.tif", PredictOptions(model=result.last, threads=1))
    assert found.details == {"missing": ["sar"]}


def test_two_dates_of_radar_are_learnt_by_their_folders(tmp_path, tiny_config, changes) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        for path in sorted((changes / split / "t1").iterdir()):
            for role in ("t1", "t2", "label"):
                with rasterio.open(changes / split / role / path.name) as source:
                    array = source.read()
                write_image(root / split / role / path.name, array)
                if role != "label":
                    write_image(root / split / f"sar_{role}" / path.name, array[:1])
    config = tiny_config(
        model={"name": "rsm_cd_nano"},
        data={"root": str(root), "roles": ["sar_t1", "sar_t2"], "nodata": 255},
    )
    result = train(config, tmp_path / "run")
    _, meta = load_checkpoint(result.last)
    assert [(i.name, len(i.bands), i.nodata) for i in meta.inputs] == [
        ("t1", 1, 255),
        ("t2", 1, 255),
    ]
    assert meta.training["roles"] == ["sar_t1", "sar_t2"]
    # The roles of the training are those of the evaluation.
    assert evaluate(result.last, "folder", root, "val", device="cpu").tiles == 2
    with pytest.raises(CheckpointError, match=r"takes 1 bands.*as t1; the images have 3"):
        evaluate(result.last, "folder", root, "val", device="cpu", roles=["t1", "t2"])


def test_dates_of_two_sensors_each_are_learnt_measured_and_mapped(tmp_path, tiny_config) -> None:
    data = tmp_path / "pairs"
    for split in ("train", "val"):
        for i in range(3):
            rng = np.random.default_rng(i)
            flooded = np.kron(rng.integers(0, 2, (4, 4)), np.ones((16, 16))).astype(np.uint8)
            for date in (1, 2):
                optical = rng.integers(1, 250, (3, 64, 64)).astype(np.uint8)
                radar = 120 - 100 * (flooded * (date == 2)) + rng.integers(0, 9, (1, 64, 64))
                place = data / split
                write_image(place / f"t{date}" / f"{i}.tif", optical, georeferenced=True)
                radar = radar.astype(np.uint8)
                radar[:, :3] = 255
                write_image(place / f"sar_t{date}" / f"{i}.tif", radar, georeferenced=True)
                both = np.concatenate([optical, radar])
                stack = tmp_path / f"{split}_{i}_{date}.tif"
                write_image(stack, both, georeferenced=True, photometric="MINISBLACK")
            write_image(place / "label" / f"{i}.tif", flooded, georeferenced=True)
    config = tiny_config(
        data={
            "root": str(data),
            "task": "change",
            "roles": ["t1+sar_t1", "t2+sar_t2"],
            "nodata": [0, 255, 0, 255],
            "crop": 64,
            "batch_size": 3,
        },
        model={"name": "rsm_cd_nano", "arguments": SMALLEST},
        optimiser={"lr": 1e-2},
        loop={"steps": 40, "epochs": None, "validate_every_epochs": None},
    )
    result = train(config, tmp_path / "run")
    assert result.last_metrics["f1"] > 0.8
    found = evaluate(result.last, "folder", data, "val", device="cpu")
    assert found.metrics["f1"] == pytest.approx(result.last_metrics["f1"], abs=1e-6)
    assert found.pixels == 3 * 61 * 64  # three rows of the radar lack data
    dates = [tmp_path / f"val_0_{date}.tif" for date in (1, 2)]
    change(*dates, tmp_path / "m.tif", PredictOptions(model=result.last, device="cpu"))
    with (
        rasterio.open(tmp_path / "m.tif") as mapped,
        rasterio.open(data / "val/label/0.tif") as truth,
    ):
        assert (mapped.read(1) == truth.read(1)).mean() > 0.9


def test_dates_that_differ_in_bands_are_refused(tmp_path, tiny_config, floods) -> None:
    config = tiny_config(
        model={"name": "rsm_cd_nano"},
        data={"root": str(floods), "task": "change", "roles": ["image", "sar"]},
    )
    with pytest.raises(InputError, match="two dates must be alike; they are 3 bands of uint8 and"):
        train(config, tmp_path / "run")


# a model that samples


class TinyDiffusion(nn.Module):
    """Learns a 1 x 1 convolution of both images; its training needs labels, its answers noise."""

    task = "multimodal"
    needs_target = True
    size_multiple = 1

    def __init__(self, *, architecture, in_chans, num_classes, sampler=None):
        super().__init__()
        self.architecture, self.num_classes = architecture, num_classes
        self.in_chans = tuple(in_chans)
        self.sampler = {"name": "ddim", "steps": 3, **(sampler or {})}
        self.arguments = {
            "in_chans": list(in_chans), "num_classes": num_classes, "sampler": self.sampler,
        }  # fmt: skip
        self.conv = nn.Conv2d(sum(in_chans), num_classes, 1)

    def noise_shape(self, batch, height, width):
        return (batch, 1, self.num_classes, height, width)

    def forward(self, optical, sar, noise=None):
        return self.conv(torch.cat([optical, sar], dim=1)) + noise[:, 0] / self.sampler["steps"]

    def training_forward(self, optical, sar, *, target, generator):
        assert target.shape == optical.shape[:1] + optical.shape[2:]
        logits = self.conv(torch.cat([optical, sar], dim=1))
        noise = torch.randn(logits.shape, generator=generator)
        return {"logits": logits + 0.1 * noise * (target != 255)[:, None]}


@pytest.fixture
def diffusion(monkeypatch):
    from rsmamba_models import registry

    module = types.ModuleType("rsmamba_models.tiny_diffusion")
    module.TinyDiffusion = TinyDiffusion
    monkeypatch.setitem(sys.modules, "rsmamba_models.tiny_diffusion", module)
    entry = Entry("tiny_diffusion", "tiny", "multimodal", "tiny_diffusion", "TinyDiffusion")
    monkeypatch.setitem(registry._ENTRIES, "tiny_diffusion", entry)
    return {"name": "tiny_diffusion", "arguments": {}}


def test_a_diffusion_model_is_trained_measured_and_sampled(
    tmp_path, flood_config, floods, diffusion
) -> None:
    config = flood_config(
        model=diffusion,
        loop={"steps": 30, "epochs": None, "validate_every_epochs": None},
        optimiser={"lr": 5e-2},
    )
    result = train(config, tmp_path / "run")
    _, meta = load_checkpoint(result.last)
    assert meta.sampler == {"name": "ddim", "steps": 3}
    first, again = (
        evaluate(result.last, "folder", floods, "test", device="cpu", batch_size=size)
        for size in (1, 8)
    )
    np.testing.assert_array_equal(first.confusion, again.confusion)
    scene, sar = (floods / "test" / role / "t0.tif" for role in ("image", "sar"))
    masks = []
    for name, options in (("a", {}), ("b", {"seed": 0}), ("c", {"seed": 7, "steps": 1})):
        output = tmp_path / f"{name}.tif"
        predict(scene, output, PredictOptions(model=result.last, sar=sar, threads=1, **options))
        with rasterio.open(output) as dataset:
            masks.append(dataset.read(1))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_a_resumed_run_draws_the_same_noise(tmp_path, flood_config, diffusion) -> None:
    whole = train(flood_config(model=diffusion), tmp_path / "whole")
    train(flood_config(model=diffusion, loop={"limit_steps": 1}), tmp_path / "parts")
    parts = train(flood_config(model=diffusion), tmp_path / "parts", resume=True)
    a, b = (load_checkpoint(result.last)[0].state_dict() for result in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)
