"""How much memory a computation will hold, found without computing anything.

It runs on tensors that have shapes and no numbers; every storage that comes to life is counted
until it goes.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Living(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0
        self.peak: int = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            del self._seen[key]
            self.bytes -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


def held_bytes(
    call: Callable[..., object], shapes: Sequence[tuple[int, ...]], device: torch.device
) -> int:
    """The most memory that ``call`` holds at one time, its arguments included.

    What libraries take inside one operation is not seen, nor is what was there before (weights).

    Args:
        call: Takes a float32 tensor for each shape; what it does may depend on shapes only.
        shapes: Of the arguments.
        device: Where they would lie.
    """
    living = _Living()
    with FakeTensorMode(allow_non_fake_inputs=True), living:
        call(*(torch.empty(shape, device=device) for shape in shapes))
    return living.peak
