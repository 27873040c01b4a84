"""RS-Mamba against the numbers of its official code."""

import pytest
import torch
import torch.nn.functional as F
from cases import Case

from rsmamba_models import import_official
from rsmamba_models.importers.rs_mamba import load_block, load_ossm
from rsmamba_models.ops import (
    directional_scan,
    projected_scan,
    scan_order,
    selective_scan,
)
from rsmamba_models.ops.backends import SCAN

BACKENDS = SCAN.usable(torch.zeros(1))
FAST = [name for name in BACKENDS if name != "reference"]


def watch(model, watched):
    """Outputs of modules, by hooks; channel-last ones turned to NCHW."""
    seen = {}

    def keep(name, channel_last):
        def hook(module, args, output):
            seen[name] = output.permute(0, 3, 1, 2) if channel_last else output

        return hook

    for name, (path, channel_last) in watched.items():
        model.get_submodule(path).register_forward_hook(keep(name, channel_last))
    return seen


ENCODER = {"patch_embed": ("encoder.patch_embed", True)} | {
    f"stage{i}": (f"encoder.stages.{i}", True) for i in range(4)
}
DECODER = {f"decoder{3 - i}": (f"decoder.blocks.{i}", False) for i in range(3)} | {
    "upsample_x4": ("head.upsample_x4", False)
}


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("name", ["ss_small_64", "ss_official_128"])
def test_segmentation(name, backend, monkeypatch):
    monkeypatch.setenv("RSMAMBA_SCAN", backend)
    case = Case("rs_mamba", name)
    model = import_official(case.state_dict(), family="rs_mamba")
    seen = watch(model, ENCODER | DECODER)
    with torch.inference_mode():
        seen["logits"] = model(case.inputs["x"])
    for output, (shape, _) in case.manifest["outputs"].items():
        step = seen[output].shape[-1] // shape[-1]  # some are stored every few pixels only
        case.check(output, seen[output][..., ::step, ::step])


@pytest.mark.parametrize("backend", FAST)
def test_change_detection(backend, monkeypatch):
    monkeypatch.setenv("RSMAMBA_SCAN", backend)
    case = Case("rs_mamba", "cd_small_64")
    model = import_official(case.state_dict(), family="rs_mamba")
    fuse = {f"fuse{i}": (f"fuse.{i}", False) for i in range(4)}
    seen = watch(model, ENCODER | fuse | DECODER)
    with torch.inference_mode():
        seen["logits"] = model(case.inputs["t1"], case.inputs["t2"])
    for name in ENCODER:  # both dates pass the encoder as one batch
        seen[f"{name}_t1"], seen[f"{name}_t2"] = seen.pop(name).chunk(2)
    for output in case.manifest["outputs"]:
        case.check(output, seen[output])


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_step(backend, monkeypatch):
    monkeypatch.setenv("RSMAMBA_SCAN", backend)
    case = Case("rs_mamba", "ss_train_64")
    model = import_official(case.state_dict(), family="rs_mamba", drop_path_rate=0.0).train()
    label = (case.inputs["label_field"][:, 0] > 0.5).float()
    logits = model.training_forward(case.inputs["x"])["logits"]
    p = torch.sigmoid(logits[:, 0])
    dice = 1 - (2 * (p * label).sum() + 1e-5) / (p.sum() + label.sum() + 1e-5)
    bce = F.binary_cross_entropy_with_logits(logits[:, 0], label)
    (dice + bce).backward()
    found = {"logits": logits, "label": label, "dice": dice, "bce": bce, "loss": dice + bce}

    gradients = official_gradients(model, "conv_out_seg")
    norms = torch.stack([gradients[name].norm() for name in sorted(gradients)])
    found |= {"grad_norms": norms, "grad_total_norm": norms.norm()}
    found |= {f"grad/{name}": gradient for name, gradient in gradients.items()}
    for i, j in ((1, 0), (5, 2)):
        for name in ("running_mean", "running_var"):
            buffer = model.get_buffer(f"head.upsample_x4.{j}.norm.{name}")
            found[f"buffer/upsample_x4.{i}.{name}"] = buffer
    for output in case.manifest["outputs"]:
        case.check(output, found[output])


def official_gradients(model, head):
    from rsmamba_models.importers.rs_mamba import official_key

    return {
        official_key(key, head): p.grad.flatten(0, 1) if key.endswith(("A_log", ".D")) else p.grad
        for key, p in model.named_parameters()
    }


@pytest.fixture(scope="module")
def nonsquare():
    return Case("rs_mamba", "omni_scan_nonsquare")


