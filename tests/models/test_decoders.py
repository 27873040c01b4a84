"""UPerNet and the fully convolutional head: shapes, levels, initialisation, refusals."""

import pytest
import torch

from rsmamba_models import ArgumentsError
from rsmamba_models.decoders.fcn import FCNHead
from rsmamba_models.decoders.upernet import UPerNet

CHANNELS = (8, 12, 16, 24)


def maps(sizes, batch=2):
    torch.manual_seed(0)
    return [torch.randn(batch, c, h, w) for c, (h, w) in zip(CHANNELS, sizes, strict=False)]


PYRAMIDS = {
    "pyramid": [(16, 24), (8, 12), (4, 6), (2, 3)],
    "rounded up": [(9, 7), (5, 4), (3, 2), (2, 1)],
    "one size": [(5, 6)] * 4,
    "a pixel": [(1, 1)] * 4,
    "two levels": [(8, 8), (4, 4)],
    "one level": [(3, 5)],
}


@pytest.mark.parametrize("sizes", PYRAMIDS.values(), ids=PYRAMIDS)
def test_upernet_on_any_pyramid(sizes):
    channels = CHANNELS[: len(sizes)]
    decoder = UPerNet(channels, 5, channels=8)
    logits = decoder(maps(sizes))
    assert logits.shape == (2, 5, *sizes[0])
    logits.sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_upernet_counts_the_official_parameters():
    with torch.device("meta"):
        decoder = UPerNet((64, 128, 320, 448), 7)
        auxiliary = FCNHead((64, 128, 320, 448), 7)
    assert sum(p.numel() for p in decoder.parameters()) == 29_212_167
    assert sum(p.numel() for p in auxiliary.parameters()) == 739_591


@pytest.mark.parametrize("level", [0, 1, 2, 3, -1])
def test_fcn_reads_one_level(level):
    pyramid = maps(PYRAMIDS["pyramid"])
    decoder = FCNHead(CHANNELS, 3, level=level, channels=8, convs=2).eval()
    logits = decoder(pyramid)
    assert logits.shape == (2, 3, *pyramid[level].shape[-2:])
    others = [m if m is pyramid[level] else m + 1 for m in pyramid]
    assert torch.equal(decoder(others), logits)


@pytest.mark.parametrize("decoder", [UPerNet, FCNHead])
def test_one_pixel_trains_in_a_batch_of_one(decoder):
    logits = decoder(CHANNELS, 2, channels=4).train()(maps(PYRAMIDS["a pixel"], batch=1))
    assert logits.isfinite().all()


def test_single_values_leave_the_running_statistics_alone():
    decoder = UPerNet(CHANNELS, 2, channels=4).train()
    norm = decoder.pyramid_pooling.branches[0].norm  # its map is 1x1
    decoder(maps(PYRAMIDS["pyramid"], batch=1))
    assert not norm.running_mean.any()
    decoder(maps(PYRAMIDS["pyramid"], batch=2))
    assert norm.running_mean.any()


def test_initialisation_is_that_of_mmsegmentation():
    torch.manual_seed(0)
    decoder = UPerNet((64, 128), 40, channels=256)
    fuse = decoder.fuse.conv.weight
    assert fuse.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert decoder.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not decoder.classifier.bias.any()


@pytest.mark.parametrize(
    ("decoder", "arguments", "names"),
    [
        (UPerNet, {"channels": 0}, "channels"),
        (UPerNet, {"channels": 2.5}, "channels"),
        (UPerNet, {"pool_scales": ()}, "pool_scales"),
        (UPerNet, {"pool_scales": (1, 0)}, "pool_scales"),
        (UPerNet, {"dropout": 1.0}, "dropout"),
        (UPerNet, {"batch_norm_eps": 0.0}, "batch_norm_eps"),
        (FCNHead, {"level": 4}, "level 4"),
        (FCNHead, {"level": -5}, "level -5"),
        (FCNHead, {"convs": 0}, "convs"),
        (FCNHead, {"num_classes": 0}, "num_classes"),
    ],
)
def test_refusals_name_the_argument(decoder, arguments, names):
    with pytest.raises(ArgumentsError, match=names):
        decoder(**{"in_channels": CHANNELS, "num_classes": 2, **arguments})
