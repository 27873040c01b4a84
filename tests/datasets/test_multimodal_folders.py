"""Optical and radar images in folders: their own bands and types, other folders, stacked files."""

import numpy as np
import pytest
from miniatures import write_image

from rsmamba_cli.datasets import check_dataset, open_dataset
from rsmamba_cli.errors import DatasetError


def label_of(seed, size=32, values=(0, 1)):
    return np.random.default_rng(seed).choice(values, (size, size)).astype(np.uint8)


def pair(seed, label):
    """An 8-bit optical image of four bands, and a radar image in float, NaN in a corner."""
    rng = np.random.default_rng(seed)
    optical = rng.integers(1, 250, (4, *label.shape)).astype(np.uint8)
    sar = (rng.gamma(2, 0.1, (1, *label.shape)) + label).astype(np.float32)
    sar[:, :4, :4] = np.nan
    return optical, sar


@pytest.fixture
def root(tmp_path):
    """{train,val}/{image,sar,label}, two tiles each."""
    for split in ("train", "val"):
        for i in range(2):
            label = label_of(i)
            optical, sar = pair(i, label)
            optical[:, 20:24, 20:24] = 0
            write_image(tmp_path / split / "image" / f"t{i}.tif", optical, photometric="MINISBLACK")
            write_image(tmp_path / split / "sar" / f"t{i}.tif", sar)
            write_image(tmp_path / split / "label" / f"t{i}.png", label)
    return tmp_path


def test_each_image_has_bands_and_a_type_of_its_own(root):
    dataset = open_dataset("folder", root)
    assert dataset.task == "multimodal"
    optical, sar = dataset.inputs
    assert (optical.name, len(optical.bands), optical.dtype) == ("optical", 4, "uint8")
    assert (sar.name, len(sar.bands), sar.dtype) == ("sar", 1, "float32")
    sample = dataset.split("train")[0]
    assert [image.shape for image in sample.images] == [(4, 32, 32), (1, 32, 32)]
    assert sample.images[1].dtype == np.float32


def test_what_either_lacks_is_not_labelled(root):
    plain = open_dataset("folder", root).split("train")[0]
    assert (plain.label[:4, :4] == 255).all()
    assert (plain.label == 255).sum() == 16
    both = open_dataset("folder", root, nodata=(0, None)).split("train")[0]
    assert (both.label[20:24, 20:24] == 255).all()
    assert (both.label == 255).sum() == 32
    assert not both.valid[20:24, 20:24].any()


def test_the_optical_image_alone_can_be_asked_for(root):
    dataset = open_dataset("folder", root, task="segmentation")
    assert [image.name for image in dataset.inputs] == ["image"]
    radar = open_dataset("folder", root, task="segmentation", roles=["sar"])
    assert radar.inputs[0].dtype == "float32"


def test_bands_of_each(root):
    dataset = open_dataset("folder", root, bands=[[3, 1], None])
    assert [len(image.bands) for image in dataset.inputs] == [2, 1]
    plain = open_dataset("folder", root).split("val")[1].images[0]
    np.testing.assert_array_equal(dataset.split("val")[1].images[0], plain[[2, 0]])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"bands": [[1], [2]]}, "has 1 bands"),
        ({"bands": [[1], [1], [1]]}, "for 3 images; a sample has 2"),
        ({"nodata": (0.0,)}, "data.nodata is given for 1 images"),
        ({"roles": ["image", "sar", "x"]}, "names 3 folder"),
        ({"roles": ["image", "sar"]}, "could be for multimodal or change: set data.task"),
        ({"roles": ["image", "zebra"], "task": "multimodal"}, "called image, zebra"),
        ({"roles": ["image", "image"], "task": "multimodal"}, "say which bands are whose"),
    ],
)
def test_what_does_not_fit_is_refused(root, how, message):
    with pytest.raises(DatasetError, match=message):
        open_dataset("folder", root, **how)


