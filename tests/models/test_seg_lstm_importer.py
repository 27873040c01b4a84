"""Seg-LSTM's importer: what it reads, what it takes from the configuration, what it refuses."""

import numpy as np
import pytest
import torch

from rsmamba_models import ImportFailedError, create_model, import_official
from rsmamba_models.importers.seg_lstm import (
    load_backbone,
    load_block,
    load_cell,
    official_part_key,
)
from rsmamba_models.importers.segmentor import official_key
from rsmamba_models.seg_lstm import VisionLSTM

ENCODER = {"dim": 16, "patch_size": 4, "depths": [2, 1, 3, 1], "grid_size": [4, 6]}
DECODERS = ["upernet", "ann", "apcnet", "deeplabv3", "deeplabv3plus"]


def model_of(decoder, **decoder_arguments):
    torch.manual_seed(0)
    return create_model(
        f"seglstm_{decoder}",
        in_chans=4,
        num_classes=3,
        encoder_arguments=ENCODER,
        decoder_arguments={"channels": 8, **decoder_arguments},
        auxiliary={"level": 2, "channels": 8, "convs": 2},
    ).eval()


def official_of(module, name):
    """The official state dict of a model or part of ours."""
    state = {}
    for key, value in module.state_dict().items():
        gain = "BatchNorm" not in type(module.get_submodule(key.rpartition(".")[0])).__name__
        if key.endswith("norm.weight") and gain:
            value = value - 1
        elif key.endswith("pos_embed.weight"):
            value = value.permute(0, 2, 3, 1)
        state[name(key)] = value.clone()
    prefix = "decode_head.context.stages.0."
    for key in [k for k in state if k.startswith(f"{prefix}query_project.")]:
        state[key.replace("query_project", "key_project")] = state[key].clone()
    return state


def official_model(decoder, **arguments):
    model = model_of(decoder, **arguments)
    return model, official_of(model, lambda key: official_key(key, decoder, official_part_key))


@pytest.mark.parametrize("decoder", DECODERS)
def test_sizes_are_read_off_the_keys(decoder):
    model, state = official_model(decoder)
    image = torch.randn(1, 4, 24, 40)
    torch.testing.assert_close(import_official(state, family="seg_lstm")(image), model(image))


@pytest.mark.parametrize(
    ("decoder", "arguments", "config"),
    [
        ("upernet", {"pool_scales": [1, 4]}, {"pool_scales": [1, 4]}),
        (
            "ann",
            {"levels": [0, 2], "pool_scales": [2]},
            {"in_index": (0, 2), "key_pool_scales": (2,)},
        ),
        ("apcnet", {"level": 1, "pool_scales": [1, 5]}, {"in_index": 1}),
        ("deeplabv3", {"level": 0, "dilations": [1, 2]}, {"in_index": 0, "dilations": (1, 2)}),
        ("deeplabv3plus", {"level": 2, "low_channels": 5}, {"in_index": 2}),
    ],
)
def test_what_keys_cannot_tell_comes_from_the_configuration(decoder, arguments, config):
    model, state = official_model(decoder, **arguments)
    again = import_official(state, family="seg_lstm", decode_head=config)
    image = torch.randn(1, 4, 24, 40)
    torch.testing.assert_close(again(image), model(image))


def test_epsilons_reach_every_norm():
    _, state = official_model("upernet")
    model = import_official(
        state, family="seg_lstm", layer_norm_eps=1e-3, batch_norm_eps=1e-2, drop_path_rate=0.1
    )
    eps = {type(m).__name__: m.eps for m in model.modules() if type(m).__name__.endswith("Norm2d")}
    assert eps == {"BatchNorm2d": 1e-2}
    assert {
        m.eps for m in model.modules() if type(m).__name__.endswith(("LayerNorm", "HeadNorm"))
    } == {1e-3}
    assert model.encoder.groups[0][0].drop_path.rate == pytest.approx(0.1)


