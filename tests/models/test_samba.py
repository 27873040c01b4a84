"""Samba: its sizes, what a pixel sees, how it starts, its official keys."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from rsmamba_models import ArgumentsError, ImportFailedError, create_model, import_official
from rsmamba_models.decoders.fcn import FCNHead
from rsmamba_models.importers.samba import load_backbone, load_block
from rsmamba_models.importers.samba import official_key as official_encoder_key
from rsmamba_models.importers.segmentor import official_key
from rsmamba_models.ops import available_backends
from rsmamba_models.samba import Mamba, SambaBlock, SambaEncoder

SMALL = {
    "dims": (8, 12, 20),
    "depths": (1, 2, 1),
    "mlp_ratios": (2, 4, 3),
    "stem_channels": 6,
    "d_state": 5,
    "d_conv": 3,
    "expand": 1.5,
}


def counts(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("classes", "auxiliary", "parameters"),
    [(7, True, 52_602_478), (6, True, 52_601_708), (7, False, 51_862_887)],
)
def test_parameter_counts_are_the_official_ones(classes, auxiliary, parameters):
    with torch.device("meta"):
        overrides = {} if auxiliary else {"auxiliary": None}
        model = create_model("samba_upernet", num_classes=classes, **overrides)
    assert counts(model) == parameters
    assert counts(model.encoder) == 22_650_720


def test_parameter_counts_of_single_blocks():
    with torch.device("meta"):
        stages = SambaEncoder().stages
    assert [counts(stage[0]) for stage in stages] == [122_560, 427_392, 1_602_240, 3_060_288]


def test_nano_is_small():
    with torch.device("meta"):
        assert counts(create_model("samba_upernet_nano")) < 3_000_000


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 96), (5, 160)])
def test_maps_are_rounded_up_for_any_size(size):
    encoder = SambaEncoder(**SMALL).eval()
    maps = encoder(torch.randn(2, 3, *size))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, -(-size[0] // s), -(-size[1] // s))
        for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]


def test_the_mixer_sees_no_later_pixel():
    torch.manual_seed(0)
    mixer = Mamba(6, d_state=4, d_conv=4, expand=2, dt_rank=2)
    x = torch.randn(1, 3, 5, 6)
    changed = x.clone()
    changed[0, 1, 2] += 1.0  # time 7
    before, after = (mixer(t).flatten(1, 2) for t in (x, changed))
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] != after[:, 7:]).any(-1).all()


@pytest.fixture(scope="module")
def mamba():
    torch.manual_seed(0)
    return SambaEncoder(dims=(64, 128), depths=(1, 1), mlp_ratios=(4, 4))


class TestInitialisation:
    def test_first_steps_are_mambas(self, mamba):
        steps = F.softplus(mamba.stages[0][0].mixer.scan.dt_bias)
        assert 1e-4 <= steps.min() < 5e-3
        assert 2e-2 < steps.max() <= 0.1001

    def test_official_first_steps_are_near_one(self):
        encoder = SambaEncoder(**SMALL, initialisation="official")
        scan = encoder.stages[0][0].mixer.scan
        assert not scan.dt_bias.any()
        assert scan.dt_proj.std() < 0.05

    def test_projections(self, mamba):
        block = mamba.stages[1][0]
        for weight in (block.mixer.in_proj.weight, block.mixer.scan.x_proj, block.mlp.fc1.weight):
            assert weight.std().item() == pytest.approx(0.02, rel=0.05)

    def test_convolutions(self, mamba):
        down = mamba.embeds[1].conv
        assert down.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
        depth_wise = mamba.stages[1][0].mlp.dwconv
        assert depth_wise.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
        assert not down.bias.any()

    def test_decay_rates(self, mamba):
        a = mamba.stages[0][0].mixer.scan.A_log.exp()
        torch.testing.assert_close(a[0, 3], torch.arange(1.0, 65.0))


@pytest.mark.skipif(available_backends()["native"] != "", reason="needs the native kernel")
def test_no_tensor_holds_the_states(monkeypatch):
    """64 states a channel would be the largest tensor by far, were they ever all there."""
    monkeypatch.setenv("RSMAMBA_SCAN", "native")
    block = SambaBlock(16, 2, d_state=64, d_conv=4, expand=2, dt_rank=1)

    def largest(side):
        x = torch.randn(1, side, side, 16)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
            block(x).sum().backward()
        return max(event.cpu_memory_usage for event in run.events())

    states = 4 * 32 * 64 * 64 * 64  # bytes of (B, E, N, L) floats
    assert largest(64) < states / 4
    assert largest(64) < 4.5 * largest(32)


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"dims": ()}, "dims"),
        ({"depths": (1, 2)}, "one value a stage"),
        ({"mlp_ratios": (1, 2, -1)}, "mlp_ratios"),
        ({"expand": 0}, "expand"),
        ({"d_state": 0}, "d_state"),
        ({"d_conv": 2.0}, "d_conv"),
        ({"dt_rank": "many"}, "dt_rank"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps"),
        ({"initialisation": "zebra"}, "initialisation"),
    ],
)
def test_refused_arguments_are_named(wrong, names):
    with pytest.raises(ArgumentsError, match=names):
        SambaEncoder(**{**SMALL, **wrong})


def official(**changes):
    """A small model, and its official state dict."""
    torch.manual_seed(0)
    model = create_model(
        "samba_upernet",
        **{
            "in_chans": 5,
            "num_classes": 4,
            "encoder_arguments": SMALL,
            "decoder_arguments": {"channels": 10},
            "auxiliary": {"level": 2, "channels": 7, "convs": 2},
            **changes,
        },
    ).eval()
    state = {}
    for key, value in model.state_dict().items():
        value = value[0] if ".scan." in key else value
        state[official_key(key, "upernet", official_encoder_key)] = value
    return state, model


IMAGE = torch.randn(1, 5, 40, 33, generator=torch.Generator().manual_seed(0))


class TestImport:
    def test_shapes_tell_everything(self):
        state, model = official()
        found = import_official(state, "samba")
        assert found.arguments["in_chans"] == 5
        assert found.arguments["encoder_arguments"]["expand"] == 1.5
        assert isinstance(found.auxiliary, FCNHead)
        for ours, theirs in zip(
            model.training_forward(IMAGE).values(),
            found.training_forward(IMAGE).values(),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

    def test_without_auxiliary_head(self):
        state, model = official(auxiliary=None)
        found = import_official(state, "samba")
        assert found.auxiliary is None
        torch.testing.assert_close(found(IMAGE), model(IMAGE), rtol=0, atol=0)

    def test_a_fixed_rank_of_steps(self):
        state, _ = official(encoder_arguments={**SMALL, "dt_rank": 3})
        found = import_official(state, "samba")
        assert found.arguments["encoder_arguments"]["dt_rank"] == 3

    def test_the_model_makes_itself_again(self):
        found = import_official(official()[0], "samba")
        again = create_model(found.architecture, **found.arguments)
        again.load_state_dict(found.state_dict())

    def test_what_keys_cannot_tell(self):
        found = import_official(
            official()[0],
            "samba",
            layer_norm_eps=1e-6,
            batch_norm_eps=1e-3,
            drop_path_rate=0.2,
            dropout_ratio=0.0,
            pool_scales=[1, 2, 4, 8],
            mode="train",
        )
        assert found.training
        assert found.encoder.norms[0].eps == 1e-6
        assert found.encoder.embeds[0].convs[0].norm.eps == 1e-3
        assert found.decoder.fuse.norm.eps == found.auxiliary.convs[0].norm.eps == 1e-3
        assert found.encoder.stages[2][0].drop_path.rate == pytest.approx(0.2)
        assert found.decoder.dropout.p == found.auxiliary.dropout.p == 0.0
        assert found.decoder.pyramid_pooling.scales == (1, 2, 4, 8)

    @pytest.mark.parametrize(
        "terms",
        [
            {"num_classes": 4, "in_chans": 5, "embed_dims": [8, 12, 20], "depths": [1, 2, 1]},
            {"stem_hidden_dim": 6, "mlp_ratios": (2, 4, 3), "num_stages": 3, "d_state": 5},
            {"backbone": {"type": "Samba", "token_label": True, "num_classes": 1000}},
            {"decode_head": {"type": "UPerHead", "in_channels": [8, 12, 20], "channels": 10}},
            {"auxiliary_head": {"in_index": 2, "num_convs": 2, "norm_cfg": {"type": "SyncBN"}}},
            {"model": {"type": "EncoderDecoder", "decode_head": {"num_classes": 4}}},
        ],
    )
    def test_what_agrees_is_accepted(self, terms):
        import_official(official()[0], "samba", **terms)

    @pytest.mark.parametrize(
        ("terms", "names"),
        [
            ({"num_classes": 5}, "num_classes"),
            ({"embed_dims": [8, 12, 24]}, "embed_dims"),
            ({"zebra": 1}, "zebra"),
            ({"parameters": 3}, "parameters"),
            ({"pool_scales": [1, 2]}, "pool_scales"),
            ({"decode_head": {"align_corners": True}}, "align_corners"),
            ({"auxiliary_head": {"channels": 8}}, "channels"),
            ({"mode": "sleep"}, "mode"),
            ({"layer_norm_eps": 2.0}, "layer_norm_eps"),
        ],
    )
    def test_what_does_not_agree_is_refused(self, terms, names):
        with pytest.raises(ImportFailedError, match=names):
            import_official(official()[0], "samba", **terms)

    def test_an_auxiliary_head_that_is_not_there_is_refused(self):
        with pytest.raises(ImportFailedError, match="auxiliary"):
            import_official(official(auxiliary=None)[0], "samba", auxiliary_head={"channels": 7})

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda s: s.pop("backbone.block1.0.attn.mamba.D"),
            lambda s: s.pop("backbone.patch_embed1.conv.0.weight"),
            lambda s: s.pop("decode_head.conv_seg.weight"),
            lambda s: s.update({"backbone.block1.0.attn.zebra": torch.ones(1)}),
            lambda s: s.update({"backbone.block2.1.mlp.fc1.weight": torch.ones(3, 3)}),
            lambda s: s.update({"teacher.weight": torch.ones(1)}),
            lambda s: [s.pop(k) for k in list(s) if k.startswith("backbone.block2.")],
        ],
    )
    def test_a_spoilt_state_dict_is_refused(self, spoil):
        state = official()[0]
        spoil(state)
        with pytest.raises(ImportFailedError):
            import_official(state, "samba")

    def test_a_backbone_alone_is_sent_to_its_loader(self):
        state = {k: v for k, v in official()[0].items() if k.startswith("backbone.")}
        with pytest.raises(ImportFailedError, match="load_backbone"):
            import_official(state, "samba")

    @pytest.mark.parametrize("bare", [True, False])
    def test_load_backbone(self, bare):
        state, model = official()
        if bare:
            found = [k for k in state if k.startswith("backbone.")]
            state = {k.removeprefix("backbone."): state[k] for k in found}
        encoder = load_backbone(state)
        for ours, theirs in zip(model.encoder(IMAGE), encoder(IMAGE), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

    def test_load_block(self):
        state, model = official()
        prefix = "backbone.block2.1."
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        block = load_block(state, args={"dim": 12, "mlp_ratio": 4})
        x = torch.randn(2, 3, 5, 12)
        torch.testing.assert_close(block(x), model.encoder.stages[1][1](x), rtol=0, atol=0)
        with pytest.raises(ImportFailedError, match=re.escape("dim is 12")):
            load_block(state, dim=13)
