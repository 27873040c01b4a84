"""Sizes, windows and resizes of official protocols."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from rsmamba_cli.datasets import Sample
from rsmamba_cli.errors import InputError
from rsmamba_cli.evaluation import whole
from rsmamba_cli.evaluation.protocols import (
    PROTOCOLS,
    protocol_of,
    resize_probability,
    resize_sample,
)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("loveda", (1024, 1024), [(1024, 1024)]),
        ("whu-opt-sar-512", (256, 256), [(512, 512)]),
        ("ade20k", (512, 683), [(512, 683), (512, 704)]),
        ("ade20k", (300, 2000), [(307, 2048), (320, 2048)]),
        ("coco-stuff", (640, 480), [(683, 512), (704, 512)]),
        ("cityscapes", (1024, 2048), []),
    ],
)
def test_sizes(name: str, size: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert PROTOCOLS[name].sizes(*size) == expected


def test_datasets_have_a_protocol_of_their_own() -> None:
    assert protocol_of("loveda").split == "val"
    assert protocol_of("folder").name == "whole"
    assert protocol_of("folder", "isprs-five").means_without == ("clutter",)
    with pytest.raises(InputError, match="no protocol called 'x'"):
        protocol_of("folder", "x")


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_are_resized_as_logits_are(classes: int) -> None:
    logits = torch.randn(1, classes, 7, 9, generator=torch.Generator().manual_seed(0)) * 4
    expected = functional.interpolate(logits, size=(20, 13), mode="bilinear").softmax(1)[0]
    found = resize_probability(logits.softmax(1)[0].numpy(), (20, 13))
    assert np.allclose(found, expected.numpy(), atol=1e-5)


def test_images_are_rounded_and_labels_stay() -> None:
    image = np.array([[[0, 100], [200, 255]]], np.uint8)
    valid = np.array([[True, False], [True, True]])
    sample = Sample((image,), np.zeros((2, 2), np.int64), "x", valid)
    out = resize_sample(sample, (4, 4))
    assert out.images[0].dtype == np.uint8
    assert out.images[0][0, 0].tolist() == [0, 25, 75, 100]
    assert out.label.shape == (2, 2)
    assert out.valid is not None and out.valid[0].tolist() == [True, True, False, False]


def test_windows_average_logits_as_mmsegmentation_does() -> None:
    """Every window adds its own offset to the logits, so that they do not agree."""

    class Meta:
        overlap = 0.25

    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 20, 26, generator=generator)

    def logits_of(part: torch.Tensor) -> torch.Tensor:
        return part * 2 + part.mean((1, 2), keepdim=True) * 9

    total, count = torch.zeros(3, 20, 26), torch.zeros(20, 26)
    for top in (0, 8):
        for left in (0, 8, 14):
            place = (slice(top, top + 12), slice(left, left + 12))
            total[:, *place] += logits_of(image[:, *place])
            count[place] += 1
    expected = (total / count).softmax(0).numpy()

    def forward(arrays: tuple[np.ndarray, ...], places: object = ()) -> np.ndarray:
        return logits_of(torch.from_numpy(arrays[0][0])).softmax(0)[None].numpy()

    found = whole.in_windows(forward, (image.numpy(),), 12, Meta(), stride=8)
    assert np.allclose(found, expected, atol=1e-5)
