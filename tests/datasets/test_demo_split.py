"""The generated dataset as the training sees it."""

import numpy as np
import pytest

from rsmamba_cli.datasets import open_dataset
from rsmamba_cli.errors import DatasetError

SMALL = {"scenes": 3, "held_out": 2, "size": 64}


def test_change_samples_have_two_dates() -> None:
    sample = open_dataset("demo", task="change", options=SMALL).split("train")[0]
    assert [i.shape for i in sample.images] == [(3, 64, 64)] * 2
    assert set(np.unique(sample.label)) <= {0, 1}


def test_a_scene_is_the_same_each_time_and_no_split_shares_it() -> None:
    first, again = (open_dataset("demo", options=SMALL).split("train")[1] for _ in range(2))
    assert np.array_equal(first.images[0], again.images[0])
    other = open_dataset("demo", options=SMALL).split("val")[1]
    assert not np.array_equal(first.images[0], other.images[0])


def test_a_part_is_what_the_whole_holds_there() -> None:
    split = open_dataset("demo", options=SMALL).split("test")
    part = split.read(0, (8, 16, 32, 24))
    assert np.array_equal(part.images[0], split[0].images[0][:, 8:40, 16:40])
    assert np.array_equal(part.label, split[0].label[8:40, 16:40])


def test_fresh_scenes_differ_by_epoch_in_training_only() -> None:
    dataset = open_dataset("demo", options={**SMALL, "fresh": True})
    for name, same in (("train", False), ("val", True)):
        split = dataset.split(name)
        pair = [split.read(0, None, epoch).images[0] for epoch in (0, 1)]
        assert np.array_equal(*pair) is same


def test_nonsense_options_are_refused() -> None:
    with pytest.raises(DatasetError, match="above 0"):
        open_dataset("demo", options={"scenes": 0})