@pytest.mark.parametrize(
    "config",
    [
        {"num_classes": 4},
        {"parameters": 12},
        {"dim": 32},
        {"depth1": (2, 1, 3, 2)},
        {"input_shape": (4, 16, 16)},
        {"patch_size": 8},
        {"alternation": "none"},
        {"zebra": 1},
        {"mode": "test"},
        {"model": {"neck": {"type": "FPN"}}},
        {"backbone": {"dim": 32}},
        {"decode_head": {"type": "ANNHead"}},
        {"decode_head": {"channels": 9}},
        {"decode_head": {"in_channels": [16, 16, 16]}},
        {"decode_head": {"in_index": 3}},
        {"decode_head": {"in_index": [0, 1, 2]}},
        {"decode_head": {"pool_scales": (1, 2, 3)}},
        {"decode_head": {"align_corners": True}},
        {"auxiliary_head": {"num_convs": 1}},
        {"auxiliary_head": {"in_index": 9}},
    ],
    ids=str,
)
def test_configurations_that_disagree_are_refused(config):
    _, state = official_model("upernet")
    with pytest.raises(ImportFailedError):
        import_official(state, family="seg_lstm", **config)


def test_anns_shared_projection_has_to_be_shared():
    _, state = official_model("ann")
    state["decode_head.context.stages.0.key_project.conv.weight"] += 1
    with pytest.raises(ImportFailedError, match="shares"):
        import_official(state, family="seg_lstm")


@pytest.mark.parametrize(
    "broken",
    [
        lambda state: state.pop("backbone.blocks3.1.layer.proj_down.weight"),
        lambda state: state.pop("backbone.pos_embed.embed"),
        lambda state: state.pop("decode_head.conv_seg.weight"),
        lambda state: state.update({"backbone.blocks2.7.norm.weight": torch.zeros(16)}),
        lambda state: state.update({"backbone.norm.weight": torch.zeros(16)}),
        lambda state: state.update(
            {"backbone.blocks1.0.layer.mlstm_cell.igate.weight": torch.zeros(8, 96)}
        ),
        lambda state: [state.pop(k) for k in list(state) if k.startswith("decode_head.")],
        lambda state: [state.pop(k) for k in list(state) if ".psp_modules." in k],
    ],
)
def test_state_dicts_that_do_not_fit_are_refused(broken):
    _, state = official_model("upernet")
    broken(state)
    with pytest.raises(ImportFailedError):
        import_official(state, family="seg_lstm")


def encoder():
    torch.manual_seed(0)
    return VisionLSTM(in_chans=4, **ENCODER).eval()


def test_a_classification_checkpoint_of_vision_lstm_is_cut_at_the_depths():
    ours = encoder()
    state, number = {}, {}
    for key, value in official_of(ours, official_part_key).items():
        if key.startswith("blocks"):
            group, block, rest = key.split(".", 2)
            index = number.setdefault((group, block), len(number))
            key = f"blocks.{index}.{rest}"
        state[key] = value.numpy()
    state |= {"norm.weight": np.zeros(16), "head.weight": np.zeros((10, 16))}
    image = torch.randn(1, 4, 16, 24)
    again = load_backbone(state, depth1=(2, 1, 3, 1))
    for left, right in zip(again(image), ours(image), strict=True):
        torch.testing.assert_close(left, right)


def test_depths_that_do_not_hold_all_blocks_are_refused():
    state = {f"blocks.{i}.norm.weight": torch.zeros(16) for i in range(25)}
    with pytest.raises(ImportFailedError, match="no place"):
        load_backbone(state)


def test_a_cell_loads_alone():
    layer = encoder().groups[0][0].layer
    state = official_of(layer, lambda key: official_part_key(f"layer.{key}"))
    cell = load_cell({k: v for k, v in state.items() if ".mlstm_cell." in k})
    q, k, v = torch.randn(3, 1, 7, 32)
    torch.testing.assert_close(cell(q, k, v), layer.cell(q, k, v))


def test_unknown_directions_are_refused():
    block = encoder().groups[0][0]
    state = official_of(block, official_part_key)
    assert load_block(state, direction="rowwise_from_bot_right").layer.reverse
    with pytest.raises(ImportFailedError, match="direction"):
        load_block(state, direction="colwise_from_top_left")
