"""Ways to make the same map: this toolkit, its input and output alone, a loop, and MONAI."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.windows import Window

from rsmamba_cli.bench.pipeline.models import CLASSES, build, metadata
from rsmamba_cli.events import Event, Progress, ignore_events
from rsmamba_cli.inference.engine import InProcessEngine
from rsmamba_cli.inference.options import PredictOptions
from rsmamba_cli.inference.predictor import Predictor
from rsmamba_cli.inference.prepare import prepare_model
from rsmamba_cli.inference.products import MapOutputs, output_files
from rsmamba_cli.raster.opening import gdal_settings
from rsmamba_cli.raster.store import Store

RSMAMBA, FLOOR, LOOP, MONAI, MODEL = (
    "rsmamba",
    "input and output alone",
    "row-band loop",
    "MONAI",
    "model alone",
)
ROWS = 512


@dataclass(frozen=True)
class Work:
    """What is to be computed.

    Attributes:
        scene: four bands.
        model: one of `models.NAMES`.
        tile: side of a window.
        overlap: of neighbouring windows, in pixels.
        trim: pixels dropped from inner window sides (rsmamba alone knows how).
        memory: bound, as `--memory` takes it (rsmamba alone knows one).
    """

    scene: Path
    model: str
    tile: int
    overlap: int
    trim: int
    memory: str


@dataclass(frozen=True)
class Times:
    """What a form took, in seconds.

    Attributes:
        mask: to the finished mask, a tiled and deflated GeoTIFF.
        mask_cpu: the same, of all threads together.
        after: from there to a cloud-optimised file with overviews that was read back.
        windows: that went through the model.
    """

    mask: float
    mask_cpu: float
    after: float = 0.0
    windows: int = 0


class _Clock:
    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()
        self.now()

    def now(self) -> None:
        self.wall = time.perf_counter() - self._began[0]
        self.cpu = time.process_time() - self._began[1]


def rsmamba(work: Work, output: Path) -> Times:
    """The toolkit's own way: plan, engine, store, outputs; all that `predict` does."""
    clock = _Clock()
    options = PredictOptions(
        tile=work.tile,
        overlap=work.overlap / work.tile,
        trim=work.trim,
        device="cpu",
        threads=1,
        memory=work.memory,
        overwrite=True,
    )
    meta = metadata(work.tile)
    prepared = prepare_model(Path(work.model), meta, (str(work.scene),), options, ignore_events)
    outputs = MapOutputs(output_files(output, options))
    model = Predictor(build(work.model), meta, "cpu", "fp32", prepared.plan.batch_size)

    def written(event: Event) -> None:
        # The last stripe of the tiled file: what follows makes a COG of it.
        if isinstance(event, Progress):
            clock.now()

    with contextlib.closing(prepared), gdal_settings(prepared.cache_bytes):
        plan = prepared.plan
        with Store(output, plan.description, plan.layout, resume=False, restart=True) as store:
            windows = InProcessEngine(prepared.source).run(plan, model, store)
            outputs.write(prepared, store, written, lambda: None)
            store.discard()
    mask, cpu = clock.wall, clock.cpu
    clock.now()
    return Times(mask, cpu, clock.wall - mask, windows)


def floor(work: Work, output: Path) -> Times:
    """Read all bands once, write a deflated mask: what no way of doing it can do without."""
    clock = _Clock()
    with rasterio.open(work.scene) as source, _mask(output, source) as mask:
        for window in _bands(source):
            values = source.read(window=window)
            mask.write((values[0] >> 7).astype(np.uint8), 1, window=window)
    clock.now()
    return Times(clock.wall, clock.cpu)


def row_band_loop(work: Work, output: Path) -> Times:
    """What one writes by hand: bands of rows, a sum of Hann-weighted windows, no threads."""
    clock = _Clock()
    model, tile, stride = build(work.model), work.tile, work.tile - work.overlap
    ramp = np.hanning(tile + 2)[1:-1].astype(np.float32)
    weight = ramp[:, None] * ramp
    with rasterio.open(work.scene) as source, _mask(output, source) as mask:
        height, width = source.shape
        tops, lefts = _starts(height, tile, stride), _starts(width, tile, stride)
        sums = np.zeros((CLASSES, tile, width), dtype=np.float32)
        for top, below in zip(tops, [*tops[1:], height], strict=True):
            band = source.read(window=Window(0, top, width, tile)).astype(np.float32)
            for left in lefts:
                window = torch.from_numpy(band[None, :, :, left : left + tile])
                with torch.inference_mode():
                    found = torch.softmax(model(window), 1)[0].numpy()
                sums[:, :, left : left + tile] += found * weight
            done = below - top
            labels = sums[:, :done].argmax(0).astype(np.uint8)
            mask.write(labels, 1, window=Window(0, top, width, done))
            sums[:, : tile - done] = sums[:, done:].copy()
            sums[:, tile - done :] = 0
    clock.now()
    return Times(clock.wall, clock.cpu, windows=len(tops) * len(lefts))


