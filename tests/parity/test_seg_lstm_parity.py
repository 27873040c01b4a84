"""Seg-LSTM against the numbers of its official code."""

import pytest
import torch
import torch.nn.functional as F
from cases import Case

from rsmamba_models import import_official
from rsmamba_models.importers.seg_lstm import load_backbone, load_block, official_part_key

FORMS = ["parallel", "chunkwise"]
DECODERS = ["upernet", "ann", "apcnet", "deeplabv3", "deeplabv3plus"]


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """Every case in both forms of the cell: the cases are short, so auto is always parallel."""
    monkeypatch.setenv("RSMAMBA_MLSTM", request.param)
    return request.param


def official(name):
    """A case and its state dict, the stored tensors included."""
    case = Case("seg_lstm", name)
    stored = {k.removeprefix("stored/"): v for k, v in case.arrays.items() if "stored/" in k}
    return case, case.state_dict() | stored


def watch(model, modules):
    """What modules return, by hooks."""
    seen = {}
    for name, path in modules.items():
        model.get_submodule(path).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output})
        )
    return seen


def check_all(case, seen):
    """Every output of the case, of which some hold every few channels only."""
    for name, (_, meaning) in case.manifest["outputs"].items():
        step = 16 if "every 16th" in meaning else 1
        case.check(name, seen[name][:, ::step])


@pytest.mark.parametrize("name", ["vil_block_small", "vil_block_small_reverse", "vil_block_lowvar"])
def test_block_its_inside_and_its_gradients(name, form):
    case, state = official(name)
    config = case.manifest["config"]
    block = load_block(state, **config)
    inside = {"norm": "norm", "conv1d": "layer.conv", "layer": "layer", "mlstm_cell": "layer.cell"}
    inside |= {n: f"layer.{n}" for n in ("q", "k", "v")} | {"gates": "layer.cell.gates"}
    seen = watch(block, inside)
    block.layer.cell.norm.register_forward_hook(
        lambda module, args, output: seen.update(h_tilde=args[0])
    )
    x = (case.inputs["x"] * config.get("input_scale", 1.0)).requires_grad_()
    out = block(x)
    (out * case.inputs["grad_out"]).sum().backward()
    seen["igate_preact"], seen["fgate_preact"] = seen["gates"].chunk(2, -1)
    seen |= {"out": out, "grad_x": x.grad}
    seen |= {f"grad/{official_part_key(k)}": p.grad for k, p in block.named_parameters()}
    for output in case.manifest["outputs"]:
        case.check(output, seen[output])


def test_backbone(form):
    case, state = official("backbone_small_64")
    backbone = load_backbone(state, **case.manifest["config"])
    inside = {"patch_embed": "patch_embed", "after_pos_embed": "pos_embed", "block0": "groups.0.0"}
    seen = watch(backbone, inside)
    with torch.inference_mode():
        maps = backbone(case.inputs["x"])
    check_all(case, seen | {f"stage{i}": m for i, m in enumerate(maps)})


@pytest.mark.parametrize("decoder", DECODERS)
def test_segmenter(decoder, form):
    case, state = official(f"seglstm_{decoder}_128")
    model = import_official(state, family="seg_lstm", **case.manifest["config"])
    assert model.architecture == f"seglstm_{decoder}"
    inside = {"patch_embed": "encoder.patch_embed", "after_pos_embed": "encoder.pos_embed"}
    seen = watch(model, inside | {"decode_logits": "decoder", "aux_logits": "auxiliary"})
    x = case.inputs["x"]
    with torch.inference_mode():
        seen |= {f"stage{i}": m for i, m in enumerate(model.encoder(x))}
        seen["logits"] = model(x)
        auxiliary = model.training_forward(x)["auxiliary"]
    check_all(case, seen)
    resized = F.interpolate(seen["aux_logits"], scale_factor=16, mode="bilinear")
    torch.testing.assert_close(auxiliary, resized)
