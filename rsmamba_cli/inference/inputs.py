"""Which file feeds which input of the model, and all of them on one grid."""

import os
from contextlib import ExitStack
from dataclasses import dataclass

import rasterio

from rsmamba_cli.errors import InputError
from rsmamba_cli.inference.options import PredictOptions
from rsmamba_cli.inference.source import Reader
from rsmamba_cli.raster.align import Aligned, align
from rsmamba_cli.raster.bands import BandChoice, choose_bands
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.mosaic import AnyScene, Mosaic
from rsmamba_cli.raster.opening import open_dataset
from rsmamba_cli.raster.scene import Scene, open_scene
from rsmamba_cli.raster.stack import Stack
from rsmamba_models import CheckpointMeta, InputSpec


@dataclass(frozen=True)
class Inputs:
    """The opened inputs of a run, in the order of the model's arguments.

    Attributes:
        scenes: the files; None for an input that is not given and will be zeros.
        readers: the same on the grid of the run.
        base: index of the scene whose grid that is.
        aligned: the input that was brought on to it, or None.
    """

    scenes: tuple[AnyScene | None, ...]
    readers: tuple[Reader | None, ...]
    base: int
    aligned: Aligned | None

    @property
    def grid(self) -> Grid:
        """The grid of the run."""
        return self.base_scene.grid

    @property
    def base_scene(self) -> AnyScene:
        """The scene whose grid the run has."""
        scene = self.scenes[self.base]
        assert scene is not None
        return scene

    @property
    def given(self) -> tuple[AnyScene, ...]:
        """The scenes there are."""
        return tuple(scene for scene in self.scenes if scene is not None)


@dataclass(frozen=True)
class _File:
    """What of a file feeds an input; see `PredictOptions`. The note is for the user."""

    path: str
    bands: tuple[int, ...] | None
    nodata: float | None
    note: str = ""


def open_inputs(
    paths: tuple[str, ...], meta: CheckpointMeta, options: PredictOptions, stack: ExitStack
) -> Inputs:
    """Open every input and bring all of them on to one grid.

    Args:
        paths: one scene, or two dates; none where ``options.sar`` is all there is.
        meta: of the model.
        options: bands, nodata, mask, grid, and the second modality.
        stack: closes the files.

    Raises:
        InputError: a file cannot be used, an input is missing that the model needs, or the inputs
            cannot be laid over each other.
    """
    if options.mosaic or options.stack:
        return _as_one(paths, meta, options, stack)
    files: tuple[_File | None, ...]
    if meta.task == "multimodal":
        files = _modalities(paths, meta.inputs, options)
    else:
        files = tuple(_File(path, options.bands, options.nodata) for path in paths)
    base = next(i for i, file in enumerate(files) if file is not None)
    if meta.task == "change" and options.grid == "t2":
        base = 1
    scenes = tuple(
        None if file is None else stack.enter_context(_open(file, spec, options, i == base))
        for i, (file, spec) in enumerate(zip(files, meta.inputs, strict=True))
    )
    readers: list[Reader | None] = list(scenes)
    aligned = None
    other = 1 - base
    first, second = scenes[base], scenes[other] if len(scenes) == 2 else None
    if first is not None and second is not None:
        aligned = align(second, first.grid, first.path, meta.inputs[other].resampling)
        readers[other] = aligned
    return Inputs(scenes, tuple(readers), base, aligned)


def _as_one(
    paths: tuple[str, ...], meta: CheckpointMeta, options: PredictOptions, stack: ExitStack
) -> Inputs:
    """All paths as one scene: side by side, or one over the other."""
    how = "--mosaic" if options.mosaic else "--stack"
    if len(meta.inputs) != 1:
        raise InputError(f"{how} is for models of one image; this one is for {meta.task}")
    if options.mask is not None:
        raise InputError(f"--mask and {how} do not go together; mask the files themselves")
    (spec,) = meta.inputs

    def open_sheet(path: str) -> Scene:
        return _open(_File(path, options.bands, options.nodata), spec, options, False)

    def open_band(path: str) -> Scene:
        return open_scene(
            path,
            nodata=options.nodata,
            nodata_rule=options.nodata_rule,
            fallback_nodata=spec.nodata,
        )

    scene: Mosaic | Stack
    if options.mosaic:
        scene = Mosaic(paths, open_sheet)
    else:
        scene = Stack(paths, open_band, options.bands, spec.bands)
    stack.enter_context(scene)
    return Inputs((scene,), (scene,), 0, None)


def _open(file: _File, spec: InputSpec, options: PredictOptions, with_mask: bool) -> Scene:
    scene = open_scene(
        file.path,
        bands=file.bands,
        nodata=file.nodata,
        nodata_rule=options.nodata_rule,
        mask=options.mask if with_mask else None,
        expected_bands=len(spec.bands),
        expected_names=spec.bands,
        fallback_nodata=spec.nodata,
    )
    scene.note = scene.note or file.note
    return scene


def _modalities(
    paths: tuple[str, ...], specs: tuple[InputSpec, ...], options: PredictOptions
) -> tuple[_File | None, _File | None]:
    """What feeds both inputs of a model of two modalities: two files, or bands of one.

    Raises:
        InputError: an input is missing that the model does not do without.
    """
    first = _File(paths[0], options.bands, options.nodata) if paths else None
    second: _File | None = None
    if options.sar is not None:
        second = _File(os.fspath(options.sar), options.sar_bands, options.sar_nodata)
    elif first is not None:
        # One file has one nodata value more often than two.
        nodata = options.nodata if options.sar_nodata is None else options.sar_nodata
        if options.sar_bands is not None:
            second = _File(first.path, options.sar_bands, nodata)
        elif stacked := _stacked_bands(first.path, specs, options.bands):
            split = len(specs[0].bands)
            first = _File(first.path, stacked.bands[:split], options.nodata, stacked.note)
            second = _File(first.path, stacked.bands[split:], nodata)
    if first is None and second is None:
        raise InputError("there is no input: give a SCENE, --sar FILE, or both")
    for file, spec in zip((first, second), specs, strict=True):
        if file is None and spec.missing == "refuse":
            raise InputError(
                f"the model needs {_listed(spec)} beside what is given: {_remedy(specs)}. This "
                "checkpoint does not say that it does without."
            )
    return first, second


def _stacked_bands(
    path: str, specs: tuple[InputSpec, ...], bands: tuple[int, ...] | None
) -> BandChoice | None:
    """Bands of a file that holds both inputs; None where it holds those of the first alone.

    Raises:
        InputError: it holds neither.
    """
    names = tuple(name.lower() for spec in specs for name in spec.bands)
    total = len(names)
    if len(set(names)) < total:
        names = ()
    with rasterio.Env(), open_dataset(path) as dataset:
        try:
            return choose_bands(dataset, bands, total, names)
        except InputError as error:
            if total == (dataset.count if bands is None else len(bands)):
                raise
            refusal = str(error)
        try:
            choose_bands(dataset, bands, len(specs[0].bands), specs[0].bands)
        except InputError:
            raise InputError(f"{refusal} Or: {_remedy(specs)}") from None
        return None


def _remedy(specs: tuple[InputSpec, ...]) -> str:
    optical, sar = specs
    return (
        f"SCENE with {_listed(optical)} and --sar FILE with {_listed(sar)}, or both stacked in one "
        f"file of {len(optical.bands) + len(sar.bands)} bands, {optical.name} first"
    )


def _listed(spec: InputSpec) -> str:
    return f"{spec.name} ({', '.join(spec.bands)})"
