"""SegMAN's parts against their definitions, and the whole at every size and precision."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rsmamba_models import ArgumentsError, create_model
from rsmamba_models.decoders.mmscope import MMSCopE
from rsmamba_models.layers import DropPath
from rsmamba_models.registry import get_encoder
from rsmamba_models.segman import SegMANEncoder
from rsmamba_models.segman.attention import GlobalAttention, RotaryPosition, rotate
from rsmamba_models.segmenter import create_encoder

SMALL = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 4)}
# Encoder, head of 150 classes, network of 19 classes; the official classes, counted.
PARAMETERS = {
    "tiny": (2_281_334, 4_115_926, 6_380_361),
    "small": (23_955_222, 5_469_414, 29_405_641),
    "base": (43_419_170, 8_383_650, 51_779_109),
    "large": (79_301_840, 13_033_894, 92_306_259),
    "large2": (79_294_700, 13_093_622, 92_358_847),
}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("segman_nano", in_chans=4, num_classes=3, encoder_arguments=SMALL).eval()


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters_are_the_official_ones(size):
    with torch.device("meta"):
        large = create_model(f"segman_{size}", num_classes=150)
        small = create_model(f"segman_{size}", num_classes=19)
    assert (count(large.encoder), count(large.decoder), count(small)) == PARAMETERS[size]


class TestSizes:
    @pytest.mark.parametrize("size", [(1, 1), (1, 130), (33, 64), (65, 90), (100, 71)])
    def test_any_image_has_logits_of_its_size(self, model, size):
        with torch.no_grad():
            logits = model(torch.randn(2, 4, *size))
        assert logits.shape == (2, 3, *size)
        assert logits.isfinite().all()

    @pytest.mark.parametrize(
        ("side", "wanted"),
        [(1, 224), (192, 224), (193, 224), (216, 224), (217, 217), (224, 224), (225, 256)],
    )
    def test_sides_that_the_official_network_takes_are_left_alone(self, side, wanted):
        with torch.device("meta"):
            assert create_encoder("segman_tiny").padded_side(side) == wanted

    def test_smaller_windows_do_with_smaller_images(self, model):
        assert [model.encoder.padded_side(n) for n in (1, 64, 65, 96, 97)] == [96, 96, 96, 96, 128]

    def test_others_are_padded_by_replication(self, model):
        x = torch.randn(1, 4, 40, 110)
        with torch.no_grad():
            padded = model(F.pad(x, (0, 18, 0, 56), mode="replicate"))
            assert torch.allclose(model(x), padded[..., :40, :110], atol=1e-5)

    @pytest.mark.parametrize("size", [(70, 100), (1, 1), (20, 200)])
    def test_the_encoder_alone_rounds_maps_up(self, model, size):
        with torch.no_grad():
            maps = model.encoder(torch.randn(1, 4, *size))
        for map_, stride in zip(maps, (4, 8, 16, 32), strict=True):
            assert map_.shape[-2:] == tuple(math.ceil(side / stride) for side in size)


class TestRotation:
    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 2**32 - 1))
    def test_products_depend_on_the_offset_alone(self, down, right, seed):
        generator = torch.Generator().manual_seed(seed)
        q, k = (torch.randn(12, generator=generator).expand(1, 40, 40, 1, 12) for _ in "qk")
        rotation = RotaryPosition(12)(40, 40, q.device)
        q, k = (rotate(t.double(), rotation)[0, :, :, 0] for t in (q, k))
        assert torch.allclose(q[3, 5] @ k[9, 1], q[3 + down, 5 + right] @ k[9 + down, 1 + right])

    def test_far_rows_differ_in_half_precision(self):
        x = torch.ones(1, 600, 1, 1, 8, dtype=torch.bfloat16)
        turned = rotate(x, RotaryPosition(8)(600, 1, x.device))[0, :, 0, 0]
        assert len(turned.float().unique(dim=0)) > 500


class LargestTensor(TorchDispatchMode):
    """The most elements of any tensor that an operator returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


