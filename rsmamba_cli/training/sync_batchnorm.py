"""BatchNorm over the batches of all processes, on any device."""

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class PortableSyncBatchNorm(_BatchNorm):
    """What `torch.nn.SyncBatchNorm` does, from differentiable sums, so that CPUs can do it too.

    Mean and variance are those of all processes' batches together; gradients pass through both.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> same shape."""
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        x = input.float()
        sums = _over_processes(torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = _over_processes(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._count(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _count(self, mean: Tensor, variance: Tensor) -> None:
        """Take a batch into the running statistics."""
        count = cast(Tensor, self.num_batches_tracked).add_(1)
        share = 1 / int(count) if self.momentum is None else self.momentum
        cast(Tensor, self.running_mean).lerp_(mean, share)
        cast(Tensor, self.running_var).lerp_(variance, share)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(context, gradient)


def _over_processes(values: Tensor) -> Tensor:
    """Add up over all processes."""
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def synchronise_batchnorm(model: nn.Module, device: str) -> nn.Module:
    """Replace every BatchNorm of a model; the weights and their names stay.

    Args:
        model: may be changed in place.
        device: "cuda" takes PyTorch's own.

    Returns:
        The model, or its replacement where it is a BatchNorm itself.
    """
    if device == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return,no-untyped-call]
    if isinstance(model, _BatchNorm):
        twin = PortableSyncBatchNorm(
            model.num_features,
            model.eps,
            model.momentum,
            model.affine,
            model.track_running_stats,
        )
        twin.load_state_dict(model.state_dict())
        return twin.train(model.training)
    for name, child in model.named_children():
        setattr(model, name, synchronise_batchnorm(child, device))
    return model
