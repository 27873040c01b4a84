"""A checkpoint measured on a dataset: figures, pictures, refusals."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from miniatures import write_image

from rsmamba_cli.datasets import Sample, open_split
from rsmamba_cli.errors import CheckpointError, DatasetError
from rsmamba_cli.evaluation import evaluate, whole
from rsmamba_cli.evaluation.metrics import confusion_of, summarise
from rsmamba_cli.events import Warned
from rsmamba_cli.training import TrainConfig, train
from rsmamba_models import load_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, buildings: Path) -> Path:
    """A tiny model that has seen a little."""
    from rsmamba_cli.training.recipe_files import validate_config

    content = {
        "model": {"arguments": {"dims": [8, 16, 32, 64], "ssm_d_state": 2}},
        "data": {"dataset": "folder", "root": str(buildings), "crop": 64, "batch_size": 4},
        "optimiser": {"lr": 5e-3},
        "schedule": {"warmup_steps": 2},
        "loop": {"steps": 12, "epochs": None, "device": "cpu", "validate_every_epochs": None},
    }
    return train(
        validate_config(content, "test", TrainConfig), tmp_path_factory.mktemp("run") / "run"
    ).last


def test_figures_are_those_of_the_model_over_all_pixels(checkpoint: Path, buildings: Path) -> None:
    result = evaluate(checkpoint, "folder", buildings, "test", device="cpu")
    model, meta = load_checkpoint(checkpoint)
    confusion = np.zeros((2, 2), np.int64)
    split = open_split("folder", buildings, "test")
    for i in range(len(split)):
        image = torch.from_numpy(meta.inputs[0].transform.apply(split[i].images[0]))
        with torch.no_grad():
            guess = (model(image[None])[0, 0].sigmoid() >= 0.5).numpy()
        confusion += confusion_of(split[i].label, guess, 2, 255)
    assert np.array_equal(result.confusion, confusion)
    assert result.metrics["f1"] == pytest.approx(summarise(confusion, "ab")["f1"])
    assert (result.tiles, result.pixels) == (2, 2 * 64 * 64)


def test_the_batch_size_does_not_matter(checkpoint: Path, buildings: Path) -> None:
    first, second = (
        evaluate(checkpoint, "folder", buildings, "train", device="cpu", batch_size=size)
        for size in (1, 64)
    )
    assert np.abs(first.confusion - second.confusion).sum() <= 2


def test_the_validation_of_the_run_is_reproduced(checkpoint: Path, buildings: Path) -> None:
    _, meta = load_checkpoint(checkpoint)
    result = evaluate(checkpoint, "folder", buildings, "val", device="cpu")
    assert result.metrics["f1"] == pytest.approx(meta.metrics["val_f1"], abs=1e-6)


def test_predictions_are_saved_as_classes_and_painted(
    tmp_path: Path, checkpoint: Path, buildings: Path
) -> None:
    evaluate(checkpoint, "folder", buildings, "test", tmp_path / "out", device="cpu")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["tile_0.png", "tile_0_painted.png", "tile_1.png", "tile_1_painted.png"]
    with rasterio.open(tmp_path / "out/tile_0.png") as classes:
        assert set(np.unique(classes.read(1))) <= {0, 1}
    with rasterio.open(tmp_path / "out/tile_0_painted.png") as painted:
        assert painted.count == 3


def test_predictions_of_georeferenced_tiles_stay_in_their_place(
    tmp_path: Path, tiny_config, landcover: Path
) -> None:
    config = tiny_config(data={"root": str(landcover)}, loop={"steps": 1})
    model = train(config, tmp_path / "run").last
    result = evaluate(model, "folder", landcover, "val", tmp_path / "out", device="cpu")
    assert result.confusion.shape == (3, 3)
    assert result.pixels == 2 * (64 * 64 - 8 * 8)
    with (
        rasterio.open(landcover / "val/image/t0.tif") as image,
        rasterio.open(tmp_path / "out/t0.tif") as mask,
    ):
        assert (image.crs, image.transform) == (mask.crs, mask.transform)
        assert mask.nodata == 255


def test_large_tiles_run_in_windows(
    checkpoint: Path, buildings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = evaluate(checkpoint, "folder", buildings, "test", device="cpu")
    monkeypatch.setattr(whole, "WHOLE_LIMIT", 48)
    windows = evaluate(checkpoint, "folder", buildings, "test", device="cpu", tile=32)
    assert windows.pixels == plain.pixels
    assert not np.array_equal(windows.confusion, plain.confusion)


def test_windows_of_a_pixelwise_model_equal_one_pass() -> None:
    class Meta:
        overlap = 0.25

    def pixelwise(arrays: tuple[np.ndarray, ...], places: object = ()) -> np.ndarray:
        p = 1 / (1 + np.exp(-arrays[0][:, :1]))
        return np.concatenate([1 - p, p], axis=1)

    image = np.random.default_rng(0).normal(size=(2, 70, 45)).astype(np.float32)
    blended = whole.in_windows(pixelwise, (image,), 32, Meta())
    assert np.allclose(blended, pixelwise((image[None],))[0], atol=1e-6)


def test_class_names_that_differ_are_said(
    tmp_path: Path, checkpoint: Path, buildings: Path
) -> None:
    (tmp_path / "test").symlink_to(buildings / "test")
    (tmp_path / "classes.json").write_text('{"0": "ground", "255": "roof"}')
    said: list[str] = []
    result = evaluate(
        checkpoint,
        "folder",
        tmp_path,
        device="cpu",
        on_event=lambda e: said.append(e.message) if isinstance(e, Warned) else None,
    )
    assert "foreground as roof" in said[0] and said[0] in result.notes


def test_other_bands_or_types_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "test/image/a.tif", np.zeros((5, 40, 33), np.uint16))
    write_image(tmp_path / "test/label/a.png", np.eye(40, 33, dtype=np.uint8))
    with pytest.raises(CheckpointError, match=r"takes 3 bands .* the images have 5"):
        evaluate(checkpoint, "folder", tmp_path, device="cpu")
    with pytest.raises(CheckpointError, match="uint8 images; these are uint16"):
        evaluate(checkpoint, "folder", tmp_path, device="cpu", bands=(1, 2, 3))


def test_a_dataset_of_the_other_task_is_refused(checkpoint: Path, changes: Path) -> None:
    with pytest.raises(DatasetError, match="image,label"):
        evaluate(checkpoint, "folder", changes, device="cpu")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, buildings: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        evaluate(tmp_path / "x.safetensors", "folder", buildings)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        evaluate(tmp_path / "y.safetensors", "folder", buildings)


def test_undefined_figures_are_null_in_json(checkpoint: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "test/image/a.png", np.zeros((3, 40, 33), np.uint8))
    write_image(tmp_path / "test/label/a.png", np.zeros((40, 33), np.uint8))
    content = evaluate(checkpoint, "folder", tmp_path, device="cpu").to_json()
    assert content["metrics"]["recall"] in (None, 0.0)
    assert content["pixels"] == 40 * 33


def test_pixels_without_data_reach_the_model_as_zero() -> None:
    from rsmamba_models import Transform

    class Spec:
        transform = Transform.imagenet8()

    class Meta:
        inputs = (Spec(),)

    valid = np.ones((4, 4), bool)
    valid[0] = False
    image = np.full((3, 4, 4), 200, np.uint8)
    sample = Sample((image,), np.zeros((4, 4), np.int64), "x", valid)
    (array,) = whole.model_inputs(sample, Meta())
    assert not array[:, 0].any() and (array[:, 1:] > 0).all()