class TestGlobalAttention:
    @pytest.mark.parametrize("size", [(7, 7), (8, 9), (10, 7), (23, 31)])
    @pytest.mark.parametrize("relative_bias", [True, False])
    def test_is_attention_with_a_resized_table(self, size, relative_bias):
        torch.manual_seed(0)
        mixer = GlobalAttention(24, 3, 7, relative_bias).double()
        if relative_bias:
            torch.nn.init.normal_(mixer.global_bias)
        x = torch.randn(2, *size, 24, dtype=torch.float64)
        rotation = RotaryPosition(8)(*size, x.device)
        q, k, v, lepe = mixer.attend(x, rotation)
        q, k, v = (t.flatten(2, 3) for t in (q, k, v))
        logits = q @ k.mT / 8**0.5
        if relative_bias:
            logits = logits + F.interpolate(
                mixer.global_bias[None], logits.shape[-2:], mode="bicubic", align_corners=False
            )
        a = (logits.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        assert torch.allclose(mixer(x, rotation), mixer.proj(a + lepe), atol=1e-5)

    def test_no_tensor_holds_all_pairs(self):
        mixer = GlobalAttention(8, 1, 3, table=(9, 9))
        x = torch.randn(1, 40, 40, 8)
        rotation = RotaryPosition(8)(40, 40, x.device)
        with LargestTensor() as seen:
            mixer(x, rotation).sum().backward()
        assert seen.largest < 1600 * 64 < 1600**2 / 20


def test_back_ends_agree_on_gradients(monkeypatch):
    torch.manual_seed(0)
    encoder = SegMANEncoder(**SMALL, windows=(7, 7, 5, 3)).double()
    for name, parameter in encoder.named_parameters():
        if name.endswith("_bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 3, 72, 96, dtype=torch.float64)
    gradients = {}
    for scan, attention in (("reference", "reference"), ("torch", "tiled")):
        monkeypatch.setenv("RSMAMBA_SCAN", scan)
        monkeypatch.setenv("RSMAMBA_NA", attention)
        encoder.zero_grad()
        sum(m.square().mean() for m in encoder(x)).backward()
        gradients[scan] = {n: p.grad.clone() for n, p in encoder.named_parameters()}
    for name, gradient in gradients["reference"].items():
        assert gradient.isfinite().all()
        assert torch.allclose(gradients["torch"][name], gradient, rtol=1e-6, atol=1e-10), name


class TestPrecisions:
    def test_autocast_stays_near_float32(self, model):
        x = torch.randn(1, 4, 96, 128)
        with torch.no_grad():
            exact = model(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rough = model(x)
        assert (rough.float() - exact).norm() < 0.05 * exact.norm()

    def test_weights_in_bfloat16(self, model):
        rough = create_model(**model_arguments(model)).bfloat16().eval()
        with torch.no_grad():
            assert rough(torch.randn(1, 4, 96, 96).bfloat16()).isfinite().all()


def model_arguments(model):
    return {"name": model.architecture, **model.arguments}


def test_export_and_back(model):
    x = torch.randn(1, 4, 96, 130)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        assert torch.allclose(program.module()(x), model(x), atol=1e-5)


@pytest.mark.slow
def test_compiles_in_one_graph(model):
    x = torch.randn(1, 4, 96, 128)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(x), model(x), atol=1e-4)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return SegMANEncoder(layer_scale=1e-6)


class TestInitialisation:
    def test_linear_layers_and_convolutions_are_narrow(self, encoder):
        for weight in (encoder.stem[9].weight, encoder.stages[3].blocks[0].mixer.qkv.weight):
            assert weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not encoder.stages[3].blocks[0].mixer.qkv.bias.any()

    def test_bias_tables_are_zero_and_branches_nearly_off(self, encoder):
        block = encoder.stages[3].blocks[1]
        assert not block.mixer.window_bias.any()
        assert not block.mixer.global_bias.any()
        assert (block.scale2.weight == 1e-6).all()

    def test_the_decoders_scan_block_is_pytorchs(self):
        torch.manual_seed(0)
        block = MMSCopE((32, 64, 144, 192), 2).block
        width = block.mlp.fc1.in_features
        assert block.mlp.fc1.weight.std().item() == pytest.approx((3 * width) ** -0.5, rel=0.02)


def test_stochastic_depth_of_base_is_a_quarter():
    assert get_encoder("segman_base").preset["drop_path_rate"] == 0.25
    encoder = SegMANEncoder(**(SMALL | {"depths": (2, 1, 1, 1)}), drop_path_rate=0.4)
    rates = [m.rate for m in encoder.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


class TestMMSCopE:
    @pytest.mark.parametrize(
        "sizes",
        [
            [(32, 24), (16, 12), (8, 6), (4, 3)],
            [(9, 7), (5, 4), (3, 2)],
            [(1, 1)] * 3,
            [(13, 6)] * 3,
        ],
        ids=["four levels", "rounded up", "a pixel", "one size"],
    )
    @pytest.mark.parametrize("batch", [1, 2])
    def test_on_any_pyramid(self, sizes, batch):
        widths = (8, 12, 16, 20)[-len(sizes) :]
        decoder = MMSCopE(widths, 5, channels=8, feat_proj_dim=6)
        maps = [torch.randn(batch, c, *s) for c, s in zip(widths, sizes, strict=True)]
        logits = decoder(maps)
        assert logits.shape == (batch, 5, *sizes[-3])
        logits.sum().backward()
        assert all(p.grad is not None for p in decoder.parameters())

    def test_the_finest_of_four_maps_is_not_read(self):
        decoder = MMSCopE((4, 4, 4, 4), 2, channels=4, feat_proj_dim=4).eval()
        maps = [torch.randn(1, 4, s, s) for s in (32, 16, 8, 4)]
        assert torch.equal(decoder(maps), decoder([maps[0] + 1, *maps[1:]]))

    def test_with_another_encoder(self):
        model = create_model("rs_mamba_nano_mmscope", num_classes=2).eval()
        with torch.no_grad():
            assert model(torch.randn(1, 3, 50, 70)).shape == (1, 2, 50, 70)

    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            ({"in_channels": (4, 4)}, "three maps"),
            ({"feat_proj_dim": 0}, "feat_proj_dim"),
            ({"channels": 0}, "channels"),
            ({"mlp_ratio": 0.0}, "mlp_ratio"),
            ({"dropout": 1.0}, "dropout"),
        ],
    )
    def test_refusals_name_the_argument(self, arguments, names):
        with pytest.raises(ArgumentsError, match=names):
            MMSCopE(**{"in_channels": (4, 4, 4), "num_classes": 2, **arguments})


class TestClassifier:
    @pytest.mark.parametrize("encoder", ["segman_nano", "rs_mamba_nano"])
    @pytest.mark.parametrize("size", [(1, 1), (70, 100)])
    def test_any_encoder_and_image(self, encoder, size):
        model = create_model(f"{encoder}_classifier", in_chans=2, num_classes=5).train()
        assert model.task == "classification"
        logits = model.training_forward(torch.randn(2, 2, *size))["logits"]
        assert logits.shape == (2, 5)
        logits.square().sum().backward()
        assert all(p.grad is not None for p in model.classifier.parameters())

    def test_counts_of_the_official_encoder_with_its_classifier(self):
        with torch.device("meta"):
            model = create_model("segman_tiny_classifier", num_classes=1000)
        head = 192 * 1024 + 1024 + 2 * 1024 + 1024 * 1000 + 1000
        assert count(model) == PARAMETERS["tiny"][0] + head

    def test_other_bands_are_refused(self):
        with pytest.raises(ArgumentsError, match="2 bands, the image has 3"):
            create_model("segman_nano_classifier", in_chans=2)(torch.zeros(1, 3, 96, 96))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dims": (8, 16, 24)}, "four stages"),
        ({"dims": (9, 16, 24, 32)}, "even"),
        ({"depths": (1, 1, 1, 0)}, "depths"),
        ({"depths": (1, 1, 1, 2000)}, "depths"),
        ({"heads": (1, 3, 2, 4)}, "multiple of 4"),
        ({"heads": (4, 2, 2, 4)}, "multiple of 4"),
        ({"windows": (11, 9, 8, 7)}, "odd"),
        ({"mlp_ratios": (4, 4, 3, 0.01)}, "mlp_ratios"),
        ({"table": (49,)}, "table"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"in_chans": 0}, "in_chans"),
    ],
)
def test_arguments_that_make_no_encoder_are_refused(wrong, message):
    with pytest.raises(ArgumentsError, match=message):
        SegMANEncoder(**(SMALL | wrong))