def test_a_fourth_band_called_alpha_can_be_asked_for(root):
    for path in (root / "train" / "image").iterdir():
        optical = pair(0, label_of(0))[0]
        optical[3, :8] = 0
        write_image(path, optical)
    dataset = open_dataset("folder", root, bands=[[4, 1], None])
    sample = dataset.split("train")[0]
    np.testing.assert_array_equal(sample.images[0], optical[[3, 0]])
    assert (sample.label == 255).sum() == 16


def test_images_of_two_sizes_are_refused(root):
    write_image(root / "train" / "sar" / "t0.tif", np.ones((1, 16, 16), np.float32))
    with pytest.raises(DatasetError, match=r"sar/t0.tif is 16 x 16 pixels, its label"):
        open_dataset("folder", root).split("train")[0]


@pytest.fixture
def floods(tmp_path):
    """As cd_ombria: two dates of optical and radar; 0 is no optical data, 255 no radar data."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for role, bands in (("t1", 3), ("t2", 3), ("sar_t1", 1), ("sar_t2", 1)):
            write_image(
                tmp_path / split / role / "a.png",
                rng.integers(1, 250, (bands, 32, 32)).astype(np.uint8),
            )
        write_image(tmp_path / split / "label" / "a.png", label_of(3, values=(0, 255)))
    return tmp_path


@pytest.mark.parametrize(
    ("task", "roles", "bands"),
    [
        ("change", ["sar_t1", "sar_t2"], [1, 1]),
        ("multimodal", ["t2", "sar_t2"], [3, 1]),
        ("segmentation", ["sar_t2"], [1]),
        ("change", None, [3, 3]),
        ("change", ["t1+sar_t1", "t2+sar_t2"], [4, 4]),
        ("multimodal", ["t1+t2", "sar_t2"], [6, 1]),
    ],
)
def test_any_of_several_folders_can_be_images(floods, task, roles, bands):
    dataset = open_dataset("folder", floods, task=task, roles=roles)
    assert [len(image.bands) for image in dataset.inputs] == bands
    assert [image.role for image in dataset.inputs] == (roles or ["t1", "t2"])
    assert dataset.split("test")[0].label.max() == 1
    assert check_dataset("folder", floods, task=task, roles=roles).ok


@pytest.mark.parametrize("step", [1, 10])
def test_stacked_files_of_a_known_dataset_are_split(tmp_path, step):
    for split in ("train", "val", "test"):
        label = (label_of(1, values=(0, 1, 4, 7)) * step).astype(np.uint8)
        stack = np.random.default_rng(2).integers(0, 255, (5, 32, 32)).astype(np.uint8)
        write_image(tmp_path / "cat" / split / "a.tif", stack)
        write_image(tmp_path / "label" / split / "a.tif", label)
    dataset = open_dataset("whu-opt-sar", tmp_path)
    assert [image.bands for image in dataset.inputs] == [("red", "green", "blue", "nir"), ("sar",)]
    sample = dataset.split("val")[0]
    np.testing.assert_array_equal(np.concatenate(sample.images), stack)
    wanted = np.where(label == 0, 255, label // step - 1)
    np.testing.assert_array_equal(sample.label, wanted)
    assert dataset.classes[3].name == "water"


def test_scenes_as_published_are_listed_by_split(tmp_path):
    for name in ("NH1", "NH2", "NH3"):
        label = label_of(1, values=(0, 10, 70))
        optical, sar = pair(1, label)
        for folder, array in (("optical", optical), ("sar", sar), ("lbl", label)):
            write_image(tmp_path / folder / f"{name}.tif", array)
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "train.txt").write_text("NH1.tif\nNH3.tif\n")
    (tmp_path / "list" / "test.txt").write_text("NH2.tif\n")
    dataset = open_dataset("whu-opt-sar", tmp_path)
    assert [len(dataset.split(s)) for s in dataset.splits] == [2, 1]
    sample = dataset.split("test")[0]
    assert sample.label.max() == 255
    # GDAL calls the fourth 8-bit band alpha.
    np.testing.assert_array_equal(sample.images[0], pair(1, label)[0])
    assert dataset.inputs[0].bands == ("red", "green", "blue", "nir")


def test_sentinel_bands_of_hunan_have_their_names(tmp_path):
    stack = np.random.default_rng(2).normal(size=(15, 16, 16)).astype(np.float32)
    for split in ("train", "val", "test"):
        write_image(tmp_path / "cat1" / split / "a.tif", stack)
        write_image(tmp_path / "lbl" / split / "a.tif", label_of(1, 16, (0, 1, 7)))
    optical, sar = open_dataset("hunan", tmp_path).inputs
    assert (optical.bands[8], len(optical.bands), sar.bands) == ("B8A", 13, ("VV", "VH"))


def test_a_class_file_names_the_bands_of_each(root):
    (root / "classes.json").write_text(
        '{"classes": ["dry", "wet"], "bands": [["blue", "green", "red", "nir"], ["vv"]]}'
    )
    optical, sar = open_dataset("folder", root).inputs
    assert (optical.bands, sar.bands) == (("blue", "green", "red", "nir"), ("vv",))


def test_folders_with_a_plus_are_stacked(floods):
    roles = ["t1+sar_t1", "t2+sar_t2"]
    dataset = open_dataset("folder", floods, roles=roles, task="change", nodata=(0, 255, 0, 255))
    first, second = dataset.inputs
    assert first.bands == ("red", "green", "blue", "b1") and first.dtype == "uint8"
    assert (second.name, second.role) == ("t2", "t2+sar_t2")
    alone = [
        open_dataset("folder", floods, roles=[r], task="segmentation") for r in ("t2", "sar_t2")
    ]
    parts = [one.split("train")[0].images[0] for one in alone]
    sample = dataset.split("train")[0]
    np.testing.assert_array_equal(sample.images[1], np.concatenate(parts))
    box = (4, 8, 16, 8)
    cut = dataset.split("train").read(0, box).images[1]
    np.testing.assert_array_equal(cut, sample.images[1][:, 4:20, 8:16])


def test_either_part_of_a_stack_can_lack_data(floods):
    sar = np.full((1, 32, 32), 100, np.uint8)
    sar[:, :5] = 255
    write_image(floods / "train" / "sar_t2" / "a.png", sar)
    optical = np.full((3, 32, 32), 100, np.uint8)
    optical[:, :, :3] = 0
    write_image(floods / "train" / "t1" / "a.png", optical)
    dataset = open_dataset(
        "folder",
        floods,
        roles=["t1+sar_t1", "t2+sar_t2"],
        task="change",
        nodata=(0, 255, 0, 255),
    )
    label = dataset.split("train")[0].label
    assert (label[:5] == 255).all() and (label[:, :3] == 255).all()
    assert (label[5:, 3:] != 255).all()


def test_parts_of_two_types_take_the_wider_one(root):
    dataset = open_dataset("folder", root, roles=["image+sar"], task="segmentation")
    sample = dataset.split("train")[0]
    assert sample.images[0].shape == (5, 32, 32) and sample.images[0].dtype == np.float32
    assert check_dataset("folder", root, roles=["image+sar"], task="segmentation").ok


def test_a_missing_part_is_named(floods):
    with pytest.raises(DatasetError, match=r"called t1\+sar, t2\+sar_t2"):
        open_dataset("folder", floods, roles=["t1+sar", "t2+sar_t2"], task="change")
    with pytest.raises(DatasetError, match=r"data.nodata is given for 2 images; a sample has 4"):
        roles = ["t1+sar_t1", "t2+sar_t2"]
        open_dataset("folder", floods, roles=roles, task="change", nodata=(0, 255))
