"""Groups of options that commands share: a dataclass a group, spread into a command's signature."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, get_type_hints

import typer

if TYPE_CHECKING:
    from rsmamba_cli.inference import PredictOptions

MODEL_ENVIRONMENT = "RSMAMBA_MODEL"


def command_app(**settings: Any) -> typer.Typer:
    """Return a Typer application with the settings that all commands share."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **settings,
    )


def spread_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter whose type is a dataclass by options, one a field.

    Typer reads a command's options from its signature; the wrapper shows it the flat one and
    passes the groups on. Fields are ``Annotated`` with a ``typer.Option`` and have defaults.
    """
    hints = get_type_hints(function, include_extras=True)
    hints.pop("return", None)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    flat: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in groups:
            flat.append(
                parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            )
            continue
        options = get_type_hints(groups[name], include_extras=True)
        for item in fields(groups[name]):
            default = item.default if item.default is not MISSING else inspect.Parameter.empty
            flat.append(
                inspect.Parameter(
                    item.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=options[item.name],
                )
            )

    @wraps(function)
    def command(**values: Any) -> None:
        built = {
            name: group(**{item.name: values.pop(item.name) for item in fields(group)})
            for name, group in groups.items()
        }
        function(**values, **built)

    command.__annotations__ = {item.name: item.annotation for item in flat} | {"return": None}
    vars(command)["__signature__"] = inspect.Signature(flat)
    return command


@dataclass(frozen=True)
class Output:
    """How a command talks."""

    json_output: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on stdout.")
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show errors and essential warnings only.")
    ] = False
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE", help="Append what happens to a log file."),
    ] = None
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False

    def settings(self) -> dict[str, Any]:
        """Return the arguments for ``console.running``."""
        return {
            "json_output": self.json_output,
            "quiet": self.quiet,
            "log": self.log,
            "debug": self.debug,
        }


class NodataRule(StrEnum):
    """When a declared nodata value makes a pixel invalid: in all used bands, or in any."""

    all = "all"
    any = "any"


class Blend(StrEnum):
    """How overlapping windows are merged."""

    hann = "hann"
    average = "average"
    crop = "crop"


class Precision(StrEnum):
    """Arithmetic of the network."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Tta(StrEnum):
    """Test-time augmentation."""

    none = "none"
    flip = "flip"
    d4 = "d4"


