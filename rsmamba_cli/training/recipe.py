"""Recipes: every setting of a training run, typed, from YAML, with overrides as text."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from rsmamba_cli.errors import InputError

_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "": 1}

_FREE_TO_CHANGE = (
    ("data", "root"),
    ("data", "workers"),
    ("loop", "device"),
    ("loop", "limit_steps"),
    ("loop", "log_every"),
    ("loop", "pictures"),
    ("loop", "save_every_minutes"),
    ("loop", "time_budget"),
)
"""Settings that do not change what is computed: a resumed run may have others."""


def _duration(value: Any) -> Any:
    """Turn "90s", "30min" or "2h" into seconds."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", value.lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError('expected a duration such as "90s", "30min" or "2h"')
    return float(match[1]) * _UNITS[match[2]]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelPart(_Part):
    """Which network.

    Attributes:
        name: a registered architecture; None takes that of ``init``, else the nano size for the
            dataset's task.
        arguments: further arguments of the architecture (``drop_path_rate`` and so on).
    """

    name: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)


class DemoPart(_Part):
    """How much the ``demo`` dataset draws; see `rsmamba_cli.datasets.demo.DemoOptions`."""

    scenes: int = Field(256, ge=1)
    held_out: int = Field(32, ge=1)
    size: int = Field(256, ge=1)
    gsd: tuple[float, ...] = ()
    seed: int = Field(0, ge=0)
    fresh: bool = False


class DataPart(_Part):
    """What is learnt from.

    Attributes:
        dataset: a name of the catalogue.
        root: its folder; None looks in ``$RSMAMBA_DATA`` or ``data``.
        task: for datasets that serve both; None lets the model or the folders decide.
        train_split: the split that is learnt.
        val_split: the split that is measured; None trains without validation.
        bands: 1-based bands to use; None for all but alpha.
        nodata: a no-data value that the images do not declare.
        normalise: ``imagenet`` (three 8-bit bands), ``unit`` (8-bit, mean 0.5, deviation 0.25),
            ``statistics`` (measured on the training split), or ``auto``: the transform of ``init``
            where it fits, ``imagenet`` for 8-bit red, green, blue, else ``statistics``.
        crop: side of the training samples in pixels.
        crop_mode: ``random`` places; ``grid`` cuts each tile side by side, nothing left out.
        crops_per_tile: samples a tile and epoch with ``random``; ``auto``: its area in crops.
        batch_size: samples a step and device.
        tiles_per_batch: if above 0, a batch is all crops of so many tiles (the official way; needs
            ``grid``) and ``batch_size`` is not used.
        limit: use the first so many training tiles, for trials.
        workers: reading processes; ``auto``: none on a CPU, up to 8 beside a GPU.
        demo: for the ``demo`` dataset.
    """

    dataset: str = "demo"
    root: Path | None = None
    task: Literal["segmentation", "change"] | None = None
    train_split: Literal["train", "val", "test"] = "train"
    val_split: Literal["train", "val", "test"] | None = "val"
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    normalise: Literal["auto", "imagenet", "unit", "statistics"] = "auto"
    crop: int = Field(256, ge=32)
    crop_mode: Literal["random", "grid"] = "random"
    crops_per_tile: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    batch_size: int = Field(8, ge=1)
    tiles_per_batch: int = Field(0, ge=0)
    limit: int | None = Field(None, ge=1)
    workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    demo: DemoPart = DemoPart()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tiles_per_batch and self.crop_mode != "grid":
            raise ValueError("tiles_per_batch needs crop_mode: grid")
        return self


class AugmentPart(_Part):
    """Random changes; see `rsmamba_cli.training.augment.AugmentOptions`."""

    flip: float = Field(0.75, ge=0, le=1)
    transpose: float = Field(0.5, ge=0, le=1)
    swap_dates: float = Field(0.5, ge=0, le=1)
    scale: tuple[float, float] = (1.0, 1.0)
    brightness: float = Field(0.0, ge=0)
    contrast: float = Field(0.0, ge=0, lt=1)
    band_shift: float = Field(0.0, ge=0)
    noise: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.scale
        if not 0.25 <= low <= high <= 4:
            raise ValueError("scale is (low, high) with 0.25 <= low <= high <= 4")
        return self


