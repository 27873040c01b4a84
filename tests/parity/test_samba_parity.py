"""Samba against the numbers of its official code."""

import pytest
import torch
from cases import Case

from rsmamba_models import import_official
from rsmamba_models.importers.samba import load_backbone, load_block, official_block_key
from rsmamba_models.ops.backends import SCAN

BACKENDS = SCAN.usable(torch.zeros(1))
FAST = [name for name in BACKENDS if name != "reference"]


def watch(model, modules):
    """The outputs of modules, by hooks: name -> path."""
    seen = {}
    for name, path in modules.items():

        def hook(module, args, output, name=name):
            seen[name] = output

        model.get_submodule(path).register_forward_hook(hook)
    return seen


def channel_first(seen, names):
    return {n: v.permute(0, 3, 1, 2) if n in names else v for n, v in seen.items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_block_and_its_gradients(backend, monkeypatch):
    monkeypatch.setenv("RSMAMBA_SCAN", backend)
    case = Case("samba", "samba_block_small")
    config = case.manifest["config"]
    block = load_block(case.state_dict(), **config)
    seen = watch(
        block, {"norm1": "norm1", "mixer": "mixer", "mlp_dwconv": "mlp.dwconv", "mlp": "mlp"}
    )
    x = case.inputs["x"].requires_grad_()
    out = block(x.unflatten(1, (config["H"], config["W"]))).flatten(1, 2)
    (out * case.inputs["grad_out"]).sum().backward()
    found = {name: t.flatten(1, 2) for name, t in seen.items()} | {"out": out, "grad_x": x.grad}
    for key, p in block.named_parameters():  # our scans have an axis for their directions
        found[f"grad/{official_block_key(key)}"] = p.grad[0] if ".scan." in key else p.grad
    for output in case.manifest["outputs"]:
        case.check(output, found[output])


@pytest.mark.parametrize("backend", BACKENDS)
def test_backbone(backend, monkeypatch):
    monkeypatch.setenv("RSMAMBA_SCAN", backend)
    case = Case("samba", "backbone_small_64")
    encoder = load_backbone(case.state_dict(), **case.manifest["config"])
    seen = watch(encoder, {"stem": "embeds.0"})
    with torch.inference_mode():
        maps = encoder(case.inputs["x"])
    seen = channel_first(seen, ["stem"]) | {f"stage{i}": m for i, m in enumerate(maps)}
    for output in case.manifest["outputs"]:
        case.check(output, seen[output])


MODULES = {
    "stem": "encoder.embeds.0",
    **{f"stage{i}": f"encoder.norms.{i}" for i in range(4)},
    "ppm_bottleneck": "decoder.pyramid_pooling.bottleneck",
    "fpn_bottleneck": "decoder.fuse",
    "decode_logits": "decoder",
    "aux_logits": "auxiliary",
}


@pytest.mark.parametrize("backend", FAST)
def test_whole_network_of_official_size(backend, monkeypatch):
    monkeypatch.setenv("RSMAMBA_SCAN", backend)
    case = Case("samba", "samba_upernet_128")
    config = case.manifest["config"]
    model = import_official(case.state_dict(), family="samba", **config)
    seen = watch(model, MODULES)
    with torch.inference_mode():
        model.training_forward(case.inputs["x"])  # for the auxiliary head's output
        seen["logits"] = model(case.inputs["x"])
    seen = channel_first(seen, ["stem", *(f"stage{i}" for i in range(4))])
    for output in case.manifest["outputs"]:
        for axis, step in config["output_subsample"].get(output, []):
            found = seen[output]
            seen[output] = found[(slice(None),) * axis + (slice(None, None, step),)]
        case.check(output, seen[output])
