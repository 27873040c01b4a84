"""Seg-LSTM: sizes, taps, reading order, forms of the cell, precision, export, refusals."""

import pytest
import torch

from rsmamba_models import ArgumentsError, create_model
from rsmamba_models.layers import CausalConv1d
from rsmamba_models.seg_lstm import BlockDiagonal, VisionLSTM

PARAMETERS = {  # of the official code, with 7 and with 6 classes
    "upernet": (52_725_070, 52_724_300),
    "ann": (26_995_662, 26_994_892),
    "apcnet": (39_587_200, 39_586_430),
    "deeplabv3": (41_119_054, 41_118_284),
    "deeplabv3plus": (36_994_366, 36_993_596),
}


def small(**arguments):
    """A small encoder whose gates depend on the tokens."""
    torch.manual_seed(0)
    given = {"dim": 16, "patch_size": 4, "depths": (1, 1), "grid_size": (4, 4), **arguments}
    encoder = VisionLSTM(**given).eval()
    for name, parameter in encoder.named_parameters():
        if "gates" in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return encoder


def nano():
    torch.manual_seed(0)
    return create_model("seglstm_upernet_nano", num_classes=3)


@pytest.mark.parametrize("split", ["seglstm", "seglstm_44124"])
@pytest.mark.parametrize("decoder", PARAMETERS)
def test_official_parameters_to_the_last(split, decoder):
    counts = []
    for num_classes in (7, 6):
        with torch.device("meta"):
            model = create_model(f"{split}_{decoder}", num_classes=num_classes)
        counts.append(sum(p.numel() for p in model.parameters()))
    assert tuple(counts) == PARAMETERS[decoder]


def test_nano_is_for_laptops():
    assert sum(p.numel() for p in nano().parameters()) < 3_000_000


def test_splits_differ_in_where_the_maps_are_taken():
    even = small(depths=(2, 2, 2, 2))
    uneven = small(depths=(2, 2, 4))
    blocks = [block for group in even.groups for block in group]
    for ours, theirs in zip([b for g in uneven.groups for b in g], blocks, strict=True):
        ours.load_state_dict(theirs.state_dict())
    uneven.patch_embed.load_state_dict(even.patch_embed.state_dict())
    uneven.pos_embed.load_state_dict(even.pos_embed.state_dict())
    image = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(uneven(image), [m for i, m in enumerate(even(image)) if i != 2])


def test_directions_restart_in_every_group():
    encoder = small(depths=(3, 2))
    directions = [[block.layer.reverse for block in group] for group in encoder.groups]
    assert directions == [[False, True, False], [False, True]]


@pytest.mark.parametrize(("rows", "columns"), [(2, 8), (3, 5), (1, 9), (9, 1)])
def test_first_blocks_read_by_rows_whatever_the_shape(rows, columns):
    encoder = small()
    image = torch.randn(1, 3, 4 * rows, 4 * columns)
    r, c = rows // 2, columns // 2
    changed = image.clone()
    changed[:, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] += 1
    with torch.inference_mode():
        first, _ = encoder(image)
        first_changed, _ = encoder(changed)
    assert first.shape[-2:] == (rows, columns)
    differs = ((first - first_changed).abs().amax(1)[0] > 1e-6).flatten()
    place = r * columns + c
    assert not differs[:place].any()
    assert differs[place:].all()


def test_second_blocks_read_backwards():
    encoder = small(depths=(2,))
    tokens = torch.randn(1, 12, 16)
    changed = tokens.clone()
    changed[:, 5] = torch.randn(16)
    block = encoder.groups[0][1]
    differs = (block(tokens) - block(changed)).abs().amax(2)[0] > 1e-6
    assert differs[:6].all()
    assert not differs[6:].any()


def test_positional_embedding_keeps_its_shape_on_other_grids():
    encoder = small(grid_size=(4, 4))
    with torch.no_grad():
        encoder.pos_embed.weight.copy_(torch.linspace(-1, 1, 4)[:, None].expand(1, 16, 4, 4))
    added = encoder.pos_embed(torch.zeros(1, 16, 12, 7))
    torch.testing.assert_close(added, added[..., :1].expand_as(added))  # rows only
    assert (added.diff(dim=2) > -0.05).all()  # and still a ramp


def test_forms_of_the_cell_agree_on_a_long_image(monkeypatch):
    image = torch.randn(2, 3, 4 * 13, 4 * 20)
    results = {}
    for form in ("parallel", "chunkwise"):
        monkeypatch.setenv("RSMAMBA_MLSTM", form)
        encoder = small(depths=(2, 2))
        maps = encoder(image)
        sum(m.square().mean() for m in maps).backward()
        results[form] = [*maps, *(p.grad for p in encoder.parameters())]
    for ours, theirs in zip(*results.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_float64_works():
    encoder = small().double()
    assert all(m.dtype == torch.float64 for m in encoder(torch.randn(1, 3, 8, 12).double()))


def test_gates_stay_in_float32_under_autocast():
    encoder = small(depths=(2, 2))
    seen = []
    for block in (b for group in encoder.groups for b in group):
        block.layer.cell.gates.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    image = torch.randn(1, 3, 32, 32)
    exact = encoder(image)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(image)
    assert {*seen} == {torch.float32}
    for ours, theirs in zip(rough, exact, strict=True):
        assert (ours.float() - theirs).norm() < 0.03 * theirs.norm()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (37, 70)])
def test_any_size_trains_and_predicts(size):
    model = nano()
    outputs = model.training_forward(torch.randn(2, 3, *size))
    assert {k: v.shape for k, v in outputs.items()} == {
        "logits": (2, 3, *size),
        "auxiliary": (2, 3, *size),
    }
    sum(v.mean() for v in outputs.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_drop_path_is_constant_or_grows():
    for decay, wanted in ((False, [0.3, 0.3, 0.3]), (True, [0.0, 0.15, 0.3])):
        encoder = small(depths=(2, 1), drop_path_rate=0.3, drop_path_decay=decay)
        rates = [block.drop_path.rate for group in encoder.groups for block in group]
        assert rates == pytest.approx(wanted)


def test_export_gives_the_same_logits():
    model = nano().eval()
    image = torch.randn(1, 3, 64, 200)  # 200 tokens: the form made of plain operators
    exported = torch.export.export(model, (image,)).module()
    torch.testing.assert_close(exported(image), model(image))


def test_block_diagonal_is_what_its_name_says():
    layer = BlockDiagonal(24, 4)  # 6 blocks, which do not fill tiles of 8
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(layer(x), x @ torch.block_diag(*layer.weight).T)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("taps", "tokens"), [(4, 9), (4, 2), (1, 9)])
def test_causal_convolution_is_a_padded_depthwise_one(taps, tokens, training):
    torch.manual_seed(0)
    layer = CausalConv1d(6, taps)
    x = torch.randn(2, tokens, 12)[..., :6]  # half of a wider projection
    padded = torch.nn.functional.pad(x.mT, (taps - 1, 0))
    wanted = torch.nn.functional.conv1d(padded, layer.weight, layer.bias, groups=6).mT
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 15},
        {"dim": 0},
        {"patch_size": 2.5},
        {"depths": ()},
        {"depths": (1, 0)},
        {"grid_size": (4,)},
        {"drop_path_rate": 1.0},
        {"layer_norm_eps": 0.0},
    ],
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ArgumentsError):
        VisionLSTM(**wrong)
