"""Samples a second and peak memory of the papers' recipes, each with its full-size model.

Takes training steps of each recipe (model, loss, optimiser, augmentation, precision) on noise with
the bands and classes of the recipe's dataset, in a process of its own.

    python examples/recipe_speed.py                                        # on the CPU, small
    python examples/recipe_speed.py --device cuda --batch-size 8 --crop 512 --precision bf16
    python examples/recipe_speed.py samba-loveda --set model.gradient_checkpointing=true
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import torch

from rsmamba_cli import get_dataset, load_recipe
from rsmamba_cli.resident import peak_bytes
from rsmamba_cli.training.budget import measure

RECIPES = (
    "rsmamba-official", "rsmamba-cd", "samba-loveda", "seglstm-loveda", "segman-ade20k",
    "mamba-diffusion-whu-opt-sar",
)  # fmt: skip
STANDS_FOR = {"rsmamba-official": "whu"}
"""A recipe without a dataset -> one that its paper used."""


def draw(folder: Path, dataset: str, task: str, side: int) -> int:
    """Write two tiles of noise with a dataset's bands; return how many classes it has."""
    info = get_dataset(dataset)
    rng = np.random.default_rng(0)
    bands = {"image": len(info.bands), "sar": len(info.sar_bands), "t1": 3, "t2": 3, "label": 1}
    roles = {"change": ("t1", "t2"), "multimodal": ("image", "sar")}.get(task, ("image",))
    for role in (*roles, "label"):
        (folder / "train" / role).mkdir(parents=True)
        top = len(info.classes) if role == "label" else 255
        for tile in range(2):
            values = rng.integers(0, top, (bands[role], side, side), dtype=np.uint8)
            profile = {"driver": "GTiff", "dtype": "uint8", "width": side, "height": side}
            profile["transform"] = rasterio.Affine.scale(1, -1)
            path = folder / "train" / role / f"{tile}.tif"
            with rasterio.open(path, "w", count=bands[role], **profile) as file:
                file.write(values)
    classes = [{"value": i, "name": f"class {i}"} for i in range(len(info.classes))]
    (folder / "classes.json").write_text(json.dumps({"classes": classes}))
    return len(classes)


def one(name: str, options: argparse.Namespace) -> dict[str, object]:
    """Measure a recipe in this process."""
    recipe = load_recipe(name, options.set)
    dataset = STANDS_FOR.get(name, recipe.data.dataset)
    task = get_dataset(dataset).tasks[0]
    with tempfile.TemporaryDirectory() as folder:
        classes = draw(Path(folder), dataset, task, 2 * options.crop)
        values = {
            "data.dataset": "folder",
            "data.root": folder,
            "data.task": task,
            "data.crop": options.crop,
            "data.crop_mode": "random",
            "data.tiles_per_batch": 0,
            "data.batch_size": options.batch_size,
            "augment.max_class_share": 1.0,
            "loop.device": options.device,
            "loop.precision": options.precision,
        }
        without = ["data.val_split=none", "augment.base_size=none", *options.set]
        speed = measure(load_recipe(name, without, values), options.seconds)
    peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else peak_bytes()
    return {
        "recipe": name,
        "model": recipe.model.name,
        "classes": classes,
        "samples_per_s": round(options.batch_size / speed.step, 3),
        "peak_gib": round(peak / 2**30, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long steps are timed")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the recipe")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(one(options.recipes[0], options)))
        return
    print("| recipe | model | classes | samples a second | peak memory, GiB |")
    print("| --- | --- | ---: | ---: | ---: |")
    rest = [a for a in sys.argv[1:] if a not in options.recipes]
    for name in options.recipes:
        words = [sys.executable, __file__, name, *rest, "--here"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        print("| " + " | ".join(str(v) for v in json.loads(done.stdout).values()) + " |")


if __name__ == "__main__":
    main()
