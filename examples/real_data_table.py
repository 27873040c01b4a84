"""Train on five small sets of real images with three seeds each, and print a table of the results.

    python examples/real_data_table.py DATA --out runs        # all; started again, it goes on
    python examples/real_data_table.py DATA --only kampala --seeds 1 --steps 20

DATA holds the folders ``seg_kampala``, ``cd_ombria`` and ``cd_levir`` as docs/results.md describes
them. Every run is `rsmamba train` with the recipe ``small-data``, whose best checkpoint on val is
measured on val and test; nothing is chosen by test.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rsmamba_cli import evaluate, load_recipe, train


@dataclass(frozen=True)
class Run:
    """A set, which of its images are used, and what differs from the recipe, as for ``--set``."""

    folder: str
    task: str
    settings: str = ""


SCRATCH = " init=none optimiser.layer_decay=none optimiser.lr=1e-3"
ORDER = " augment.swap_dates=0"  # what dries up is no flood: the order of the dates matters
PLAIN = (  # as the recipe ``default`` has them
    " augment.brightness=0.2 augment.contrast=0.2 augment.saturation=0 augment.band_shift=0"
    " augment.noise=0 augment.scale=[1,1] optimiser.ema=none schedule.warmup_steps=30"
)
OPTICAL = "data.roles=[t1,t2] data.nodata=0"
RADAR = "data.roles=[sar_t1,sar_t2] data.nodata=255"
RUNS = {
    "kampala": Run("seg_kampala", "segmentation"),
    "ombria optical": Run("cd_ombria", "change", OPTICAL + ORDER + SCRATCH),
    "ombria radar": Run("cd_ombria", "change", RADAR + SCRATCH + PLAIN),
    "ombria fusion": Run("cd_ombria", "multimodal", "data.roles=[t2,sar_t2] data.nodata=[0,255]"),
    "levir": Run("cd_levir", "change", "optimiser.layer_decay=none schedule.warmup_steps=30"),
}


def once(run: Run, data: Path, values: dict[str, Any], out: Path) -> dict[str, Any]:
    """One training, going on where it was interrupted, and what its best checkpoint scores."""
    where = {"data.dataset": "folder", "data.root": data / run.folder, "data.task": run.task}
    config = load_recipe("small-data", run.settings.split(), where | values)
    started = time.process_time()
    trained = train(config, out, resume=(out / "state.pt").is_file())
    minutes = (time.process_time() - started) / 60
    figures: dict[str, Any] = {"steps": trained.steps, "minutes": round(minutes, 2)}
    best, roles = trained.best or trained.last, config.data.roles
    for split in ("val", "test"):
        measured = evaluate(best, "folder", data / run.folder, split, roles=roles, rounds=0)
        figures[split] = round(100 * measured.metrics["f1"], 1)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--only", choices=RUNS, nargs="*", default=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--init", default="demo", help="checkpoint to start from")
    options = parser.parse_args()
    print("| set | steps | CPU minutes | val F1 | mean ± deviation | test F1 | mean ± deviation |")
    print("| --- | ---: | ---: | --- | --- | --- | --- |")
    for name in options.only:
        run, rows = RUNS[name], []
        for seed in options.seeds:
            values = {
                "init": options.init,
                "seed": seed,
                "loop.steps": options.steps,
                "loop.validate_every_steps": max(1, options.steps // 5),
                "loop.device": "cpu",
            }
            out = options.out / f"{name.replace(' ', '-')}-{seed}"
            result = out / "result.json"
            if not result.is_file():
                result.write_text(json.dumps(once(run, options.data, values, out)))
            rows.append(json.loads(result.read_text()))
        cells = [name, str(rows[0]["steps"]), f"{mean(r['minutes'] for r in rows):.1f}"]
        for split in ("val", "test"):
            scores = [row[split] for row in rows]
            spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
            cells += [" / ".join(map(str, scores)), f"{mean(scores):.1f}{spread}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
