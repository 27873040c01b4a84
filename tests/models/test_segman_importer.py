"""SegMAN's official state dicts: every part they come in, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from rsmamba_cli.app import app
from rsmamba_cli.pretraining import evaluate_classifier
from rsmamba_models import ImportFailedError, create_model, import_official
from rsmamba_models.importers.segman import (
    decoder_key,
    encoder_key,
    load_decoder,
    load_encoder,
    load_layer,
)
from rsmamba_models.importers.segman_shapes import check_encoder, encoder_arguments, size_of
from rsmamba_models.segman import SegMANEncoder
from rsmamba_models.segman.attention import RotaryPosition
from rsmamba_models.segmenter import create_encoder

SMALL = {
    "dims": [8, 16, 24, 32],
    "depths": [1, 2, 1, 1],
    "heads": [1, 2, 2, 4],
    "windows": [7, 7, 5, 3],
    "mlp_ratios": [4.0, 3.4, 3.0, 3.0],
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEAD = {"channels": 8, "feat_proj_dim": 6}
LINEAR = ("qkv", "proj", "fc1", "fc2")


def official_tensor(key, value):
    """A tensor of ours in its official shape."""
    *_, layer, leaf = ["", *key.split(".")]
    if leaf in ("x_proj", "A_log", "D"):
        value = value.flatten(0, 1)
        return value[..., None] if leaf == "x_proj" else value
    if (layer in LINEAR and leaf == "weight") or key.startswith("classifier.weight"):
        return value[:, :, None, None] if value.dim() == 2 else value
    if layer.startswith("scale") and leaf == "weight":
        return value[:, None, None, None]
    return value


def official(module, name, prefix=""):
    return {prefix + name(k): official_tensor(k, v) for k, v in module.state_dict().items()}


def angles(encoder, prefix=""):
    return {
        f"{prefix}layers.{2 * i}.rope.angle": stage.rotary.angles()
        for i, stage in enumerate(encoder.stages)
    }


def small_model(**changes):
    torch.manual_seed(0)
    model = create_model(
        "segman_tiny",
        in_chans=4,
        num_classes=6,
        encoder_arguments=SMALL | changes,
        decoder_arguments=HEAD,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.eval()


def official_state(model):
    return (
        official(model.encoder, encoder_key, "backbone.")
        | angles(model.encoder, "backbone.")
        | official(model.decoder, decoder_key, "decode_head.")
    )


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def state(model):
    return official_state(model)


@pytest.fixture(scope="module")
def encoder_state(model):
    return official(model.encoder, encoder_key) | angles(model.encoder)


def same_weights(a, b):
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in a.state_dict().items())


class TestSegmentation:
    def test_every_weight_bands_and_classes(self, state, model):
        found = import_official(state, "segman")
        assert same_weights(found, model)
        assert (found.in_chans, found.num_classes, found.training) == (4, 6, False)
        x = torch.randn(1, 4, 96, 64)
        with torch.no_grad():
            assert torch.equal(found(x), model(x))

    def test_the_arguments_make_the_model_again(self, state):
        found = import_official(state, "segman")
        again = create_model(found.architecture, **found.arguments)
        again.load_state_dict(found.state_dict())

    def test_layer_scales(self):
        model = small_model(layer_scale=1e-6)
        found = import_official(official_state(model), "segman", layerscales=[True] * 4)
        assert same_weights(found, model)

    @pytest.mark.parametrize("size", ["tiny", "small", "base", "large", "large2"])
    def test_sizes_are_recognised(self, size):
        with torch.device("meta"):
            encoder = create_encoder(f"segman_{size}")
            state = official(encoder, encoder_key)
        arguments = encoder_arguments(state, {})
        assert size_of(arguments) == size
        short = {"large2": "l2"}.get(size, size[0])
        check_encoder(arguments, {"encoder": f"SegMANEncoder_{short}"}, "encoder")
        with torch.device("meta"):
            again = SegMANEncoder(**arguments)
        shapes = {key: value.shape for key, value in encoder.state_dict().items()}
        assert {key: value.shape for key, value in again.state_dict().items()} == shapes

    def test_training_is_for_the_asking(self, state):
        found = import_official(
            state, "segman", mode="train", drop_path_rate=0.2, decoder={"dropout_ratio": 0.3}
        )
        assert found.training
        assert found.encoder.stages[3].blocks[0].drop_path.rate == pytest.approx(0.2)
        assert found.decoder.dropout.p == 0.3

    def test_what_agrees_with_the_shapes_is_accepted(self, state):
        import_official(
            state,
            "segman",
            encoder="SegMANEncoder",
            decoder={
                "in_channels": [8, 16, 24, 32],
                "in_index": [0, 1, 2, 3],
                "channels": 8,
                "feat_proj_dim": 6,
                "dropout_ratio": 0.1,
                "num_classes": 6,
            },
            type="segmentor",
            embed_dims=(8, 16, 24, 32),
            depths=[1, 2, 1, 1],
            num_heads=[1, 2, 2, 4],
            window_size=[7, 7, 5, 3],
            mlp_ratios=[4, 3.4, 3, 3],
            use_rpb=True,
            layerscales=[False] * 4,
            sr_ratio=[8, 4, 2, 1],
            image_size=224,
            in_chans=4,
        )

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"encoder": "SegMANEncoder_t"}, "encoder"),
            ({"depths": [2, 2, 4, 2]}, "depths"),
            ({"window_size": [11, 9, 9, 7]}, "window_size"),
            ({"use_rpb": False}, "use_rpb"),
            ({"fused_na": True}, "fused_na"),
            ({"decoder": {"channels": 128}}, "channels"),
            ({"decoder": {"num_classes": 150}}, "num_classes"),
            ({"num_classes": 150}, "num_classes"),
            ({"decoder": {"in_channels": [8, 16, 24, 33]}}, "in_channels"),
            ({"type": "encoder"}, "type"),
            ({"depht": 1}, "'depht'.*depths"),
            ({"mode": "test"}, "mode"),
        ],
    )
    def test_what_contradicts_the_shapes_is_refused(self, state, wrong, message):
        with pytest.raises(ImportFailedError, match=message):
            import_official(state, "segman", **wrong)


class TestPretrained:
    @pytest.fixture(scope="class")
    @staticmethod
    def classifier():
        torch.manual_seed(0)
        return create_model(
            "segman_tiny_classifier", num_classes=7, encoder_arguments=SMALL, hidden=10
        ).eval()

    @pytest.fixture(scope="class")
    @staticmethod
    def whole(classifier):
        names = {"conv": "classifier.0", "norm": "classifier.1", "classifier": "classifier.4"}
        head = {
            f"{names[k.split('.')[0]]}.{k.split('.')[1]}": official_tensor(k, v)
            for k, v in classifier.state_dict().items()
            if not k.startswith("encoder.")
        }
        return official(classifier.encoder, encoder_key) | angles(classifier.encoder) | head

    def test_with_its_classifier(self, whole, classifier):
        found = import_official(whole, "segman", projection=10, num_classes=7)
        assert same_weights(found, classifier)
        assert (found.task, found.architecture) == ("classification", "segman_tiny_classifier")

    def test_it_is_imported_and_measured_as_a_checkpoint(self, whole, classifier, tmp_path):
        torch.save({"state_dict": whole}, tmp_path / "segman.pth")
        out = tmp_path / "s.safetensors"
        words = ["checkpoint", "import", tmp_path / "segman.pth", "--family", "segman", "-o", out]
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        images = np.random.default_rng(0).integers(0, 255, (14, 256, 256, 3)).astype(np.uint8)
        for i, image in enumerate(images):
            path = tmp_path / f"images/val/n{i % 7}/{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        found = evaluate_classifier(out, tmp_path / "images")
        pixels = torch.from_numpy(images[:, 16:240, 16:240]).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        with torch.no_grad():
            logits = classifier((pixels - mean) / std)
        label = torch.arange(14) % 7
        assert found["top1"] == pytest.approx(float((logits.argmax(1) == label).float().mean()))
        expected = torch.nn.functional.cross_entropy(logits, label)
        assert found["nll"] == pytest.approx(float(expected), rel=1e-5)

    def test_averaged_weights_are_for_the_asking(self, whole, classifier):
        raw = {key: torch.zeros_like(value) for key, value in whole.items()}
        raw |= {key: value for key, value in whole.items() if key.endswith("rope.angle")}
        both = {"state_dict": raw, "state_dict_ema": whole}
        assert same_weights(import_official(both, "segman", weights="ema"), classifier)
        assert not import_official(both, "segman").classifier.weight.any()

    def test_the_encoder_alone(self, whole, classifier):
        assert same_weights(load_encoder(whole), classifier.encoder)

    def test_prefixes_come_off(self, encoder_state, model):
        for prefix in ("module.", "backbone.", "module.backbone."):
            found = import_official({prefix + k: v for k, v in encoder_state.items()}, "segman")
            assert same_weights(found, model.encoder)


class TestParts:
    def test_a_decoder(self, model):
        bare = official(model.decoder, decoder_key)
        found = load_decoder(bare, in_channels=[16, 24, 32], channels=8)
        assert same_weights(found, model.decoder)
        under = {f"decode_head.{key}": value for key, value in bare.items()}
        assert same_weights(import_official(under, "segman", decoder=HEAD), model.decoder)

    @pytest.mark.parametrize("stage", [1, 3])
    def test_a_layer(self, encoder_state, model, stage):
        prefix = f"layers.{2 * stage}."
        part = {k.removeprefix(prefix): v for k, v in encoder_state.items() if k.startswith(prefix)}
        found = load_layer(part, depth=SMALL["depths"][stage], global_mode=stage == 3)
        assert same_weights(found, model.encoder.stages[stage])
        with pytest.raises(ImportFailedError, match="embed_dim"):
            load_layer(part, embed_dim=9)

    def test_windows_without_relative_positions_have_to_be_told(self):
        model = small_model(relative_bias=False)
        state = official(model.encoder, encoder_key)
        told = {"window_size": SMALL["windows"], "num_heads": SMALL["heads"]}
        assert same_weights(load_encoder(state, use_rpb=False, **told), model.encoder)
        found = load_encoder(state | angles(model.encoder), window_size=SMALL["windows"])
        assert found.stages[3].blocks[0].mixer.heads == 4  # the angles tell
        with pytest.raises(ImportFailedError, match=r"no key tells window_size"):
            load_encoder(state)


class TestRefusals:
    def refuse(self, state, message):
        with pytest.raises(ImportFailedError, match=message):
            import_official(state, "segman")

    def test_missing_keys_are_named(self, state):
        key = "backbone.layers.2.blocks.1.mlp.fc2.bias"
        self.refuse({k: v for k, v in state.items() if k != key}, r"missing: layers\.2\.blocks\.1")

    def test_left_over_keys_are_named(self, state):
        self.refuse(state | {"backbone.neck": torch.ones(1)}, "not part of it: neck")
        self.refuse(state | {"auxiliary_head.x": torch.ones(1)}, "auxiliary_head.x")

    def test_other_shapes_are_named(self, state):
        key = "decode_head.reduce_channels.1.conv.weight"
        self.refuse(state | {key: torch.zeros(8, 60, 1, 1)}, r"reduce_channels\.1.*\(8, 60, 1, 1\)")

    @pytest.mark.parametrize("leaf", ["A_logs", "x_proj_weight"])
    def test_odd_shapes_of_scans_are_named(self, state, leaf):
        key = f"backbone.layers.0.blocks.0.token_mixer.ssm.{leaf}"
        self.refuse(state | {key: torch.zeros(3, 5)}, leaf)

    def test_other_angles(self, state):
        key = "backbone.layers.4.rope.angle"
        self.refuse(state | {key: 2 * state[key]}, "rotation angles")

    def test_a_head_for_other_widths(self, state):
        key = "decode_head.linear_c3.proj.weight"
        self.refuse(state | {key: torch.zeros(6, 25)}, "widths")

    def test_another_familys_weights(self):
        self.refuse({"encoder_block1.weight": torch.zeros(2)}, "no SegMAN state dict")
        self.refuse({"patch_embed.0.weight": torch.zeros(8, 3, 3, 3)}, r"no key layers\.0")


def test_angles_of_a_half_precision_checkpoint_pass(encoder_state):
    halved = {k: v.half() for k, v in encoder_state.items()}
    assert torch.equal(halved["layers.0.rope.angle"], RotaryPosition(8).angles().half())
    load_encoder(halved)
