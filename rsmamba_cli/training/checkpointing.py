"""Gradient checkpointing: a block keeps its input only and computes the rest again on the way back.

Chen et al. 2016, "Training deep nets with sublinear memory cost".
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(blocks: list[nn.Module]) -> None:
    """Make blocks compute their insides twice; outputs, gradients and statistics stay the same.

    Args:
        blocks: changed in place; none may be inside another.
    """
    for block in blocks:
        block.forward = partial(_run, block, block.forward)


def _run(block: nn.Module, forward: Any, *inputs: Any, **more: Any) -> Any:
    """The forward pass of a checkpointed block."""
    if not block.training:
        return forward(*inputs, **more)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(block)

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **more)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Keep BatchNorm from counting a batch twice that passes a second time."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(n.momentum, cast(Tensor, n.num_batches_tracked).clone()) for n in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            cast(Tensor, norm.num_batches_tracked).copy_(count)
