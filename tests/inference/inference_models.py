"""Models small enough to be known exactly, in place of checkpoints."""

import numpy as np
import torch
from torch import nn

from rsmamba_cli.inference.staging import Pending
from rsmamba_models import CheckpointMeta, ClassInfo, InputSpec, Transform

IDENTITY = {"offset": (0.0,), "scale": (1.0,), "mean": (0.0,), "std": (1.0,)}


class Pixelwise(nn.Module):
    """A 1 x 1 convolution: the answer of a pixel does not depend on its neighbours."""

    size_multiple = 1

    def __init__(self, bands, logits, seed=0):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.conv = nn.Conv2d(bands, logits, 1)
        self.conv.weight.data = torch.from_numpy(
            rng.normal(size=(logits, bands, 1, 1)).astype("f4")
        )
        self.conv.bias.data.zero_()
        self.windows = 0

    def forward(self, *images):
        self.windows += len(images[0])
        return self.conv(torch.cat(images, dim=1))


class Blur(nn.Module):
    """A mean over (2 r + 1)^2 pixels, with zeros beyond the window: borders are wrong by design."""

    size_multiple = 1

    def __init__(self, radius):
        super().__init__()
        self.pool = nn.AvgPool2d(2 * radius + 1, 1, radius)

    def forward(self, image):
        return self.pool(image[:, :1])


class Constant(nn.Module):
    """The same logits everywhere."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, *images):
        batch, _, height, width = images[0].shape
        return self.logits.view(1, -1, 1, 1).expand(batch, -1, height, width)


def meta_of(bands=3, classes=2, task="segmentation", transform=None, **more):
    transform = transform or Transform(**{k: v * bands for k, v in IDENTITY.items()})
    names = ("t1", "t2") if task == "change" else ("image",)
    values = more.pop("values", range(classes))
    content = {
        "architecture": "fake",
        "task": task,
        "inputs": tuple(
            InputSpec(name=n, bands=tuple(f"b{i}" for i in range(bands)), transform=transform)
            for n in names
        ),
        "classes": tuple(
            ClassInfo(value=v, name=f"class {v}", color=(i, 2 * i, 3 * i))
            for i, v in enumerate(values)
        ),
        "output": "sigmoid" if classes == 2 else "softmax",
        "tile": 32,
        "size_multiple": 1,
        "sha256": "0" * 64,
        **more,
    }
    return CheckpointMeta(**content)


def softmax(logits):
    """Softmax over the first axis, float64."""
    shifted = np.exp(logits - logits.max(axis=0))
    return shifted / shifted.sum(axis=0)


def pixelwise_logits(model, values):
    """What a `Pixelwise` model answers for a whole image (bands, H, W), in float64."""
    weight = model.conv.weight.detach().numpy()[:, :, 0, 0].astype(np.float64)
    return np.einsum("kb,bhw->khw", weight, values.astype(np.float64))


class Immediate:
    """A function of windows in the place of a predictor, whose answers are there at once."""

    def __init__(self, function):
        self.function = function

    def buffer(self, shape):
        return np.empty(shape, dtype=np.float32)

    def begin(self, arrays, places, out):
        out[...] = self.function(arrays, places)
        return Pending(lambda: None, lambda: None)
