"""Make the two checkpoints that are embedded in the package (rsmamba_cli/assets).

Trains RS-Mamba nano for buildings and for change with the recipes ``demo-segmentation`` and
``demo-change`` on drawn scenes, new ones in every epoch; measures the result on scenes that no
training has seen; writes float16 checkpoints that carry these figures.

    python examples/train_embedded.py                      # both, into ./embedded
    python examples/train_embedded.py --task change --steps 200 --refine --scenes 2
    python examples/train_embedded.py --install            # and into the package

An interrupted run goes on when it is started again with the same options.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsmamba_cli import TrainConfig, load_recipe, train
from rsmamba_cli.datasets.generator import GeneratedScene, make_scene
from rsmamba_cli.events import Event, Finished, Progress, Started, Warned
from rsmamba_cli.inference.predictor import Predictor
from rsmamba_cli.training import TrainResult
from rsmamba_models import CheckpointMeta, load_checkpoint, save_checkpoint

TASKS = ("segmentation", "change")
GSDS = (0.3, 0.4, 0.5, 0.6, 0.8)
REFINEMENTS = {"segmentation": (600, 1600), "change": (600,)}
"""Steps of each stage after the first."""
REFINED_CROP = 384
UNSEEN = 90_001
"""First part of the two-part seeds of the measured scenes: training has one-part seeds."""

COLORS = {
    "segmentation": ((0, 0, 0), (226, 66, 40)),
    "change": ((0, 0, 0), (240, 60, 200)),
}
CITATION = (
    "Architecture: S. Zhao et al.: RS-Mamba for large remote sensing image dense prediction. "
    "IEEE TGRS 62, 2024 (arXiv 2404.02668)"
)


@dataclass
class Console:
    """Prints a line now and then."""

    every: float = 20.0
    done: int = 0
    total: int | None = None
    last: float = 0.0

    def __call__(self, event: Event) -> None:
        """Take one event."""
        match event:
            case Started(stage=stage, total=total):
                self.done, self.total = 0, total
                print(f"{stage}: {total or '?'} {event.unit}", flush=True)
            case Progress(advance=advance, detail=detail):
                self.done += advance
                if detail and time.monotonic() - self.last > self.every:
                    self.last = time.monotonic()
                    print(f"  {self.done}/{self.total or '?'} {detail}", flush=True)
            case Warned(message=message):
                print(f"warning: {message}", file=sys.stderr, flush=True)
            case Finished(stage=stage, summary=summary):
                print(f"{stage}: {summary}", flush=True)


def recipe(
    task: str, options: argparse.Namespace, steps: int, stage: int = 0, init: Path | None = None
) -> TrainConfig:
    """The recipe that comes with the toolkit; the stages after the first have larger crops.

    Most is learnt on many small crops. The windows of ``predict`` are larger, and a scan along a
    longer sequence than any in training does worse: the later stages make up for that. Each starts
    from the one before and draws scenes of its own.
    """
    values: dict[str, Any] = {
        "data.demo.gsd": GSDS,
        "data.workers": options.workers,
        "loop.device": options.device,
        "loop.steps": steps,
        "loop.validate_every_steps": max(1, steps // (4 if stage else 8)),
        "schedule.warmup_steps": min(200, steps // 5),
        "checkpoint.tile": 512,
        "checkpoint.citation": CITATION,
    }
    if stage:
        side = min(REFINED_CROP, 2 * load_recipe(f"demo-{task}", options.set).data.crop)
        values |= {
            "init": init,
            "seed": 42 + stage,
            "data.crop": side,
            "data.demo.size": side,
            "data.demo.seed": stage - 1,
            "data.batch_size": 3,
            "optimiser.lr": 1e-3,
        }
    return load_recipe(f"demo-{task}", options.set, values)


def measure(path: Path, scenes: int, size: int = 512) -> dict[str, float]:
    """Scores of a checkpoint on unseen scenes, over all pixels and for each pixel size.

    Returns:
        "f1", "iou", "precision", "recall" and "f1_at_0.50m" and so on, 0..1.
    """
    model, meta = load_checkpoint(path)
    predictor = Predictor(model, meta)
    total = np.zeros(3)
    metrics: dict[str, float] = {}
    for gsd in GSDS:
        counts = np.zeros(3)
        for number in range(scenes):
            scene = make_scene((UNSEEN, number, round(100 * gsd)), size, size, gsd)
            counts += score(predictor, meta, scene)
        total += counts
        metrics[f"f1_at_{gsd:.2f}m"] = f1(counts)
    hit, false, missed = total
    metrics |= {
        "f1": f1(total),
        "iou": hit / max(1, hit + false + missed),
        "precision": hit / max(1, hit + false),
        "recall": hit / max(1, hit + missed),
    }
    return {name: round(float(value), 4) for name, value in metrics.items()}


def score(predictor: Predictor, meta: CheckpointMeta, scene: GeneratedScene) -> np.ndarray:
    """Hits, false alarms and misses of one scene."""
    dates = (scene.t1, scene.t2) if meta.task == "change" else (scene.t1,)
    truth = (scene.change if meta.task == "change" else scene.building) == 1
    arrays = [
        spec.transform.apply(date)[None] for spec, date in zip(meta.inputs, dates, strict=True)
    ]
    found = predictor(arrays)[0, 1] > meta.threshold
    return np.array([(found & truth).sum(), (found & ~truth).sum(), (~found & truth).sum()])


def f1(counts: np.ndarray) -> float:
    hit, false, missed = (float(count) for count in counts)
    return 2 * hit / max(1.0, 2 * hit + false + missed)


def publish(best: Path, output: Path, task: str, scenes: int) -> dict[str, float]:
    """Measure a checkpoint and write it with its figures, in float16."""
    metrics = measure(best, scenes)
    model, meta = load_checkpoint(best)
    classes = tuple(
        info.model_copy(update={"color": color})
        for info, color in zip(meta.classes, COLORS[task], strict=True)
    )
    training = {
        **meta.training,
        "made_by": "examples/train_embedded.py",
        "measured_on": f"{scenes} unseen drawn scenes of 512 x 512 for each of {GSDS} m a pixel",
    }
    meta = meta.model_copy(
        update={"metrics": metrics, "classes": classes, "training": training, "demo": True}
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(output, model, meta, dtype=torch.float16)
    return metrics


def run(config: TrainConfig, folder: Path) -> TrainResult:
    """Train, going on where an interrupted run stopped."""
    return train(config, folder, resume=(folder / "state.pt").is_file(), on_event=Console())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=(*TASKS, "both"), default="both")
    parser.add_argument("--out", type=Path, default=Path("embedded"), help="folder of the runs")
    parser.add_argument("--steps", type=int, default=2400, help="optimiser steps of stage one")
    parser.add_argument("--refine", type=int, nargs="*", help="steps of the stages after it")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the recipe")
    parser.add_argument("--scenes", type=int, default=24, help="measured scenes a pixel size")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw scenes")
    parser.add_argument("--install", action="store_true", help="copy into the package's assets")
    options = parser.parse_args()
    for task in TASKS if options.task == "both" else (options.task,):
        refinements = REFINEMENTS[task] if options.refine is None else options.refine
        result = run(recipe(task, options, options.steps), options.out / task)
        for stage, steps in enumerate(refinements, start=1):
            config = recipe(task, options, steps, stage, result.best or result.last)
            result = run(config, options.out / f"{task}-{stage}")
        name = f"demo_{task}.safetensors"
        output = options.out / name
        metrics = publish(result.best or result.last, output, task, options.scenes)
        print(f"{output}: " + ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        if options.install:
            assets = Path(__file__).parents[1] / "rsmamba_cli" / "assets"
            target = assets / name
            target.write_bytes(output.read_bytes())
            print(f"installed as {target}")


if __name__ == "__main__":
    main()
