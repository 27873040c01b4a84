"""Lay out your own tiles as a dataset folder, check it, train on it and measure the result.

    python examples/own_dataset.py [FOLDER]

The tiles are drawn here; yours would be PNG or GeoTIFF files under the same names:

    FOLDER/data/{train,val,test}/{image,label}/NAME.png      labels 0 and 255 (or 0 and 1)

Training stops after a few dozen steps: this shows the way, not a good model.
"""

import sys
from pathlib import Path

from PIL import Image

from rsmamba_cli import evaluate, load_recipe, train
from rsmamba_cli.datasets import check_dataset
from rsmamba_cli.datasets.generator import make_tile

TILES = {"train": 32, "val": 6, "test": 6}


def write_tiles(root: Path) -> None:
    """Write images and labels of all splits."""
    seed = 0
    for split, count in TILES.items():
        for role in ("image", "label"):
            (root / split / role).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            seed += 1
            tile = make_tile(seed, size=128, gsd=0.5)
            name = f"tile_{seed:03d}.png"
            Image.fromarray(tile.t1.transpose(1, 2, 0)).save(root / split / "image" / name)
            Image.fromarray(tile.building * 255).save(root / split / "label" / name)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "example-own-dataset")
    data = folder / "data"
    write_tiles(data)

    report = check_dataset("folder", data)
    for split, found in report.splits.items():
        print(f"{split}: {found.tiles} tiles, {found.class_pixels}")

    config = load_recipe(
        values={
            "data.dataset": "folder",
            "data.root": data,
            "data.crop": 128,
            "model.name": "rsm_ss_nano",
            "loop.epochs": None,
            "loop.steps": 60,
            "loop.validate_every_epochs": None,
            "loop.validate_every_steps": 30,
            "schedule.warmup_steps": 10,
        }
    )
    result = train(config, folder / "run")
    print(f"best on val: F1 {result.best_metrics['f1']:.3f} after {result.steps} steps")

    scores = evaluate(result.best or result.last, "folder", data, split="test").metrics
    print(f"on test: F1 {scores['f1']:.3f}, IoU {scores['iou']:.3f}")
    print(f"use it with: rsmamba predict SCENE.tif --model {result.best}")


if __name__ == "__main__":
    main()