@dataclass(frozen=True)
class Inference:
    """The options that ``predict`` and ``change`` share."""

    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            metavar="FILE|demo",
            envvar=MODEL_ENVIRONMENT,
            show_envvar=True,
            help="Checkpoint; without one the embedded demonstration model, with a warning.",
        ),
    ] = None
    bands: Annotated[
        str | None,
        typer.Option(metavar="4,3,2", help="Bands to feed, counted from 1, in the model's order."),
    ] = None
    nodata: Annotated[
        float | None,
        typer.Option(metavar="V", help="Value of pixels without data, where the file has no tag."),
    ] = None
    nodata_rule: Annotated[
        NodataRule,
        typer.Option(help="A pixel is invalid where all used bands hold nodata, or any does."),
    ] = NodataRule.all
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Raster, on any grid, whose non-zero pixels are left out (clouds)."
        ),
    ] = None
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="N|full",
            help="Window side in pixels; full: the scene in one pass. Default: the checkpoint's.",
        ),
    ] = None
    overlap: Annotated[
        float | None,
        typer.Option(
            metavar="F", help="Overlap of windows, 0 to below 1. Default: the checkpoint's."
        ),
    ] = None
    trim: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Pixels dropped from inner window sides. Default: the checkpoint's.",
        ),
    ] = None
    blend: Annotated[Blend, typer.Option(help="How overlapping windows are merged.")] = Blend.hann
    batch_size: Annotated[
        str, typer.Option(metavar="N|auto", help="Windows in a forward pass.")
    ] = "auto"
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="CPU threads. Default: all cores.")
    ] = None
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|cuda:0,2|mps", help="Where to compute.")
    ] = "auto"
    precision: Annotated[
        Precision,
        typer.Option(help="auto is fp32 unless the checkpoint records a validated bf16."),
    ] = Precision.auto
    tta: Annotated[
        Tta, typer.Option(help="Average over flips, or over all eight flips and rotations.")
    ] = Tta.none
    resample: Annotated[
        bool,
        typer.Option(
            "--resample/--no-resample",
            help="Bring a scene whose pixel size is over 20 % off the checkpoint's to that size.",
        ),
    ] = True
    aoi: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only inside these polygons.")
    ] = None
    bbox: Annotated[
        str | None,
        typer.Option(metavar="X0,Y0,X1,Y1", help="Only this box, in the scene's coordinates."),
    ] = None
    probabilities: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write probabilities (uint8, scale 0.004)."),
    ] = None
    uncertainty: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write uncertainty (uint8, scale 0.004)."),
    ] = None
    polygons: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write polygons: .gpkg, .geojson, .fgb or .parquet."
        ),
    ] = None
    min_area: Annotated[
        float, typer.Option(metavar="M2", min=0, help="Leave smaller polygons out.")
    ] = 0.0
    simplify: Annotated[
        float, typer.Option(metavar="PX", min=0, help="Simplify polygons by so many pixels.")
    ] = 0.0
    sieve: Annotated[
        bool,
        typer.Option("--sieve", help="Give regions below --min-area to their surroundings."),
    ] = False
    style: Annotated[
        bool, typer.Option("--style", help="Also write a QGIS style beside the mask (.qml).")
    ] = False
    stac: Annotated[
        bool, typer.Option("--stac", help="Also write a STAC item beside the mask (.json).")
    ] = False
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P", help="Foreground above this probability. Default: the checkpoint's."
        ),
    ] = None
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Bound on memory; never changes the result.")
    ] = "4GiB"
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Local processes that share work and memory; several GPUs take one each.",
        ),
    ] = 1
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Let the workers of a Dask scheduler compute (tcp://HOST:8786)."
        ),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Compute one of N parts; `rsmamba merge` puts them together."
        ),
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = (
        False
    )
    update: Annotated[
        bool,
        typer.Option("--update", help="Go over an existing map where its input has changed."),
    ] = False
    updatable: Annotated[
        bool,
        typer.Option("--updatable", help="Keep what --update needs beside the mask (.cells)."),
    ] = False
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave finished outputs as they are.")
    ] = False

    def options(self, **more: Any) -> "PredictOptions":
        """Check what is written as text and build the library's options; ``more`` is passed on.

        Raises:
            typer.BadParameter: an option whose text makes no sense.
        """
        from rsmamba_cli.inference import PredictOptions

        if sum((self.resume, self.overwrite, self.skip_existing, self.update)) > 1:
            usage_error("--resume, --overwrite, --update and --skip-existing exclude each other")
        return PredictOptions(
            model=None if self.model in (None, "", "demo") else Path(str(self.model)),
            bands=parse_bands(self.bands),
            nodata=self.nodata,
            nodata_rule=self.nodata_rule.value,
            mask=self.mask,
            tile=parse_tile(self.tile),
            overlap=in_range("--overlap", self.overlap, 0.0, 1.0, closed=(True, False)),
            trim=self.trim,
            blend=self.blend.value,
            batch_size=parse_batch_size(self.batch_size),
            threads=self.threads,
            device=self.device,
            precision=self.precision.value,
            tta=self.tta.value,
            resample=self.resample,
            aoi=self.aoi,
            bbox=parse_bbox(self.bbox),
            probabilities=self.probabilities,
            uncertainty=self.uncertainty,
            polygons=self.polygons,
            min_area=self.min_area,
            simplify=self.simplify,
            sieve=self.sieve,
            style=self.style,
            stac=self.stac,
            threshold=in_range("--threshold", self.threshold, 0.0, 1.0, closed=(False, False)),
            memory=self.memory,
            workers=self.workers,
            scheduler=self.scheduler,
            shard=parse_shard(self.shard),
            resume=self.resume,
            overwrite=self.overwrite,
            update=self.update,
            updatable=self.updatable or self.update,
            skip_existing=self.skip_existing,
            **more,
        )


