"""The process that ``suite`` starts: makes one map in one way and prints what it took as JSON."""

import gc
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rsmamba_cli.bench.pipeline.forms import FORMS, Work
from rsmamba_cli.bench.pipeline.scenes import draw_scene
from rsmamba_cli.resident import peak_bytes, reset_peak


def run(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"times": [one a round], "peak_bytes": above the loaded process, their median}``."""
    torch.set_num_threads(1)
    form = FORMS[request["form"]]
    work = Work(**{**request["work"], "scene": Path(request["work"]["scene"])})
    output = Path(request["output"])
    # What libraries set up at their first use is not the map's memory: a small one takes it away.
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        small = Path(folder) / "small.tif"
        draw_scene(small, work.tile + 70, work.tile + 70, "tiled deflate")
        form(replace(work, scene=small), Path(folder) / "mask.tif")
    times, peaks = [], []
    for _ in range(request["rounds"]):
        gc.collect()
        before = reset_peak()
        times.append(asdict(form(work, output)))
        peaks.append(max(0, peak_bytes() - before))
    return {"times": times, "peak_bytes": round(median(peaks))}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
