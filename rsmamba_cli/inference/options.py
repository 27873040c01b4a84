"""What a user can ask of `predict` and `change`, and what they get back."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rsmamba_cli.errors import InputError

Blend = Literal["hann", "average", "crop"]
DEFAULT_MEMORY = 4 << 30
_PATHS = ("model", "sar", "mask", "aoi", "probabilities", "uncertainty", "polygons")
_OF_ONE_CALL = ("resume", "overwrite", "skip_existing", "update", "workers", "scheduler", "shard")
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


@dataclass(frozen=True)
class PredictOptions:
    """Options of `predict` and `change`; the defaults are those of the commands.

    Attributes:
        model: a checkpoint; None or "demo" takes the embedded demonstration checkpoint.
        bands: 1-based bands to feed, in the model's order; None lets file and checkpoint decide.
        sar: the second image of a model of optical and radar, on any grid; `predict` only.
        sar_bands: as ``bands``, of the ``sar`` image or, without one, of the scene itself.
        sar_nodata: as ``nodata``, for the ``sar`` image's bands.
        nodata: value of pixels without data, over whatever the file says.
        nodata_rule: a declared nodata value counts where "all" used bands, or "any", hold it.
        mask: raster on any grid; its non-zero pixels are left out.
        tile: window size in pixels, "full" for the scene in one pass, None for the checkpoint's.
        overlap: overlap of neighbouring windows as a fraction, None for the checkpoint's.
        trim: pixels dropped from inner window sides before blending, None for the checkpoint's.
        blend: how overlapping windows are merged.
        batch_size: windows a forward pass.
        threads: CPU threads of torch; None leaves its setting alone.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "auto" (fp32), "fp32", "bf16", "fp16".
        tta: test-time augmentation: "none", "flip" (4 views) or "d4" (8 views).
        aoi: vector file in any CRS; only pixels whose centre lies inside are answered.
        bbox: (x0, y0, x1, y1) with the same effect, in ``bbox_crs``.
        bbox_crs: CRS of ``bbox``; None for the scene's own.
        probabilities: raster of class probabilities to write as well.
        uncertainty: raster of the normalised entropy to write as well.
        polygons: vector file to write as well (.gpkg, .geojson, .fgb, .parquet).
        min_area: polygons smaller than this many square metres are left out.
        simplify: polygons are simplified by this many pixels.
        sieve: regions below ``min_area`` are given to what surrounds them, in the mask too.
        style: write a QGIS style beside the mask.
        stac: write a STAC item beside the mask.
        threshold: probability above which a two-class model says foreground.
        memory: bound on memory in bytes, or text such as "4GiB"; chooses how the work is cut.
        resume: go on with an interrupted run.
        overwrite: replace an existing output.
        update: go over an existing map again where its input has changed, and nowhere else.
        updatable: keep checksums of the input beside the mask, for a later ``update``.
        skip_existing: leave an existing output alone and say so.
        grid: which date's grid a change map lies on: "t1" or "t2".
        sampler: of a diffusion model: "ddim" or "ddpm"; None for the checkpoint's.
        steps: of the sampler; None for the checkpoint's.
        seed: of the sampler's noise; None for 0.
        workers: local processes that share the work and the memory; several GPUs in ``device``
            take one each.
        scheduler: address of a Dask scheduler whose workers do the work; each of them may use
            ``memory``, and all see the scene, the checkpoint and the output's folder under the
            same paths.
        resample: bring a scene whose pixel size is more than 20 % off the checkpoint's to that
            size for the model, and the probabilities back.
        mosaic: take all scenes as the sheets of one; `predict_mosaic` only.
        stack: take all scenes as the bands of one.
        shard: (i, n): do the i-th of n parts only, and write no outputs; see `merge`.
    """

    model: Path | str | None = None
    bands: tuple[int, ...] | None = None
    sar: Path | str | None = None
    sar_bands: tuple[int, ...] | None = None
    sar_nodata: float | None = None
    nodata: float | None = None
    nodata_rule: Literal["all", "any"] = "all"
    mask: Path | str | None = None
    tile: int | Literal["full"] | None = None
    overlap: float | None = None
    trim: int | None = None
    blend: Blend = "hann"
    batch_size: int | Literal["auto"] = "auto"
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"
    tta: Literal["none", "flip", "d4"] = "none"
    aoi: Path | str | None = None
    bbox: tuple[float, float, float, float] | None = None
    bbox_crs: str | None = None
    probabilities: Path | str | None = None
    uncertainty: Path | str | None = None
    polygons: Path | str | None = None
    min_area: float = 0.0
    simplify: float = 0.0
    sieve: bool = False
    style: bool = False
    stac: bool = False
    threshold: float | None = None
    memory: int | str = DEFAULT_MEMORY
    resume: bool = False
    overwrite: bool = False
    update: bool = False
    updatable: bool = False
    skip_existing: bool = False
    grid: Literal["t1", "t2"] = "t1"
    sampler: Literal["ddim", "ddpm"] | None = None
    steps: int | None = None
    seed: int | None = None
    workers: int = 1
    scheduler: str | None = None
    resample: bool = True
    mosaic: bool = False
    stack: bool = False
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _one_of("--nodata-rule", self.nodata_rule, ("all", "any"))
        _one_of("--blend", self.blend, ("hann", "average", "crop"))
        _one_of("--precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        _one_of("--tta", self.tta, ("none", "flip", "d4"))
        _one_of("--grid", self.grid, ("t1", "t2"))
        if isinstance(self.tile, str):
            _one_of("--tile", self.tile, ("full",))
        elif self.tile is not None:
            _at_least("--tile", self.tile, 1)
        if isinstance(self.batch_size, str):
            _one_of("--batch-size", self.batch_size, ("auto",))
        else:
            _at_least("--batch-size", self.batch_size, 1)
        if self.sampler is not None:
            _one_of("--sampler", self.sampler, ("ddim", "ddpm"))
        for name, value, least in (
            ("--threads", self.threads, 1),
            ("--trim", self.trim, 0),
            ("--steps", self.steps, 1),
            ("--seed", self.seed, 0),
        ):
            if value is not None:
                _at_least(name, value, least)
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise InputError(f"--overlap is a fraction below 1; got {self.overlap}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InputError(f"--threshold lies between 0 and 1; got {self.threshold}")
        _at_least("--workers", self.workers, 1)
        if self.scheduler is not None and self.workers > 1:
            raise InputError("--workers are local processes; with --scheduler the cluster has them")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise InputError(f"--shard is I/N with I from 1 to N; got {self.shard}")
        _at_least("--min-area", self.min_area, 0)
        _at_least("--simplify", self.simplify, 0)
        if self.mosaic and self.stack:
            raise InputError("--mosaic and --stack exclude each other")
        if self.update and (self.sieve or self.shard is not None):
            raise InputError("--update goes with neither --sieve nor --shard")
        if self.sieve and not self.min_area:
            raise InputError("--sieve needs --min-area M2: what is below it is taken out")
        if self.min_area and self.polygons is None and not self.sieve:
            raise InputError("--min-area shapes polygons: add --polygons FILE, or --sieve the mask")
        if self.simplify and self.polygons is None:
            raise InputError("--simplify shapes polygons; add --polygons FILE")
        self.memory_bytes()

    def with_absolute_paths(self) -> "PredictOptions":
        """The same for a process in another folder."""
        paths: Any = {
            name: Path(value).absolute()
            for name in _PATHS
            if (value := getattr(self, name)) is not None and str(value) != "demo"
        }
        return replace(self, **paths)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` understands: all but how the work is shared and what exists already."""
        values = asdict(self.with_absolute_paths())
        return {
            name: os.fspath(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if name not in _OF_ONE_CALL
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PredictOptions":
        """Options from what `to_json` returned and JSON has carried.

        Raises:
            InputError: other values.
        """
        given: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return cls(**given)
        except TypeError as error:
            raise InputError(f"not the options of a run of this version ({error})") from error

    def memory_bytes(self) -> int:
        """The memory bound in bytes.

        Raises:
            InputError: not a size, or less than 256 MiB.
        """
        size = self.memory
        if isinstance(size, str):
            found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", size, re.IGNORECASE)
            if found is None:
                raise InputError(f"--memory is a size such as 4GiB or 800MiB; got {self.memory!r}")
            size = int(float(found.group(1)) * (1 << _UNITS[found.group(2).upper()]))
        _at_least("--memory (in bytes)", size, 256 << 20)
        return size


@dataclass(frozen=True)
class PredictResult:
    """What `predict` or `change` made.

    Attributes:
        output: the mask.
        files: every file written, by role ("mask", "probabilities", "uncertainty", "polygons").
        width: columns of the mask.
        height: rows of the mask.
        windows: windows of the scene's lattice.
        windows_computed: windows that went through the model in this run (wholly invalid ones and
            those finished before a resume did not).
        pixels_per_class: class name to pixels; "nodata" counts pixels without an answer.
        area_m2_per_class: class name to square metres on the ellipsoid; None without a CRS.
        seconds: wall time of the call.
        megapixels_per_second: pixels of the scene over ``seconds``.
        peak_memory_bytes: largest resident size of this process so far.
        device: where the model ran.
        precision: in which floating point.
        backend: implementation of the scan.
        model: architecture.
        skipped: nothing was done because the output was there already.
        details: more, by command (two inputs: "alignment", "overlap"; change: "shift" too; an
            input that was not given: "missing").
    """

    output: Path
    files: dict[str, Path]
    width: int
    height: int
    windows: int
    windows_computed: int
    pixels_per_class: dict[str, int]
    area_m2_per_class: dict[str, float] | None
    seconds: float
    megapixels_per_second: float
    peak_memory_bytes: int
    device: str
    precision: str
    backend: str
    model: str
    skipped: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        values = asdict(self)
        values["output"] = os.fspath(self.output)
        values["files"] = {role: os.fspath(path) for role, path in self.files.items()}
        return values


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} is one of {', '.join(allowed)}; got {value!r}")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise InputError(f"{name} is {least} or more; got {value}")
