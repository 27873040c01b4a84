"""Models of optical and radar images, small enough to be known exactly."""

import torch
from torch import nn

from rsmamba_models import CheckpointMeta, ClassInfo, InputSpec, Transform
from rsmamba_models.errors import ArgumentsError


class Sum(nn.Module):
    """Two logits of a pixel: the sum of the optical bands, and ten times that of the radar."""

    size_multiple = 1

    def forward(self, optical, sar):
        return torch.cat(
            [optical.sum(dim=1, keepdim=True), 10 * sar.sum(dim=1, keepdim=True)], dim=1
        )


class Sampled(Sum):
    """A stand-in for a diffusion model: `Sum` and noise, on half the resolution."""

    def __init__(self):
        super().__init__()
        self._sampler = {"name": "ddim", "steps": 3}

    @property
    def sampler(self):
        return self._sampler

    @sampler.setter
    def sampler(self, settings):
        if settings["steps"] > 100:
            raise ArgumentsError("at most 100 steps")
        self._sampler = settings

    def noise_shape(self, batch, height, width):
        return (2, batch, 2, -(-height // 2), -(-width // 2))

    def forward(self, optical, sar, noise=None):
        logits = super().forward(optical, sar)
        fine = noise.mean(dim=0).repeat_interleave(2, -1).repeat_interleave(2, -2)
        scale = 1 if self.sampler["name"] == "ddim" else 2
        return (
            logits
            + scale * fine[..., : logits.shape[-2], : logits.shape[-1]] / self.sampler["steps"]
        )


def identity(bands):
    return Transform(
        offset=(0.0,) * bands, scale=(1.0,) * bands, mean=(0.0,) * bands, std=(1.0,) * bands
    )


def multimodal_meta(optical=("red", "green", "blue"), sar=("vv",), missing="refuse", **more):
    """Metadata of a two-class softmax model; ``missing`` holds for both inputs."""
    inputs = tuple(
        InputSpec(
            name=name, bands=bands, transform=identity(len(bands)), dtype=dtype, missing=missing
        )
        for name, bands, dtype in (("optical", optical, "uint8"), ("sar", sar, "float32"))
    )
    content = {
        "architecture": "fake",
        "task": "multimodal",
        "inputs": inputs,
        "classes": tuple(ClassInfo(value=i, name=f"class {i}", color=(i, 0, 0)) for i in range(2)),
        "output": "softmax",
        "tile": 32,
        "size_multiple": 1,
        "sha256": "0" * 64,
        **more,
    }
    return CheckpointMeta(**content)
