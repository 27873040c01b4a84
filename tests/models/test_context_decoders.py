"""ANN, APCNet, DeepLabV3 and DeepLabV3+: any pyramid, levels, initialisation, refusals."""

import pytest
import torch

from rsmamba_models import ArgumentsError, create_model
from rsmamba_models.decoders.ann import ANN
from rsmamba_models.decoders.apcnet import APCNet
from rsmamba_models.decoders.deeplabv3 import DeepLabV3, DeepLabV3Plus

CHANNELS = (8, 12, 16, 24)
PYRAMIDS = {
    "pyramid": [(16, 24), (8, 12), (4, 6), (2, 3)],
    "rounded up": [(9, 7), (5, 4), (3, 2), (2, 1)],
    "one size": [(5, 6)] * 4,
    "a pixel": [(1, 1)] * 4,
}
FINEST_READ = {ANN: -1, APCNet: -1, DeepLabV3: -1, DeepLabV3Plus: 0}


def maps(sizes, batch=2):
    torch.manual_seed(0)
    return [torch.randn(batch, c, h, w) for c, (h, w) in zip(CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize("decoder", FINEST_READ)
@pytest.mark.parametrize("sizes", PYRAMIDS.values(), ids=PYRAMIDS)
def test_any_pyramid(decoder, sizes):
    model = decoder(CHANNELS, 5, channels=8)
    logits = model(maps(sizes))
    assert logits.shape == (2, 5, *sizes[FINEST_READ[decoder]])
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("decoder", FINEST_READ)
def test_one_pixel_trains_in_a_batch_of_one(decoder):
    logits = decoder(CHANNELS, 2, channels=4).train()(maps(PYRAMIDS["a pixel"], batch=1))
    assert logits.isfinite().all()


@pytest.mark.parametrize("encoder", ["rs_mamba_nano", "seglstm_nano"])
@pytest.mark.parametrize("decoder", ["ann", "apcnet", "deeplabv3", "deeplabv3plus"])
def test_with_different_encoders(encoder, decoder):
    arguments = {"channels": 8}
    model = create_model(f"{encoder}_{decoder}", num_classes=3, decoder_arguments=arguments).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 40, 33)).shape == (1, 3, 40, 33)


@pytest.mark.parametrize(
    ("decoder", "arguments", "read"),
    [
        (ANN, {"levels": (0, 2)}, {0, 2}),
        (APCNet, {"level": 1}, {1}),
        (DeepLabV3, {"level": 1}, {1}),
        (DeepLabV3Plus, {"level": 2, "low_level": 1}, {1, 2}),
    ],
)
def test_only_the_levels_named_are_read(decoder, arguments, read):
    torch.manual_seed(0)
    model = decoder(CHANNELS, 3, channels=8, **arguments).eval()
    for parameter in model.parameters():  # ANN's attention starts at zero
        torch.nn.init.normal_(parameter, std=0.2)
    pyramid = maps(PYRAMIDS["pyramid"])
    logits = model(pyramid)
    seen = {
        i
        for i in range(4)
        if not torch.equal(
            model([torch.randn_like(m) if i == j else m for j, m in enumerate(pyramid)]), logits
        )
    }
    assert seen == read


def test_at_first_anns_context_adds_nothing():
    torch.manual_seed(0)
    model = ANN(CHANNELS, 3, channels=8).eval()
    pyramid = maps(PYRAMIDS["pyramid"])
    others = [*pyramid[:2], torch.randn_like(pyramid[2]), pyramid[3]]
    torch.testing.assert_close(model(others), model(pyramid))


def test_at_first_apcnets_affinities_are_not_saturated():
    torch.manual_seed(0)
    model = APCNet((256,) * 4, 3, channels=256).eval()
    seen = []
    model.contexts[0].affinity.register_forward_hook(lambda m, args, out: seen.append(out))
    model([torch.randn(1, 256, 8, 8)] * 4)
    assert seen[0].abs().max() < 4


def test_deeplabs_dilated_branches_reach_as_far_as_they_say():
    model = DeepLabV3((1,), 1, channels=1, dilations=(3,)).eval()
    x = torch.zeros(1, 1, 11, 11)
    x[0, 0, 5, 5] = 1
    branch = model.aspp.branches[0]
    torch.nn.init.ones_(branch.conv.weight)
    rows, columns = branch(x)[0, 0].nonzero(as_tuple=True)
    assert {*rows.tolist()} == {*columns.tolist()} == {2, 5, 8}


@pytest.mark.parametrize(
    ("decoder", "arguments", "names"),
    [
        (ANN, {"levels": (1,)}, "levels"),
        (ANN, {"levels": (1, 4)}, "level 4"),
        (ANN, {"project_channels": 0}, "project_channels"),
        (APCNet, {"pool_scales": (1, 0)}, "pool_scales"),
        (APCNet, {"level": -5}, "level -5"),
        (DeepLabV3, {"dilations": ()}, "dilations"),
        (DeepLabV3Plus, {"low_level": 4}, "level 4"),
        (DeepLabV3Plus, {"low_channels": 1.5}, "low_channels"),
    ],
)
def test_refusals_name_the_argument(decoder, arguments, names):
    with pytest.raises(ArgumentsError, match=names):
        decoder(CHANNELS, 2, **arguments)
