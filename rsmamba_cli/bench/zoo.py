"""What every architecture of the zoo costs: the figures in its model card.

``python -m rsmamba_cli.bench.zoo [PATTERN]`` measures what ``measured.json`` beside the cards
lacks, ``--again`` everything, and writes the cards into ``models/README.md``.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from rsmamba_cli.bench.memory import measure_peak
from rsmamba_cli.bench.workloads import image_shapes
from rsmamba_models import create_model, list_models, model_info
from rsmamba_models.zoo.cards import MEASURED, SIDES, into_readme, read_measured

README = Path(__file__).parents[2] / "models" / "README.md"
"""Of a checkout; an installed package has none."""


def multiply_adds(name: str, side: int) -> int:
    """Multiply-adds of one image of ``side`` x ``side`` pixels, without computing anything.

    Those of convolutions, matrix products, attention (products with keys and values), samples
    between pixels (4 each), and selective scans: 4 a state, pixel and direction (decay's exponent,
    drive, update, output). Exponentials, norms and activations are not counted.

    Args:
        name: What ``create_model`` takes; bands and one class as it has them by default.
        side: In pixels.
    """
    with torch.device("meta"):
        model = create_model(name).eval()
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    with torch.inference_mode(), FakeTensorMode(allow_non_fake_inputs=True), counter:
        model.to_empty(device="cpu")
        model(*(torch.empty(shape) for shape in image_shapes(model, side)))
    return int(counter.get_total_flops()) // 2


def update(
    names: Iterable[str],
    sides: Iterable[int] = SIDES,
    *,
    memory: bool = True,
    again: bool = False,
    on_measured: Callable[[str], None] = lambda line: None,
) -> None:
    """Measure what is missing and write it down after every figure.

    Memory is the peak of a process of its own above the weights, of one thread, in float32, the
    images included. What does not fit into this machine's memory stays missing.

    Args:
        names: Of architectures.
        sides: Of images, in pixels.
        memory: Whether to measure memory, which takes a forward pass.
        again: Measure what is there too.
        on_measured: Gets a line for every figure.
    """
    for name, side in product(list(names), list(sides)):
        known = {} if again else read_measured().get(name, {}).get(str(side), {})
        if "multiply_adds" not in known:
            _write_down(name, side, {"multiply_adds": multiply_adds(name, side)})
            on_measured(f"{name} {side}: multiply-adds")
        if memory and "bytes" not in known:
            peak = measure_peak("model", {"model": name, "side": side}, "native", 1)
            if peak.bytes is not None:
                _write_down(name, side, {"bytes": peak.bytes})
            on_measured(f"{name} {side}: {peak.bytes} bytes {peak.note}")


def _write_down(name: str, side: int, figures: Mapping[str, int]) -> None:
    table = read_measured()
    row = table.setdefault(name, {})
    row["parameters"] = model_info(name)["parameters"]
    row[str(side)] = {**row.get(str(side), {}), **figures}
    known = {n: table[n] for n in list_models() if n in table}
    MEASURED.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def _formulas() -> dict[Any, Callable[..., int]]:
    """Twice the multiply-adds of operators that torch does not know, from the shapes."""

    def scan(u: Any, delta: Any, A: Any, *_: Any, **__: Any) -> int:
        directions, channels, states = A
        return 2 * 4 * int(u[0] * u[1] * directions * channels * states)

    def projected(u: Any, low: Any, dt_proj: Any, A: Any, *_: Any, **__: Any) -> int:
        directions, channels, rank = dt_proj
        return scan(u, None, A) + 2 * int(u[0] * u[1] * directions * channels * rank)

    def neighborhood(q: Any, k: Any, v: Any, bias: Any, window: int, *_: Any, **__: Any) -> int:
        batch, heads, height, width, channels = q
        keys = min(window, height) * min(window, width)
        return 2 * 2 * int(batch * heads * height * width * keys * channels)

    def attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        batch, heads, queries, channels = q
        return 2 * int(batch * heads * queries * k[2] * (channels + v[3]))

    def sample(image: Any, grid: Any, *_: Any, **__: Any) -> int:
        return 2 * 4 * int(image[0] * image[1] * grid[1] * grid[2])

    return {
        torch.ops.rsmamba.directional_scan: scan,
        torch.ops.rsmamba.projected_scan: projected,
        torch.ops.rsmamba.neighborhood_attention: neighborhood,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten.grid_sampler_2d: sample,
    }


def main(arguments: list[str]) -> None:
    """Measure, and write the cards."""
    parser = argparse.ArgumentParser(prog="python -m rsmamba_cli.bench.zoo")
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--side", type=int, action="append", choices=SIDES)
    parser.add_argument("--no-memory", action="store_true", help="count multiply-adds only")
    parser.add_argument("--again", action="store_true", help="measure what is there too")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    given = parser.parse_args(arguments)
    if not given.render:
        update(
            list_models(given.pattern),
            given.side or SIDES,
            memory=not given.no_memory,
            again=given.again,
            on_measured=lambda line: print(line, file=sys.stderr),
        )
    README.write_text(into_readme(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
