"""``--memory`` bounds what a run takes, or the run is refused with a bound that would do."""

import re
from contextlib import closing
from itertools import pairwise

import pytest
import rasterio
from inference_models import Constant, meta_of
from torch import nn

from rsmamba_cli.bench.pipeline.models import NAMES
from rsmamba_cli.bench.pipeline.scenes import draw_sparse_scene
from rsmamba_cli.bench.pipeline.suite import _in_process
from rsmamba_cli.errors import InputError
from rsmamba_cli.events import ignore_events
from rsmamba_cli.inference import PredictOptions, plan_summary, predict
from rsmamba_cli.inference.prepare import prepare


@pytest.mark.parametrize(("height", "width"), [(600, 60_000), (30_000, 700)])
def test_a_run_stays_within_its_bound(tmp_path, height, width):
    scene = tmp_path / "scene.tif"
    draw_sparse_scene(scene, height, width, areas=0, side=512)
    work = {
        "scene": str(scene), "model": NAMES[0], "tile": 512, "overlap": 128, "trim": 0,
        "memory": "256MiB",
    }  # fmt: skip
    found = _in_process(
        {"form": "rsmamba", "work": work, "output": str(tmp_path / "mask.tif"), "rounds": 1}
    )
    assert found["peak_bytes"] <= 256 << 20


@pytest.mark.parametrize(
    ("layout", "whole"),
    [
        ({"tiled": True, "blockxsize": 512, "blockysize": 512}, False),
        ({"tiled": True, "blockxsize": 256, "blockysize": 1024}, False),
        ({"blockysize": 1}, False),
        ({"blockysize": 4000}, True),  # one block is the whole scene
    ],
)
@pytest.mark.parametrize("memory", ["1GiB", "4GiB"])
def test_the_cache_holds_what_is_read_at_a_time(tmp_path, use_model, layout, whole, memory):
    use_model(Constant(0.0, 0.0, 1.0), meta_of(8, 3))
    path, layout = tmp_path / "scene.tif", {**layout, "sparse_ok": True, "compress": "deflate"}
    size = {"height": 4000, "width": 40_000, "count": 8, "dtype": "float32"}
    with rasterio.open(path, "w", driver="GTiff", bigtiff="YES", **size, **layout):
        pass
    options = PredictOptions(memory=memory, tile=512, device="cpu")
    with closing(prepare("segmentation", (str(path),), options, ignore_events)) as prepared:
        plan, rows = prepared.plan, prepared.source.rows_at_once
        starts = [plan.cols.cuts[s] for s in plan.strips]
        widest = max(b - a for a, b in pairwise(starts))
        assert (rows == 512) == whole
        needed = prepared.inputs.base_scene.cache_bytes(rows, widest)
        assert (prepared.cache_bytes < needed) == whole
        assert prepared.memory_forecast() < options.memory_bytes()


def advised(message):
    (size,) = re.findall(r"use --memory (\d+MiB) or more", message)
    return size


def test_a_window_that_does_not_fit_is_refused_with_what_would(scene_factory, tmp_path, use_model):
    use_model(Constant(0.0, 0.0, 1.0), meta_of(3, 3))
    path = scene_factory(height=3000, width=3000, sparse_ok=True, values=None, nodata=0)
    output, memory = tmp_path / "mask.tif", "256MiB"
    for what in ("beside the model, and --memory allows 256 MiB", "in the model for a batch"):
        with pytest.raises(InputError, match=what) as found:
            predict(path, output, PredictOptions(memory=memory, tile="full"))
        assert list(tmp_path.glob("mask*")) == []
        memory = advised(str(found.value))
    # Now both are known.
    predict(path, output, PredictOptions(memory=memory, tile="full"))


class Wide(nn.Module):
    """Far more channels inside than fit."""

    size_multiple = 1

    def __init__(self):
        super().__init__()
        self.rise, self.fall = nn.Conv2d(3, 640, 1), nn.Conv2d(640, 1, 1)

    def forward(self, image):
        return self.fall(self.rise(image))


def test_a_model_that_does_not_fit_is_refused_with_what_would(scene_factory, tmp_path, use_model):
    use_model(Wide(), meta_of(3, 2))
    path = scene_factory(height=512, width=512)
    with pytest.raises(InputError, match="in the model for a batch of 1 windows") as found:
        predict(path, tmp_path / "mask.tif", PredictOptions(memory="512MiB", tile=512))
    assert 640 < int(advised(str(found.value)).removesuffix("MiB")) < 1400
    assert list(tmp_path.glob("mask*")) == []


def test_a_plan_says_so_and_goes_on(scene_factory, use_model):
    use_model(Wide(), meta_of(3, 2))
    path = scene_factory(height=512, width=512)
    text = []
    options = PredictOptions(memory="512MiB", tile=512)
    found = plan_summary(path, options, on_event=lambda e: text.append(e.message))
    assert "--memory allows 512 MiB: use --memory " in " ".join(text)
    assert found["model_memory_bytes"] > 640 << 20
