"""The way of a batch to its device and back, beside the computation of others.

On a GPU, three things can go on at the same time: windows are copied there, others are computed,
and the answers to yet others are copied back. Each has a stream of its own; where one needs what
another makes, it waits for an event and nobody else does. The copies are only asynchronous from and
to pinned memory, so the engine takes its buffers from here, and asks before it uses one again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]
Wait = Callable[[], None]


@dataclass(frozen=True)
class Pending:
    """A batch under way.

    Attributes:
        taken: waits until the arrays of the windows may be written to again.
        arrived: waits until the answer is in its array.
    """

    taken: Wait
    arrived: Wait


class Carrier(Protocol):
    """Brings batches to a device and answers back."""

    def buffer(self, shape: tuple[int, ...]) -> Floats:
        """Host memory that it carries from and to quickly; holds anything."""
        ...

    def send(self, windows: Sequence[Tensor]) -> tuple[list[Tensor], Wait]:
        """Windows on the device, for what is computed next; and a wait until they left the host."""
        ...

    def in_place(self, into: Tensor) -> Tensor | None:
        """Host memory as the device can compute into it; None if it cannot."""
        ...

    def fetch(self, answer: Tensor, into: Tensor) -> Wait:
        """Begin to copy what was computed last to host memory; returns a wait for its end."""
        ...


class Direct:
    """For devices that share the host's memory or copy while one waits."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def buffer(self, shape: tuple[int, ...]) -> Floats:
        """Ordinary memory."""
        return np.empty(shape, dtype=np.float32)

    def send(self, windows: Sequence[Tensor]) -> tuple[list[Tensor], Wait]:
        """Done on return."""
        return [x.to(self._device) for x in windows], _at_once

    def in_place(self, into: Tensor) -> Tensor | None:
        """The CPU can."""
        return into if self._device.type == "cpu" else None

    def fetch(self, answer: Tensor, into: Tensor) -> Wait:
        """Done on return; what was computed in place is not copied."""
        if answer.data_ptr() != into.data_ptr():
            into.copy_(answer)
        return _at_once


class CudaStreams:
    """For a CUDA device: a stream for the way there and one for the way back."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._there: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._back: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def buffer(self, shape: tuple[int, ...]) -> Floats:
        """Pinned memory."""
        pinned: Floats = torch.empty(shape, dtype=torch.float32, pin_memory=True).numpy()
        return pinned

    def send(self, windows: Sequence[Tensor]) -> tuple[list[Tensor], Wait]:
        """The copies begin; what is computed next waits for them on the device."""
        with torch.cuda.stream(self._there):
            sent = [x.to(self._device, non_blocking=True) for x in windows]
            left = self._there.record_event()
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(left)
        for x in sent:
            x.record_stream(computing)
        return sent, left.synchronize

    def in_place(self, into: Tensor) -> Tensor | None:
        """It cannot."""
        return None

    def fetch(self, answer: Tensor, into: Tensor) -> Wait:
        """The copy begins when the device has computed the answer."""
        self._back.wait_event(torch.cuda.current_stream(self._device).record_event())
        with torch.cuda.stream(self._back):
            into.copy_(answer, non_blocking=True)
            there = self._back.record_event()
        answer.record_stream(self._back)
        wait: Wait = there.synchronize
        return wait


def carrier_for(device: torch.device) -> Carrier:
    """The one that suits a device."""
    return CudaStreams(device) if device.type == "cuda" else Direct(device)


class Pool:
    """Buffers of one shape that are used again and again.

    It never waits: the queues between the stages bound how many are under way.
    """

    def __init__(self, make: Callable[[], Floats]) -> None:
        """Remember how a buffer is made."""
        self._make = make
        self._free: list[Floats] = []

    def take(self) -> Floats:
        """A buffer that nobody uses."""
        return self._free.pop() if self._free else self._make()

    def give(self, buffer: Floats) -> None:
        """A buffer is no longer used."""
        self._free.append(buffer)


def _at_once() -> None:
    """Nothing to wait for."""
