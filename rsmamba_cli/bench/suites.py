"""Which computations the bench runs, and at which sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import torch

from rsmamba_models.ops.backends import resolve_backend


class Scale(StrEnum):
    """How much is run.

    ``quick`` shrinks every size so that a minute is enough; its figures tell little about the real
    sizes. ``full`` adds what takes many minutes: the step loop in a whole model at 512 x 512, and
    the largest memory cases.
    """

    quick = "quick"
    normal = "normal"
    full = "full"


@dataclass(frozen=True)
class Spec:
    """One case.

    Attributes:
        group: ``ops`` or a model's name.
        case: What it is called.
        kind: Which builder of ``workloads`` makes it.
        sizes: The builder's arguments.
        forms: The forms to time; empty for all that are usable here, in the builder's order.
        memory: The forms whose peak memory is measured, where usable.
        timed: False for cases of memory alone.
    """

    group: str
    case: str
    kind: str
    sizes: Mapping[str, int | str]
    forms: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    timed: bool = True


SCANS: Mapping[str, Mapping[str, int | str]] = MappingProxyType(
    {
        "s1": {"order": "cross", "channels": 96, "states": 16, "side": 64},
        "s2": {"order": "cross", "channels": 192, "states": 16, "side": 128},
        "s3": {"order": "omni", "channels": 96, "states": 16, "side": 64},
        "n1b": {"order": "cross", "channels": 192, "states": 1, "side": 128},
        "n64": {"order": "raster", "channels": 128, "states": 64, "side": 128},
    }
)
MLSTM_SIZES: Mapping[str, int | str] = MappingProxyType({"heads": 4, "head": 192, "tokens": 4096})
ATTENTION_SIZES: Mapping[str, int | str] = MappingProxyType(
    {"heads": 4, "head": 32, "window": 9, "side": 64}
)
_QUICK_SIDE = 24
_QUICK_TOKENS = 512


def ops_suite(scale: Scale) -> tuple[Spec, ...]:
    """The ops: scan forward, backward and training step, mLSTM, neighbourhood attention."""
    quick = scale is Scale.quick
    specs = []
    for direction in ("forward", "backward"):
        for name, sizes in SCANS.items():
            side = min(int(sizes["side"]), _QUICK_SIDE) if quick else sizes["side"]
            looped = ("step loop",) if direction == "forward" and name != "n1b" else ()
            specs.append(
                Spec(
                    group="ops",
                    case=f"scan {direction} {name}",
                    kind=f"scan_{direction}",
                    sizes={"batch": 1, **sizes, "side": side},
                    memory=() if quick and name != "s1" else ("native", "torch", *looped),
                )
            )
    # The step loop's gradients take time and memory quadratic in the length: only here, short.
    training = {**SCANS["s1"], "side": 8 if quick else 16}
    specs.append(Spec("ops", "scan training step", "scan_training", {"batch": 1, **training}))

    mlstm = {**MLSTM_SIZES, **({"tokens": _QUICK_TOKENS} if quick else {})}
    specs.append(Spec("ops", "mLSTM", "mlstm", mlstm, memory=("parallel", "chunkwise")))
    longer = {Scale.quick: (), Scale.normal: (16384,), Scale.full: (16384, 65536)}[scale]
    for tokens in longer:
        sizes = {**mlstm, "tokens": tokens}
        specs.append(Spec("ops", "mLSTM", "mlstm", sizes, memory=("chunkwise",), timed=False))

    attention = {**ATTENTION_SIZES, **({"side": _QUICK_SIDE} if quick else {})}
    specs.append(
        Spec(
            "ops",
            "neighbourhood attention",
            "neighborhood",
            attention,
            memory=() if quick else ("unfold", "tiled", "native"),
        )
    )
    return tuple(specs)


def model_suite(name: str, scale: Scale) -> tuple[Spec, ...]:
    """A whole model: its time, its time with the step loop as its scan, its memory in one pass."""
    quick, full = scale is Scale.quick, scale is Scale.full
    back_ends = ("torch", "native")
    side, looped = (64, 32) if quick else (512, 512 if full else 128)
    sides = {Scale.quick: (128,), Scale.normal: (1024, 2048), Scale.full: (1024, 2048, 4096)}
    specs = []
    if looped != side:
        specs.append(Spec(name, "forward", "model", {"model": name, "side": looped}))
    timed = () if looped == side else back_ends
    specs.append(Spec(name, "forward", "model", {"model": name, "side": side}, forms=timed))
    fastest = resolve_backend("directional_scan", torch.zeros(1))
    specs.extend(
        Spec(
            name,
            "one pass",
            "model",
            {"model": name, "side": side},
            memory=(fastest,),
            timed=False,
        )
        for side in sides[scale]
    )
    return tuple(specs)