class LossPart(_Part):
    """Weights of the loss; see `rsmamba_cli.training.losses.SegmentationLoss`."""

    cross_entropy: float = Field(1.0, ge=0)
    dice: float = Field(1.0, ge=0)
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cross_entropy + self.dice == 0:
            raise ValueError("one of cross_entropy and dice must be above 0")
        if self.class_weights is not None and not all(w > 0 for w in self.class_weights):
            raise ValueError("class_weights must be above 0")
        return self


class OptimiserPart(_Part):
    """AdamW.

    Attributes:
        lr: the learning rate that the schedule scales.
        weight_decay: of the parameters that decay.
        decay_all: decay every parameter, as the official code does; otherwise norms, biases and
            the parameters of the scan (``A_log``, ``D``, ``dt_bias``) are spared.
        betas: AdamW's.
        clip_norm: largest gradient norm, applied after unscaling; None never clips.
        accumulate: batches a step.
        ema: decay of a running mean of the weights, which is then what is validated and saved;
            None for none.
    """

    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    decay_all: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = Field(1.0, gt=0)
    accumulate: int = Field(1, ge=1)
    ema: float | None = Field(None, gt=0, lt=1)


class SchedulePart(_Part):
    """The learning rate over time; see `rsmamba_cli.training.schedule.Schedule`."""

    course: Literal["constant", "plateau", "cosine", "poly"] = "cosine"
    warmup_steps: int = Field(100, ge=0)
    warmup_start: float = Field(1e-4, ge=0, le=1)
    floor: float = Field(0.0, ge=0, le=1)
    power: float = Field(0.9, gt=0)
    patience: int = Field(12, ge=1)
    plateau_factor: float = Field(0.1, gt=0, lt=1)


