"""SegMAN against the numbers of its official code."""

import pytest
import torch
from cases import Case

from rsmamba_models import import_official
from rsmamba_models.importers.segman import load_decoder, load_encoder, load_layer
from rsmamba_models.ops.backends import ATTENTION, SCAN

SCANS = SCAN.usable(torch.zeros(1))
ATTENTIONS = [name for name in ATTENTION.usable(torch.zeros(1)) if name != "reference"]


def tap(module, seen, name, before=False):
    """Keep a module's output, or its first input, from its next call on."""
    if before:
        module.register_forward_pre_hook(lambda _, args: seen.__setitem__(name, args[0]))
    else:
        module.register_forward_hook(lambda _, args, output: seen.__setitem__(name, output))


def channels_first(x):
    return x.permute(0, 3, 1, 2)


def check_all(case, seen):
    for output, about in case.manifest["outputs"].items():
        ours = seen[output]
        if "slice" in about:  # stored every few pixels only
            step = ours.shape[-1] // about["shape"][-1]
            assert list(ours.shape) == about["full_shape"]
            ours = ours[..., ::step, ::step]
        case.check(output, ours)


@pytest.fixture(params=[*((s, "tiled") for s in SCANS), *(("torch", a) for a in ATTENTIONS)])
def forms(request, monkeypatch):
    """Every back end of both ops."""
    monkeypatch.setenv("RSMAMBA_SCAN", request.param[0])
    monkeypatch.setenv("RSMAMBA_NA", request.param[1])


def load_layer_case(name):
    case = Case("segman", name)
    layer = load_layer(case.state_dict(), **case.manifest["config"])
    seen = {}
    block = layer.blocks[0]
    mixer = block.mixer
    tap(layer.rotary, seen, "rotation")
    for name, module in {
        "norm1": block.norm1,
        "qkv": mixer.qkv,
        "lepe": mixer.lepe,
        "token_mixer": mixer,
        "mlp": block.mlp,
    }.items():
        tap(module, seen, name)
    tap(mixer.proj, seen, "before_proj", before=True)
    if hasattr(mixer, "scan"):
        tap(mixer.conv, seen, "neighborhood_attention", before=True)
        tap(mixer.scan, seen, "ssm_in", before=True)
        tap(mixer.scan, seen, "ssm_out")
    with torch.inference_mode():
        out = layer(case.inputs["x"])
    cos, sin = seen.pop("rotation")
    sin = torch.stack([-sin[..., ::2], sin[..., 1::2]], -1).flatten(-2)  # ours are signed
    seen = {name: channels_first(x) for name, x in seen.items()}
    if "ssm_out" in seen:
        seen["ssm_out"] = seen["ssm_out"].flatten(2)
    return case, seen | {"out": out, "rope_sin": sin[:, :, 0], "rope_cos": cos[:, :, 0]}


@pytest.mark.usefixtures("forms")
def test_lass():
    check_all(*load_layer_case("lass_block_small"))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", ["lass_block_global", "lass_block_layerscale"])
def test_other_layers(name, attention, monkeypatch):
    monkeypatch.setenv("RSMAMBA_NA", attention)
    check_all(*load_layer_case(name))


def tap_encoder(encoder, seen):
    tap(encoder.stem, seen, "stem")
    for i, stage in enumerate(encoder.stages):
        tap(stage, seen, f"stage{i}")


def test_encoder():
    case = Case("segman", "encoder_tiny_224")
    encoder = load_encoder(case.state_dict(), **case.manifest["config"])
    seen = {}
    tap_encoder(encoder, seen)
    with torch.inference_mode():
        maps = encoder(case.inputs["x"])
    assert all(torch.equal(m, seen[f"stage{i}"]) for i, m in enumerate(maps))
    check_all(case, seen)


def tap_decoder(decoder, seen):
    tap(decoder.fuse, seen, "fuse")
    tap(decoder.pool, seen, "image_pool")
    tap(decoder.block, seen, "scan_in", before=True)
    tap(decoder.block.mixer, seen, "scan_mixer")
    tap(decoder.block, seen, "scan_out")
    tap(decoder.context, seen, "proj_out")
    tap(decoder.combine, seen, "cat")


def channel_last_taps(seen):
    return seen | {n: channels_first(seen[n]) for n in ("scan_in", "scan_mixer", "scan_out")}


def test_decoder():
    case = Case("segman", "decoder_tiny_128")
    decoder = load_decoder(case.state_dict(), **case.manifest["config"])
    seen = {}
    tap_decoder(decoder, seen)
    with torch.inference_mode():
        seen["logits"] = decoder([case.inputs[f"stage{i}"] for i in range(4)])
    check_all(case, channel_last_taps(seen))


def test_whole_model():
    case = Case("segman", "segman_tiny_ade_224x256")
    model = import_official(case.state_dict(), family="segman", **case.manifest["config"])
    seen = {}
    tap_encoder(model.encoder, seen)
    tap_decoder(model.decoder, seen)
    tap(model.decoder, seen, "logits")
    with torch.inference_mode():
        seen["upsampled"] = model(case.inputs["x"])
    check_all(case, channel_last_taps(seen))


@pytest.mark.parametrize("case", ["encoder_tiny_224", "segman_tiny_ade_224x256"])
def test_stored_rotation_angles_are_ours(case):
    case = Case("segman", case)
    angles = {k[7:]: v for k, v in case.arrays.items() if k.startswith("stored/")}
    assert len(angles) == 4
    import_official(case.state_dict() | angles, family="segman")