def monai(work: Work, output: Path) -> Times:
    """`sliding_window_inference` of MONAI, which takes and gives whole scenes.

    Raises:
        ImportError: it is not installed.
    """
    from monai.inferers import sliding_window_inference

    clock = _Clock()
    model = build(work.model)
    with rasterio.open(work.scene) as source:
        image = torch.from_numpy(source.read().astype(np.float32))[None]
        with torch.inference_mode():
            found = sliding_window_inference(
                image,
                roi_size=(work.tile, work.tile),
                sw_batch_size=1,
                predictor=lambda x: torch.softmax(model(x), 1),
                overlap=work.overlap / work.tile,
                mode="gaussian",
            )
        labels = found[0].numpy().argmax(0).astype(np.uint8)
        with _mask(output, source) as mask:
            mask.write(labels, 1)
    clock.now()
    return Times(clock.wall, clock.cpu)


def model_alone(work: Work, output: Path) -> Times:
    """Forward passes and softmax of as many windows, with nothing around them."""
    with rasterio.open(work.scene) as source:
        window = source.read(window=Window(0, 0, work.tile, work.tile)).astype(np.float32)
        stride = min(work.tile - work.overlap, work.tile - 2 * work.trim)
        count = len(_starts(source.height, work.tile, stride))
        count *= len(_starts(source.width, work.tile, stride))
    model = Predictor(build(work.model), metadata(work.tile))
    clock = _Clock()
    for _ in range(count):
        model([window[None]])
    clock.now()
    return Times(clock.wall, clock.cpu, windows=count)


FORMS: dict[str, Callable[[Work, Path], Times]] = {
    RSMAMBA: rsmamba,
    FLOOR: floor,
    LOOP: row_band_loop,
    MONAI: monai,
    MODEL: model_alone,
}


def exact_labels(scene: Path, model: str) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """The model's map in a single pass, without any rounding, as (first row, labels) of bands.

    Bands are read with what the model sees beyond them, and everything is computed in float64,
    where the sums of integers are exact.
    """
    from rsmamba_cli.bench.pipeline.models import RADIUS

    net = build(model).double()
    with rasterio.open(scene) as source, torch.inference_mode():
        for window in _bands(source):
            first, rows = window.row_off, window.height
            top, bottom = max(first - RADIUS, 0), min(first + rows + RADIUS, source.height)
            values = source.read(window=Window(0, top, source.width, bottom - top))
            logits = net(torch.from_numpy(values.astype(np.float64))[None])[0].numpy()
            yield first, logits[:, first - top : first - top + rows].argmax(0).astype(np.uint8)


def keep_exact_labels(scene: Path, model: str, path: Path) -> None:
    """Write `exact_labels` to an array file (.npy)."""
    with rasterio.open(scene) as source:
        shape = source.shape
    kept = np.lib.format.open_memmap(path, "w+", dtype=np.uint8, shape=shape)
    for first, labels in exact_labels(scene, model):
        kept[first : first + len(labels)] = labels
    kept.flush()


def differing(output: Path, exact: Path) -> int:
    """Pixels of a map that are not those of `keep_exact_labels`."""
    labels, count = np.load(exact, mmap_mode="r"), 0
    with rasterio.open(output) as mask:
        for window in _bands(mask):
            rows = slice(window.row_off, window.row_off + window.height)
            count += int(np.count_nonzero(mask.read(1, window=window) != labels[rows]))
    return count


def _mask(path: Path, like: Any) -> Any:
    return rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=like.height,
        width=like.width,
        count=1,
        dtype="uint8",
        crs=like.crs,
        transform=like.transform,
        nodata=255,
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
        zlevel=1,
    )


def _bands(source: Any) -> Iterator[Window]:
    for row in range(0, source.height, ROWS):
        yield Window(0, row, source.width, min(ROWS, source.height - row))


def _starts(length: int, tile: int, stride: int) -> list[int]:
    return [*range(0, length - tile, stride), length - tile]