@pytest.mark.parametrize(("height", "width"), [(5, 7), (7, 5)])
def test_orders(nonsquare, height, width):
    expected = torch.from_numpy(nonsquare.arrays[f"order_{height}x{width}"])
    assert torch.equal(scan_order("omni", height, width).to(expected.dtype), expected)


def test_scan_and_merge_are_gather_and_scatter(nonsquare):
    order = scan_order("omni", 5, 7).long()
    nonsquare.check("scan", nonsquare.inputs["scan_in"].flatten(2)[:, :, order].transpose(1, 2), 0)
    sequences = nonsquare.inputs["merge_in"].flatten(3)
    merged = sum(torch.zeros(2, 3, 35).index_copy(2, order[k], sequences[:, k]) for k in range(8))
    nonsquare.check("merge", merged.view(2, 3, 5, 7))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ossm_inside(nonsquare, backend, monkeypatch):
    calls = []

    def spy(u, low, dt_proj, *rest, order):
        y = projected_scan(u, low, dt_proj, *rest, order=order, backend=backend)
        calls.append((u, low @ dt_proj.transpose(1, 2), *rest, y))
        return y

    monkeypatch.setattr("rsmamba_models.layers.scan.projected_scan", spy)
    state = {k: torch.from_numpy(v) for k, v in nonsquare.state_dict().items()}
    module = load_ossm(state)
    with torch.no_grad():
        out = module(nonsquare.inputs["block_in"].permute(0, 2, 3, 1))
    u, delta, A, B, C, D, bias, y = calls[0]
    order = scan_order("omni", 5, 7)

    def along(t):  # (B, K, L, .) at map positions -> (B, K, ., L) in each direction's order
        return torch.stack([t[:, k, order[k].long()] for k in range(8)], 1).transpose(2, 3)

    one_by_one = torch.stack(
        [
            directional_scan(
                *(u, delta[:, k : k + 1], A[k : k + 1], B[:, k : k + 1], C[:, k : k + 1]),
                *(D[k : k + 1], bias[k : k + 1]),
                order=order[k : k + 1],
                backend=backend,
            )
            for k in range(8)
        ],
        1,
    )
    nonsquare.check("ossm_u", along(u[:, None].expand(-1, 8, -1, -1)).flatten(1, 2))
    nonsquare.check("ossm_delta", along(delta).flatten(1, 2))
    nonsquare.check("ossm_B", along(B))
    nonsquare.check("ossm_C", along(C))
    nonsquare.check("ossm_scan_y", along(one_by_one).flatten(1, 2))
    nonsquare.check("ossm_merged", y.view(2, 5, 7, 16).permute(0, 3, 1, 2))
    nonsquare.check("ossm_out", out.permute(0, 3, 1, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_block_and_its_gradients(nonsquare, backend, monkeypatch):
    from rsmamba_models.importers.rs_mamba import official_block_key

    monkeypatch.setenv("RSMAMBA_SCAN", backend)
    block = load_block({k: torch.from_numpy(v) for k, v in nonsquare.state_dict().items()})
    x = nonsquare.inputs["block_in"].clone().requires_grad_()
    out = block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    (out * nonsquare.inputs["block_cotangent"]).sum().backward()
    nonsquare.check("block_out", out)
    nonsquare.check("grad_block_in", x.grad)
    checked = set()
    for key, p in block.named_parameters():
        name = f"grad/{official_block_key(key)}"
        nonsquare.check(name, p.grad.flatten(0, 1) if key.endswith(("A_log", ".D")) else p.grad)
        checked.add(name)
    assert checked == {o for o in nonsquare.manifest["outputs"] if o.startswith("grad/")}


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [(b, torch.float32) for b in BACKENDS]
    + [(b, torch.float64) for b in BACKENDS if b != "native"],
)
def test_selective_scan(backend, dtype):
    case = Case("rs_mamba", "selective_scan_ref")
    state = {k: torch.from_numpy(v).to(dtype) for k, v in case.state_dict().items()}
    given = {k: v.to(dtype) for k, v in case.inputs.items()}
    leaves = {n: given[n] for n in ("u", "delta", "B", "C")}
    leaves |= {"A": -torch.exp(state["A_log"]), "D": state["D"]}
    leaves |= {"delta_bias": state["delta_bias"]}
    for leaf in leaves.values():
        leaf.requires_grad_()
    out = selective_scan(**leaves, delta_softplus=True, backend=backend)
    (out * given["cotangent"]).sum().backward()
    bits, tolerance = (32, None) if dtype == torch.float32 else (64, 1e-12)
    case.check(f"out{bits}", out, tolerance)
    for name, leaf in leaves.items():
        case.check(f"d{name}{bits}", leaf.grad, tolerance)