class LoopPart(_Part):
    """How long, how often, on what.

    Attributes:
        epochs, steps: length; the shorter one counts.
        time_budget: seconds, or "30min"; training ends on time, schedule included.
        validate_every_epochs, validate_every_steps: how often; the last step always validates.
        validate_from_epoch: no validation before this epoch is done.
        monitor: the figure that chooses the best checkpoint; ``auto``: f1 of two classes, else
            miou.
        pictures: validation tiles painted each time.
        log_every: steps a line in the log.
        save_every_minutes: how often the state is saved between validations.
        limit_steps: stop after so many steps of this run, to be resumed.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: how many.
        precision: of the arithmetic; ``auto``: bf16 where a GPU has it, else fp32.
    """

    epochs: int | None = Field(60, ge=1)
    steps: int | None = Field(None, ge=1)
    time_budget: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_duration)] = None
    validate_every_epochs: int | None = Field(1, ge=1)
    validate_every_steps: int | None = Field(None, ge=1)
    validate_from_epoch: int = Field(0, ge=0)
    monitor: Literal["auto", "f1", "iou", "miou", "oa", "kappa"] = "auto"
    pictures: int = Field(6, ge=0)
    log_every: int = Field(20, ge=1)
    save_every_minutes: float = Field(10.0, gt=0)
    limit_steps: int | None = Field(None, ge=1)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = Field(1, ge=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epochs is None and self.steps is None and self.time_budget is None:
            raise ValueError("one of epochs, steps and time_budget is needed")
        return self


class CheckpointPart(_Part):
    """What the checkpoints say and how they are stored.

    Attributes:
        dtype: of the stored weights.
        tile: window side for inference; None takes the training crop.
        overlap: of the windows.
        threshold: of the foreground, for two classes.
        gsd: metres a pixel; None takes the dataset's.
        licence, citation: None takes the dataset's.
        demo: marks a demonstration model, which warns whenever it is used by default.
    """

    dtype: Literal["float32", "float16"] = "float32"
    tile: int | None = Field(None, ge=32)
    overlap: float = Field(0.25, ge=0, lt=1)
    threshold: float = Field(0.5, gt=0, lt=1)
    gsd: float | None = Field(None, gt=0)
    licence: str | None = None
    citation: str | None = None
    demo: bool = False


class TrainConfig(_Part):
    """All settings of a training run; what is not set has the defaults of a laptop.

    Attributes:
        name: of the recipe.
        seed: of everything random.
        init: a checkpoint to start from (weights only), or None.
    """

    name: str = "default"
    seed: int = Field(42, ge=0)
    init: Path | None = None
    model: ModelPart = ModelPart()
    data: DataPart = DataPart()
    augment: AugmentPart = AugmentPart()
    loss: LossPart = LossPart()
    optimiser: OptimiserPart = OptimiserPart()
    schedule: SchedulePart = SchedulePart()
    loop: LoopPart = LoopPart()
    checkpoint: CheckpointPart = CheckpointPart()

    def to_yaml(self) -> str:
        """The complete recipe, defaults included, as `load_recipe` reads it."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def fixed(self) -> dict[str, Any]:
        """The settings that a resumed run must share, as plain values."""
        content: dict[str, Any] = self.model_dump(mode="json")
        for part, key in _FREE_TO_CHANGE:
            del content[part][key]
        return content

    def sha256(self) -> str:
        """A hash of `fixed`."""
        text = json.dumps(self.fixed(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def list_recipes() -> list[str]:
    """Names of the recipes that come with the toolkit."""
    folder = resources.files("rsmamba_cli.training") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[0] != ".")


def load_recipe(
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Read a recipe and apply overrides.

    Args:
        recipe: the name of one that comes with the toolkit, or a YAML file; None means "default".
        overrides: ``key=value`` with a dotted key, such as ``optimiser.lr=3e-4`` or
            ``data.bands=[4,3,2]``; the value is YAML and takes the setting's type. They win over
            everything else.
        values: dotted key -> value, which win over the recipe; None values are left out.

    Raises:
        InputError: no such recipe, an unknown setting (with the nearest that exists), or a value
            that does not fit.
    """
    name = "default" if recipe is None else str(recipe)
    content = _read(name)
    for key, value in (values or {}).items():
        if value is not None:
            _assign(content, key, value)
    for line in overrides:
        key, equals, text = line.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set takes KEY=VALUE (such as optimiser.lr=3e-4), not {line!r}.")
        try:
            value = None if text.strip().lower() == "none" else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {line}: the value is not YAML ({error}).") from error
        _assign(content, key.strip(), value)
    return validate_config(content, f"the recipe {name}")


def validate_config(content: Mapping[str, Any], what: str) -> TrainConfig:
    """Turn plain values into a TrainConfig.

    Raises:
        InputError: as `load_recipe`.
    """
    try:
        return TrainConfig.model_validate(content)
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise InputError(f"In {what}: " + "; ".join(lines) + ".") from error


def _read(name: str) -> dict[str, Any]:
    """Read the YAML of a recipe by name or path."""
    known = list_recipes()
    if name in known:
        folder = resources.files("rsmamba_cli.training") / "recipes"
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        path = Path(name)
        if not path.is_file():
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise InputError(
                f"There is no recipe {name}: neither a file nor one of {', '.join(known)}.{hint}"
            )
        text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"The recipe {name} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"The recipe {name} holds no settings.")
    content.setdefault("name", Path(name).stem)
    return content


def _assign(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested mappings.

    Raises:
        InputError: a part of the key is a value, not a group of settings.
    """
    *groups, last = key.split(".")
    for group in groups:
        content = content.setdefault(group, {})
        if not isinstance(content, dict):
            raise InputError(f"{key}: {group} is a setting, not a group of settings.")
    content[last] = value


def _explain(problem: Mapping[str, Any]) -> str:
    """One pydantic problem in plain words, with the nearest key for an unknown one."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = list(_keys(TrainConfig))
        near = difflib.get_close_matches(key, known, 1, cutoff=0.5)
        ending = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
        hint = next(iter(ending + near), None)
        return f"there is no setting {key}" + (f" (did you mean {hint}?)" if hint else "")
    message = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{key or 'settings'}: {message[:1].lower()}{message[1:]} (got {problem['input']!r})"


def _keys(part: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of the settings."""
    for name, field in part.model_fields.items():
        yield prefix + name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{prefix}{name}.")
