"""Mamba-Diffusion against the numbers of its official code."""

import pytest
import torch
import torch.nn.functional as F
from cases import Case

from rsmamba_models import import_official
from rsmamba_models.importers.mamba_diffusion import (
    load_backbone,
    load_denoiser,
    load_fusion_block,
    load_time_embedding,
    official_key,
)
from rsmamba_models.mamba_diffusion.denoiser import sine_position
from rsmamba_models.mamba_diffusion.diffusion import Sampler, alpha_sigma, log_snr

FAMILY = "mamba_diffusion"


def nchw(x):
    return x.permute(0, 3, 1, 2)


def record(model, paths):
    """What modules return, one entry a call: ``{name: [output, ...]}``."""
    seen = {name: [] for name in paths}
    for name, path in paths.items():
        model.get_submodule(path).register_forward_hook(
            lambda module, args, output, calls=seen[name]: calls.append(output)
        )
    return seen


@pytest.mark.parametrize("name", ["dcf_module", "dss4_block"])
def test_fusion_block(name):
    case = Case(FAMILY, name)
    block = load_fusion_block(case.state_dict(), **case.manifest["config"])
    branches = {"m_a": block.optical, "m_b": block.sar}
    seen = record(block, {"m_a": "optical.mixer", "m_b": "sar.mixer"})
    merged = {}

    def keep(name, merge):
        def kept(u, other):
            merged[name] = merge(u, other)
            if not isinstance(merged[name], tuple):
                # DCF's mirrored scan, which the official code makes and throws away.
                merged[name] = merged[name], merge(other, u)
                return merged[name][0]
            return merged[name]

        return kept

    for m, branch in branches.items():
        branch.mixer.merged = keep(m, branch.mixer.merged)
    with torch.no_grad():
        out = block(*(case.inputs[n].permute(0, 2, 3, 1) for n in "ab"))
    for m in branches:
        case.check(f"{m}.scan_a", nchw(merged[m][0]))
        case.check(f"{m}.scan_b", nchw(merged[m][1]))
        case.check(f"{m}.out", nchw(seen[m][0]))
    case.check("out_a", nchw(out[0]))
    case.check("out_b", nchw(out[1]))


def test_backbone():
    case = Case(FAMILY, "fusion_backbone_small_64")
    encoder = load_backbone(case.state_dict(), **case.manifest["config"])
    paths = {"patch_a": "embed_optical", "patch_b": "embed_sar"}
    for i, stage in enumerate(encoder.stages):
        paths |= {f"s{i}.enc_a": f"stages.{i}.optical", f"s{i}.enc_b": f"stages.{i}.sar"}
        for stack in ("dcf", "dss4"):
            paths[f"s{i}.{stack}"] = f"stages.{i}.{stack}.{len(getattr(stage, stack)) - 1}"
    seen = record(encoder, paths)
    with torch.no_grad():
        maps = encoder(case.inputs["img"])
    found = {f"stage{i}": m for i, m in enumerate(maps)}
    for name, (output,) in seen.items():
        pair = isinstance(output, tuple)
        found |= (
            {f"{name}_{m}": nchw(o) for m, o in zip("ab", output, strict=True)}
            if pair
            else {name: nchw(output)}
        )
    for output in case.manifest["outputs"]:
        case.check(output, found[output])


@pytest.mark.parametrize("name", ["ddim_sampling_small", "ddim_accumulate_small_f"])
def test_sampling(name):
    case = Case(FAMILY, name)
    config = case.manifest["config"]["args"]
    model = import_official(case.state_dict(), family=FAMILY, **config)
    scores = []
    sample = model.sample
    model.sample = lambda *args: scores.append(sample(*args)) or scores[0]
    paths = {"feat": "transform", "time_emb": "time", "logits": "denoiser"}
    seen = record(model, paths | {"neck": "neck", "encoder": "encoder", "fpn": "neck.pyramid"})
    masks = []
    model.transform.register_forward_pre_hook(
        lambda module, args: masks.append(args[0][:, model.channels :])
    )
    with torch.inference_mode():
        found = {"logits_full": model(case.inputs["img"], noise=case.inputs["noise"])}
    times = torch.tensor(Sampler.of(model.sampler).times())
    level = log_snr(times, config["noise_schedule"])
    alpha, sigma = alpha_sigma(level)
    found |= {"times": times, "log_snr": level, "alpha": alpha, "sigma": sigma}
    found |= {"neck": seen["neck"][0], "logits": scores[0]}
    found |= {f"stage{i}": m for i, m in enumerate(seen["encoder"][0])}
    found |= {f"fpn{i}": m for i, m in enumerate(seen["fpn"][0])}
    assert len(masks) == config["timesteps"]
    for step in range(config["timesteps"]):
        found |= {f"step{step}.{name}": seen[name][step] for name in paths}
        found[f"step{step}.time_emb"] = found[f"step{step}.time_emb"][:1]  # one for all starts
        found[f"step{step}.mask_t"] = masks[step]
        found[f"step{step}.pred"] = found[f"step{step}.logits"].argmax(1)
    for output in case.manifest["outputs"]:
        case.check(output, found[output])