def usage_error(message: str, option: str | None = None) -> NoReturn:
    """Stop with a usage error (exit status 2), naming the option if there is one.

    Raises:
        typer.BadParameter: always.
    """
    raise typer.BadParameter(message, param_hint=option)


def parse_bands(text: str | None, option: str = "--bands") -> tuple[int, ...] | None:
    """Read ``4,3,2``.

    Raises:
        typer.BadParameter: not a list of numbers from 1 on.
    """
    if text is None:
        return None
    try:
        bands = tuple(int(part) for part in text.split(","))
    except ValueError:
        bands = ()
    if not bands or min(bands) < 1:
        usage_error(f"{text!r} is not a list of band numbers like 4,3,2 (from 1 on)", option)
    return bands


def parse_image_bands(
    text: str | None,
) -> tuple[int, ...] | tuple[tuple[int, ...] | None, ...] | None:
    """Read ``4,3,2``, or ``4,3,2/1`` for two images; nothing beside a stroke is all of one.

    Raises:
        typer.BadParameter: not lists of numbers from 1 on.
    """
    if text is None or "/" not in text:
        return parse_bands(text)
    return tuple(parse_bands(part or None) for part in text.split("/"))


def parse_tile(text: str | None) -> int | Literal["full"] | None:
    """Read a window side or ``full``.

    Raises:
        typer.BadParameter: neither.
    """
    if text is None:
        return None
    return "full" if text == "full" else _positive(text, "--tile", "full")


def parse_batch_size(text: str) -> int | Literal["auto"]:
    """Read a number of windows or ``auto``.

    Raises:
        typer.BadParameter: neither.
    """
    return "auto" if text == "auto" else _positive(text, "--batch-size", "auto")


def parse_bbox(text: str | None) -> tuple[float, float, float, float] | None:
    """Read ``X0,Y0,X1,Y1``; the corners may come in any order.

    Raises:
        typer.BadParameter: not four finite numbers that span an area.
    """
    if text is None:
        return None
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        x0 = y0 = x1 = y1 = float("nan")
    if not abs((x1 - x0) * (y1 - y0)) > 0 or abs(x0) + abs(y0) + abs(x1) + abs(y1) == float("inf"):
        usage_error(f"{text!r} is not a box: X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1", "--bbox")
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Read ``I/N``.

    Raises:
        typer.BadParameter: not two numbers with I from 1 to N.
    """
    if text is None:
        return None
    try:
        part, parts = (int(number) for number in text.split("/"))
    except ValueError:
        part = parts = 0
    if not 1 <= part <= parts:
        usage_error(f"{text!r} is not a part like 2/8 (I/N, I from 1 to N)", "--shard")
    return part, parts


def in_range(
    option: str,
    value: float | None,
    low: float,
    high: float,
    *,
    closed: tuple[bool, bool],
) -> float | None:
    """Pass ``value`` on if it lies between ``low`` and ``high``; ``closed`` says which ends count.

    Raises:
        typer.BadParameter: it does not.
    """
    if value is None:
        return None
    above = value >= low if closed[0] else value > low
    below = value <= high if closed[1] else value < high
    if not (above and below):
        usage_error(
            f"{value:g} is not {'from' if closed[0] else 'above'} {low:g} "
            f"{'to' if closed[1] else 'to below'} {high:g}",
            option,
        )
    return value


def _positive(text: str, option: str, word: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        usage_error(f"{text!r} is neither a number from 1 on nor {word!r}", option)
    return number
