"""A running mean of a model's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """An exponential moving average of parameters; buffers are copied as they are.

    The decay grows from about 0.1 to its full value over the first steps, so that the random
    weights of the start are forgotten.

    Args:
        model: whose weights.
        decay: share of the old mean that is kept at each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.mean = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights of another step into the mean."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        parameters = {name for name, _ in model.named_parameters()}
        for name, tensor in model.state_dict().items():
            if name in parameters:
                self.mean[name].lerp_(tensor, 1 - decay)
            else:
                self.mean[name].copy_(tensor)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the mean weights inside the ``with`` block."""
        own = {name: t.detach().clone() for name, t in model.state_dict().items()}
        model.load_state_dict(self.mean)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict[str, object]:
        """What a resumed run must know."""
        return {"updates": self.updates, "mean": self.mean}

    def load_state_dict(self, updates: int, mean: dict[str, Tensor]) -> None:
        """Go on from ``state_dict``."""
        self.updates = updates
        for name, tensor in mean.items():
            self.mean[name].copy_(tensor)