def test_accumulated_logits_stand_for_the_official_probabilities():
    case = Case(FAMILY, "ddim_accumulate_small_f")
    model = import_official(case.state_dict(), family=FAMILY, **case.manifest["config"]["args"])
    with torch.inference_mode():
        logits = model(
            case.inputs["img"], noise=case.inputs["noise"], sampler={"as_probabilities": False}
        )
    case.check("logits_full", logits.softmax(1))


def test_denoiser():
    case = Case(FAMILY, "deformable_head_official")
    denoiser = load_denoiser(case.state_dict())
    time = load_time_embedding(case.state_dict())
    paths = {f"layer{i}": f"layers.{i}" for i in range(6)}
    paths |= {"attention": "layers.0.attention"}
    seen = record(denoiser, paths)
    feat = case.inputs["feat"]
    level = log_snr(torch.tensor(case.manifest["config"]["times"]))
    with torch.no_grad():
        embedded = time(level)
        found = {"logits": denoiser(feat, embedded), "time_emb": embedded, "log_snr": level}
    found["pos_embed"] = sine_position(256, 6, 9, feat.device)
    for i in range(6):
        found[f"layer{i}"] = seen[f"layer{i}"][0].transpose(1, 2).unflatten(2, (6, 9))
    found["layer0.attn"] = feat + seen["attention"][0].transpose(1, 2).unflatten(2, (6, 9))
    for output in case.manifest["outputs"]:
        case.check(output, found[output])


def test_schedule():
    case = Case(FAMILY, "noise_schedule")
    config = case.manifest["config"]
    t = torch.tensor(config["t"])
    for schedule in ("cosine", "linear"):
        level = log_snr(t, schedule)
        alpha, sigma = alpha_sigma(level)
        case.check(f"{schedule}.log_snr", level)
        case.check(f"{schedule}.alpha", alpha)
        case.check(f"{schedule}.sigma", sigma)
    for steps in config["timesteps"]:
        for jump in config["time_difference"]:
            times = Sampler(steps=steps, time_difference=jump).times()
            case.check(f"times.T{steps}.td{jump}.lo0", torch.tensor(times), 1e-7)


def test_training_step():
    case = Case(FAMILY, "train_forward_small")
    config = case.manifest["config"]
    model = import_official(case.state_dict(), family=FAMILY, **config["args"]).train()
    seen = record(model, {"neck": "neck", "feat": "transform", "time_emb": "time"})
    masks = []
    model.transform.register_forward_pre_hook(
        lambda module, args: masks.append(args[0][:, model.channels :])
    )
    labels = torch.from_numpy(case.arrays["given/labels"])[:, 0]
    times = torch.from_numpy(case.arrays["given/times"])
    outputs = model.training_forward(
        case.inputs["img"], target=labels, noise=case.inputs["noise"], times=times
    )
    found = {name: calls[0] for name, calls in seen.items()}
    found |= {"noised_mask": masks[0], "log_snr": log_snr(times)}
    losses = {}
    for name, logits, weight in (
        ("decode", outputs["logits"], 1.0),
        ("aux", outputs["auxiliary"], 0.4),
    ):
        # The official code divides by all pixels, those without a label included.
        total = F.cross_entropy(logits, labels, ignore_index=255, reduction="sum")
        losses[name] = weight * total / labels.numel()
        found[f"{name}.loss_ce"] = losses[name][None]
        right = (logits.argmax(1) == labels)[labels != 255].float().mean()
        found[f"{name}.acc_seg"] = 100 * right[None]
    loss = losses["decode"] + losses["aux"]
    loss.backward()
    found["loss"] = loss[None]
    for key, parameter in model.named_parameters():
        if f"grad/{official_key(key)}" in case.arrays:
            official = case.arrays[f"grad/{official_key(key)}"]
            found[f"grad/{official_key(key)}"] = parameter.grad.reshape(official.shape)
    for output in case.manifest["outputs"]:
        case.check(output, found[output])
    without = {official_key(k) for k, p in model.named_parameters() if p.grad is None}
    assert without == set(case.manifest["parameters_without_gradient"])
