"""CutMix and ClassMix: images and labels come from the same sample, pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_cli.datasets import open_dataset
from rsmamba_cli.errors import InputError
from rsmamba_cli.training.data import TrainSamples
from rsmamba_cli.training.mixing import classmix_mask, cutmix_mask, paste
from rsmamba_cli.training.recipe import AugmentPart, DataPart
from rsmamba_models import Transform


def test_cutmix_is_a_rectangle_of_every_size() -> None:
    areas = []
    for seed in range(400):
        mask = cutmix_mask(np.random.default_rng(seed), 32)
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        assert np.array_equal(mask, rows[:, None] & columns)
        areas.append(mask.mean())
    assert min(areas) < 0.02 and max(areas) > 0.7
    assert 0.2 < np.mean(areas) < 0.4  # 1/2 were nothing cut off at the border


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_classmix_takes_whole_classes_and_half_of_them(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, (8, 8))
    label[0] = 255
    mask = classmix_mask(rng, label)
    present = set(np.unique(label[1:]))
    taken = {k for k in present if mask[label == k].all()}
    assert np.array_equal(mask, np.isin(label, list(taken)))
    assert len(taken) == (len(present) + 1) // 2


def test_what_is_pasted_brings_all_its_planes() -> None:
    mask = np.array([[True, False]])
    a = ((np.zeros((3, 1, 2)), np.ones((1, 1, 2))), np.array([[[0, 0]], [[1, 1]]]))
    b = ((np.full((3, 1, 2), 7.0), np.full((1, 1, 2), 8.0)), np.array([[[5, 5]], [[6, 6]]]))
    (first, second), planes = paste(mask, a, b)
    assert first[0].tolist() == [[7, 0]] and second[0].tolist() == [[8, 1]]
    assert planes.tolist() == [[[5, 0]], [[6, 1]]]


def samples(root: Path, **options: object) -> TrainSamples:
    dataset = open_dataset("folder", root, task="segmentation")
    bands = len(dataset.inputs[0].bands)
    plain = Transform(
        offset=(0.0,) * bands, scale=(1.0,) * bands, mean=(0.0,) * bands, std=(1.0,) * bands
    )
    data = DataPart(dataset="folder", root=root, crop=32)
    return TrainSamples(dataset.split("train"), [plain], data, AugmentPart(**options), seed=1)


@pytest.mark.parametrize("mix", ["cutmix", "classmix"])
def test_mixed_samples_keep_image_and_label_together(landcover: Path, mix: str) -> None:
    plain, mixed = samples(landcover), samples(landcover, mix=mix, mix_probability=1)
    changed = 0
    for place in range(8):
        (image,), label, _ = mixed[(0, place, place % 4)]
        known = label != 255
        # The images of this dataset are 2000 times their class, and noise below 100.
        assert np.array_equal((image[0][known] // 2000).long(), label[known])
        changed += not np.array_equal(label, plain[(0, place, place % 4)][1])
    assert changed > 4


@pytest.mark.parametrize("mix", ["cutmix", "classmix"])
def test_mixing_follows_seed_epoch_and_place(landcover: Path, mix: str) -> None:
    drawn = samples(landcover, mix=mix, scale=(0.5, 2.0), max_class_share=0.75, noise=0.1)
    (a,), _, _ = drawn[(0, 3, 1)]
    assert np.array_equal(a, samples(landcover, **drawn.options.model_dump())[(0, 3, 1)][0][0])
    assert not any(np.array_equal(a, drawn[key][0][0]) for key in ((1, 3, 1), (0, 4, 1)))


def test_photometric_distortion_is_refused_for_anything_but_rgb(landcover: Path) -> None:
    with pytest.raises(InputError, match=r"5 bands of uint16.*augment\.brightness"):
        samples(landcover, photometric={})
