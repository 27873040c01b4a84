"""Bad input: one message, status 1, nothing half-written."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def predict_refuses(refuses, checkpoint_factory, out):
    """Predict into an empty folder, which must stay empty; returns the message."""

    def run(scene, *words, model=None) -> str:
        model = model or checkpoint_factory("segmentation")
        message = refuses("predict", scene, "-m", model, "-o", out / "mask.tif", *words)
        assert list(out.iterdir()) == []
        return message

    return run


@pytest.fixture
def change_refuses(refuses, checkpoint_factory, out):
    def run(t1, t2) -> str:
        model = checkpoint_factory("change")
        message = refuses("change", t1, t2, "-m", model, "-o", out / "mask.tif")
        assert list(out.iterdir()) == []
        return message

    return run


def test_missing_scene(predict_refuses) -> None:
    assert "nowhere.tif" in predict_refuses("nowhere.tif")


def test_a_folder_is_no_scene(predict_refuses, tmp_path) -> None:
    assert "folder" in predict_refuses(tmp_path)


def test_not_a_raster(predict_refuses, tmp_path) -> None:
    (tmp_path / "text.tif").write_text("not a raster")
    assert "text.tif" in predict_refuses(tmp_path / "text.tif")


def test_wrong_band_count(predict_refuses, scene_factory) -> None:
    message = predict_refuses(scene_factory(bands=5))
    assert "5 bands" in message
    assert "3" in message


def test_a_band_that_is_not_there(predict_refuses, scene_factory) -> None:
    assert "no band 9" in predict_refuses(scene_factory(), "--bands", "1,2,9")


def test_truncated_scene(predict_refuses, scene_factory) -> None:
    scene = scene_factory(height=300, width=300, compress="deflate")
    content = scene.read_bytes()
    scene.write_bytes(content[: len(content) // 2])
    assert "scene.tif" in predict_refuses(scene)


def test_missing_checkpoint(predict_refuses, scene_factory) -> None:
    assert "none.safetensors" in predict_refuses(scene_factory(), model="none.safetensors")


def test_a_checkpoint_for_another_task(predict_refuses, scene_factory, checkpoint_factory) -> None:
    message = predict_refuses(scene_factory(), model=checkpoint_factory("change"))
    assert "rsmamba change" in message


def test_corrupt_weights(predict_refuses, scene_factory, checkpoint_factory, tmp_path) -> None:
    content = bytearray(checkpoint_factory("segmentation").read_bytes())
    content[-100] ^= 0xFF
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(content)
    assert "checksum" in predict_refuses(scene_factory(), model=broken)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5])
def test_truncated_checkpoint(
    predict_refuses, scene_factory, checkpoint_factory, tmp_path, share
) -> None:
    content = checkpoint_factory("segmentation").read_bytes()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(content[: int(share * len(content))])
    assert "broken.safetensors" in predict_refuses(scene_factory(), model=broken)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "os.system"},
        {"arguments": {"dims": [10**9, 1, 1, 1]}},
        {"format": 99},
        {"classes": []},
        {"surprise": 1},
    ],
)
def test_hostile_metadata(
    predict_refuses, scene_factory, checkpoint_factory, tmp_path, change
) -> None:
    content = checkpoint_factory("segmentation").read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    meta = json.loads(header["__metadata__"]["rsmamba"]) | change
    header["__metadata__"]["rsmamba"] = json.dumps(meta)
    text = json.dumps(header).encode()
    hostile = tmp_path / "hostile.safetensors"
    hostile.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    assert "hostile.safetensors" in predict_refuses(scene_factory(), model=hostile)


class _Bomb:
    """Pickled, it would make a file wherever it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


def test_a_pickle_is_never_loaded(predict_refuses, scene_factory, tmp_path) -> None:
    bomb = tmp_path / "bomb.safetensors"
    torch.save({"model": _Bomb()}, bomb)
    predict_refuses(scene_factory(), model=bomb)
    assert not Path("pwned").exists()


def test_importing_a_hostile_pickle_executes_nothing(refuses, tmp_path) -> None:
    bomb = tmp_path / "bomb.pth"
    torch.save({"model": _Bomb()}, bomb)
    refuses("checkpoint", "import", bomb, "--family", "rs_mamba", "-o", tmp_path / "x.safetensors")
    assert not Path("pwned").exists()
    assert not (tmp_path / "x.safetensors").exists()


def test_unwritable_output(refuses, scene_factory, checkpoint_factory, tmp_path) -> None:
    # Below a plain file nothing can be written, not even by the superuser.
    (tmp_path / "file").write_text("")
    model = checkpoint_factory("segmentation")
    target = tmp_path / "file" / "mask.tif"
    assert str(target) in refuses("predict", scene_factory(), "-m", model, "-o", target)


def test_unwritable_folder(refuses, scene_factory, checkpoint_factory, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    model = checkpoint_factory("segmentation")
    folder = tmp_path / "file" / "maps"
    assert str(folder) in refuses("predict", scene_factory(), "-m", model, "--out-dir", folder)


def test_output_that_is_the_input(refuses, scene_factory, checkpoint_factory) -> None:
    scene = scene_factory()
    before = scene.read_bytes()
    words = ("predict", scene, "-m", checkpoint_factory("segmentation"), "-o", scene)
    refuses(*words, "--overwrite")
    assert scene.read_bytes() == before


def test_an_unknown_polygon_format(predict_refuses, scene_factory) -> None:
    assert ".gpkg" in predict_refuses(scene_factory(), "--polygons", "p.doc")


def test_a_device_that_is_not_there(predict_refuses, scene_factory) -> None:
    if torch.cuda.is_available():
        pytest.skip("it is there")
    assert "cuda" in predict_refuses(scene_factory(), "--device", "cuda")


def test_a_mask_that_does_not_fit(predict_refuses, scene_factory) -> None:
    mask = scene_factory("mask.tif", values=np.ones((1, 10, 10), np.uint8), crs=None)
    assert "mask.tif" in predict_refuses(scene_factory(), "--mask", mask)


def test_a_box_beside_the_scene(predict_refuses, scene_factory) -> None:
    assert "bbox" in predict_refuses(scene_factory(), "--bbox", "0,0,10,10").lower()


def test_dates_that_do_not_overlap(change_refuses, scene_factory) -> None:
    t2 = scene_factory("t2.tif", origin=(700_000.0, 5_700_000.0))
    assert "overlap" in change_refuses(scene_factory("t1.tif"), t2)


def test_one_date_with_a_place_and_one_without(change_refuses, scene_factory) -> None:
    assert "georeference" in change_refuses(
        scene_factory("t1.tif"), scene_factory("t2.tif", crs=None)
    )


def test_plain_images_of_two_sizes(change_refuses, scene_factory) -> None:
    t2 = scene_factory("t2.tif", crs=None, height=40)
    change_refuses(scene_factory("t1.tif", crs=None), t2)
