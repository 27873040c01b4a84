"""Tiles shared among processes, one a device."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rsmamba_cli.inference.device import resolve_device


@dataclass(frozen=True)
class Workers:
    """This process among its likes.

    Attributes:
        device: where it computes.
        rank: its number, from 0.
        count: how many there are.
        gather: brings an object of every process to every process, in the order of ranks.
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda mine: [mine]


def start_workers(device: str, devices: int = 1) -> Workers:
    """Start as many processes as there are devices, or join those that were started.

    Raises:
        DeviceError: the devices are not there.
    """
    # Training builds on this package, and knows how processes are started.
    from rsmamba_cli.training.devices import processes, start_fabric
    from rsmamba_cli.training.recipe import LoopPart

    here, nodes = processes(LoopPart(devices=devices))
    if here * nodes == 1:
        return Workers(resolve_device(device))
    wanted = LoopPart(device=resolve_device(device).type, devices=here, nodes=nodes)
    fabric, _, _ = start_fabric(wanted, Path())

    def gather(mine: Any) -> list[Any]:
        out: list[Any] = [None] * fabric.world_size
        torch.distributed.all_gather_object(out, mine)
        return out

    return Workers(fabric.device, fabric.global_rank, fabric.world_size, gather)
