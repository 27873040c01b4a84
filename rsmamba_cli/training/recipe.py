"""Every setting of a training run, typed; `recipe_files` reads them from YAML."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rsmamba_cli.training.durations import read_duration

_FREE_TO_CHANGE = (
    ("data", "root"),
    ("data", "workers"),
    ("loop", "device"),
    ("loop", "limit_steps"),
    ("loop", "log_every"),
    ("loop", "loggers"),
    ("loop", "pictures"),
    ("loop", "save_every_minutes"),
    ("loop", "time_budget"),
)
"""Settings that do not change what is computed: a resumed run may have others."""


class Part(BaseModel):
    """A group of settings: fixed, and unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelPart(Part):
    """Which network.

    Attributes:
        name: a registered architecture; None takes that of ``init``, else the nano size for the
            dataset's task.
        arguments: further arguments of the architecture (``drop_path_rate`` and so on).
        gradient_checkpointing: keep only the inputs of the encoder's blocks and compute the rest
            again on the way back: less memory, about a third more time, the same gradients.
        sync_batchnorm: with several processes, normalise over the batches of all.
    """

    name: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    gradient_checkpointing: bool = False
    sync_batchnorm: bool = True


class DemoPart(Part):
    """How much the ``demo`` dataset draws; see `rsmamba_cli.datasets.demo.DemoOptions`."""

    scenes: int = Field(256, ge=1)
    held_out: int = Field(32, ge=1)
    size: int = Field(256, ge=1)
    gsd: tuple[float, ...] = ()
    seed: int = Field(0, ge=0)
    fresh: bool = False


class DataPart(Part):
    """What is learnt from.

    Attributes:
        dataset: a name of the catalogue.
        root: its folder; None looks in ``$RSMAMBA_DATA`` or ``data``.
        task: for datasets that serve several; None lets the model or the folders decide.
        roles: folders of the images, where they are not the usual ones: ``[t2, sar_t2]``.
        train_split: the split that is learnt.
        val_split: the split that is measured; None trains without validation.
        bands: 1-based bands to use, of every image or (``[[4, 3, 2], [1]]``) of each; None for all
            but alpha.
        nodata: a no-data value that the files do not declare, of every image or (``[0, 255]``) of
            each.
        decibels: inputs (``[sar]``) whose files hold radar power: the model gets 10 log10 of it.
        optional: inputs (``[sar]``) that the model learns to do without: ``augment.drop_input``
            says how often they are missing in training, and predictions without them are allowed.
        normalise: ``imagenet`` (three 8-bit bands), ``unit`` (8-bit, mean 0.5, deviation 0.25),
            ``statistics`` (measured on the training split), or ``auto``: the transform of ``init``
            where it fits, ``imagenet`` for 8-bit red, green, blue, else ``statistics``. Settled for
            each modality, together for two dates.
        crop: side of the training samples in pixels.
        crop_mode: ``random`` places; ``grid`` cuts each tile side by side, nothing left out.
        crops_per_tile: samples a tile and epoch with ``random``; ``auto``: its area in crops.
        balance: None draws tiles evenly and places in them at random. A number draws around
            labelled pixels: that share of the samples around a pixel of a class, each class equally
            often, the others around any; parts without a label are never seen.
        batch_size: samples a step and device.
        tiles_per_batch: if above 0, a batch is all crops of so many tiles (the official way; needs
            ``grid``) and ``batch_size`` is not used.
        limit, val_limit: use the first so many tiles, for trials.
        workers: reading processes; ``auto``: none on a CPU, up to 8 beside a GPU.
        demo: for the ``demo`` dataset.
    """

    dataset: str = "demo"
    root: Path | None = None
    task: Literal["segmentation", "change", "multimodal"] | None = None
    roles: tuple[str, ...] | None = None
    train_split: Literal["train", "val", "test"] = "train"
    val_split: Literal["train", "val", "test"] | None = "val"
    bands: tuple[int, ...] | tuple[tuple[int, ...] | None, ...] | None = None
    nodata: float | tuple[float | None, ...] | None = None
    decibels: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    normalise: Literal["auto", "imagenet", "unit", "statistics"] = "auto"
    crop: int = Field(256, ge=32)
    crop_mode: Literal["random", "grid"] = "random"
    crops_per_tile: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    balance: float | None = Field(None, ge=0, le=1)
    batch_size: int = Field(8, ge=1)
    tiles_per_batch: int = Field(0, ge=0)
    limit: int | None = Field(None, ge=1)
    val_limit: int | None = Field(None, ge=1)
    workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    demo: DemoPart = DemoPart()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tiles_per_batch and self.crop_mode != "grid":
            raise ValueError("tiles_per_batch needs crop_mode: grid")
        if self.balance is not None and self.crop_mode != "random":
            raise ValueError("balance needs crop_mode: random")
        return self


class PhotometricPart(Part):
    """Distortion of 8-bit RGB before it is normalised; see `rsmamba_cli.training.photometric`.

    Attributes:
        probability: of each change.
        brightness: largest shift, in values of 0..255.
        contrast, saturation: ranges of a factor.
        hue: largest turn in degrees.
    """

    probability: float = Field(0.5, ge=0, le=1)
    brightness: float = Field(32.0, ge=0)
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = Field(36.0, ge=0, le=180)


class ChangePart(Part):
    """Random changes that any image takes, whatever is learnt from it.

    Attributes:
        flip: probability of a flip: vertical, horizontal or both, equally likely.
        flip_axes: ``horizontal`` allows no other.
        transpose: probability of exchanging rows and columns. With ``flip`` 0.75 and ``transpose``
            0.5 all eight symmetries of the square are equally likely.
        brightness: largest shift of all bands together, in standard deviations.
        contrast: largest relative change of the spread about the mean.
        saturation: largest relative change of the bands' distance from their mean, any bands.
        band_shift: largest further shift of each band alone, in standard deviations.
        noise: largest standard deviation of added white noise, in standard deviations.
    """

    flip: float = Field(0.75, ge=0, le=1)
    flip_axes: Literal["any", "horizontal"] = "any"
    transpose: float = Field(0.5, ge=0, le=1)
    brightness: float = Field(0.0, ge=0)
    contrast: float = Field(0.0, ge=0, lt=1)
    saturation: float = Field(0.0, ge=0, le=1)
    band_shift: float = Field(0.0, ge=0)
    noise: float = Field(0.0, ge=0)


class AugmentPart(ChangePart):
    """Random changes to a sample.

    Attributes:
        swap_dates: probability of exchanging the two dates of a change sample; no modalities.
        scale: the range of random zoom, (1, 1) for none.
        scale_law: the zoom is drawn evenly (``uniform``) or its logarithm is (``log``).
        base_size: (long, short) side that a tile is thought resized to before it is zoomed; None
            takes its own size.
        max_class_share: a crop is drawn again (ten times at most) while one class covers this share
            of it or more; 1 takes any.
        sar_colors: factor of the colour changes for the second of two modalities.
        drop_input: probability that one of the inputs of ``data.optional`` is missing.
        photometric: distortion of 8-bit RGB; None for none, {} for the usual ranges.
        mix: ``cutmix`` or ``classmix`` pastes a part of another sample, labels included.
        mix_probability: how often.
    """

    swap_dates: float = Field(0.5, ge=0, le=1)
    scale: tuple[float, float] = (1.0, 1.0)
    scale_law: Literal["log", "uniform"] = "log"
    base_size: tuple[int, int] | None = None
    max_class_share: float = Field(1.0, gt=0, le=1)
    sar_colors: float = Field(1.0, ge=0)
    drop_input: float = Field(0.25, ge=0, lt=1)
    photometric: PhotometricPart | None = None
    mix: Literal["none", "cutmix", "classmix"] = "none"
    mix_probability: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.scale
        if not 0.25 <= low <= high <= 4:
            raise ValueError("scale is (low, high) with 0.25 <= low <= high <= 4")
        if self.base_size is not None and min(self.base_size) < 32:
            raise ValueError("base_size is (long, short), at least 32 pixels")
        return self


class LossPart(Part):
    """Weights of the loss; see `rsmamba_cli.training.losses.SegmentationLoss`.

    Attributes:
        class_weights: a factor a class; ``auto`` measures the classes' shares of the training
            labels and weighs each by the inverse of its root.
        auxiliary: weight of the whole loss at an auxiliary head, where the model has one.
    """

    cross_entropy: float = Field(1.0, ge=0)
    dice: float = Field(1.0, ge=0)
    focal: float = Field(0.0, ge=0)
    lovasz: float = Field(0.0, ge=0)
    tversky: float = Field(0.0, ge=0)
    class_weights: Literal["auto"] | tuple[Annotated[float, Field(gt=0)], ...] | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    avg_non_ignore: bool = True
    ohem_threshold: float | None = Field(None, gt=0, le=1)
    ohem_min_pixels: int = Field(100_000, ge=1)
    focal_gamma: float = Field(2.0, ge=0)
    tversky_alpha: float = Field(0.3, ge=0)
    tversky_beta: float = Field(0.7, ge=0)
    auxiliary: float = Field(0.4, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not (self.cross_entropy or self.dice or self.focal or self.lovasz or self.tversky):
            raise ValueError(
                "one of cross_entropy, dice, focal, lovasz and tversky must be above 0"
            )
        return self


class OptimiserPart(Part):
    """How weights are changed.

    Patterns are names of modules or parameters with the wildcards of a shell: ``encoder``,
    ``encoder.stages.?.norm``, ``*.bias``.

    Attributes:
        kind: ``adamw`` or ``sgd``.
        lr: the learning rate that the schedule scales.
        weight_decay: of the parameters that decay.
        no_decay: patterns of parameters that do not; None spares norms, biases and the parameters
            of scans (``A_log``, ``D``, ``dt_bias``); an empty list decays everything.
        lr_factors: pattern -> factor of the learning rate; the first that matches counts.
        layer_decay: factor of the learning rate from one layer of the encoder to the one below.
        freeze: patterns of what does not learn at all.
        betas: AdamW's.
        momentum, nesterov: SGD's.
        clip_norm: largest gradient norm, applied after unscaling; None never clips.
        accumulate: batches a step.
        ema: decay of a running mean of the weights, which is then what is validated and saved;
            None for none.
    """

    kind: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    no_decay: tuple[str, ...] | None = None
    lr_factors: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    layer_decay: float | None = Field(None, gt=0, le=1)
    freeze: tuple[str, ...] = ()
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    clip_norm: float | None = Field(1.0, gt=0)
    accumulate: int = Field(1, ge=1)
    ema: float | None = Field(None, gt=0, lt=1)


class SchedulePart(Part):
    """The learning rate over time; see `rsmamba_cli.training.schedule.Schedule`."""

    course: Literal["constant", "plateau", "cosine", "poly", "step"] = "cosine"
    warmup_steps: int = Field(100, ge=0)
    warmup_start: float = Field(1e-4, ge=0, le=1)
    after_warmup: bool = False
    floor: float = Field(0.0, ge=0, le=1)
    power: float = Field(0.9, gt=0)
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.6, 0.8)
    step_factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(12, ge=1)
    plateau_factor: float = Field(0.1, gt=0, lt=1)


class LoopPart(Part):
    """How long, how often, on what.

    Attributes:
        epochs, steps: length; the shorter one counts.
        time_budget: seconds, or "30min"; training ends on time, schedule included.
        validate_every_epochs, validate_every_steps: how often; the last step always validates.
        validate_from_epoch: no validation before this epoch is done.
        monitor: the figure that chooses the best checkpoint; ``auto``: f1 of two classes, else
            miou.
        patience: end after so many validations without a better score; None never does.
        pictures: validation tiles painted each time.
        log_every: steps a line in the log.
        save_every_minutes: how often the state is saved between validations.
        limit_steps: stop after so many steps of this run, to be resumed.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: how many on each machine.
        nodes: how many machines.
        loggers: further receivers of what the log holds.
        precision: of the arithmetic; ``auto``: bf16 where a GPU has it, else fp32.
    """

    epochs: int | None = Field(60, ge=1)
    steps: int | None = Field(None, ge=1)
    time_budget: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(read_duration)] = (
        None
    )
    validate_every_epochs: int | None = Field(1, ge=1)
    validate_every_steps: int | None = Field(None, ge=1)
    validate_from_epoch: int = Field(0, ge=0)
    monitor: Literal["auto", "f1", "iou", "miou", "oa", "kappa"] = "auto"
    patience: int | None = Field(None, ge=1)
    pictures: int = Field(6, ge=0)
    log_every: int = Field(20, ge=1)
    save_every_minutes: float = Field(10.0, gt=0)
    limit_steps: int | None = Field(None, ge=1)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = Field(1, ge=1)
    nodes: int = Field(1, ge=1)
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epochs is None and self.steps is None and self.time_budget is None:
            raise ValueError("one of epochs, steps and time_budget is needed")
        return self


class CheckpointPart(Part):
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


class RunConfig(Part):
    """What the recipe of any training holds.

    Attributes:
        recipes: package whose folder ``recipes`` holds the named ones.
        name: of the recipe.
        seed: of everything random.
    """

    recipes: ClassVar[str] = "rsmamba_cli.training"

    name: str = "default"
    seed: int = Field(42, ge=0)
    model: ModelPart = ModelPart()
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


class TrainConfig(RunConfig):
    """All settings of a training run; what is not set has the defaults of a laptop.

    Attributes:
        init: a checkpoint to start from (weights only), "demo" for the embedded one, or None.
        encoder_weights: a file to take the encoder's weights from, or None.
        encoder_weights_partial: take what fits of it; otherwise all of it must.
    """

    init: Path | None = None
    encoder_weights: Path | None = None
    encoder_weights_partial: bool = False
    data: DataPart = DataPart()
    augment: AugmentPart = AugmentPart()
    loss: LossPart = LossPart()


Config = TypeVar("Config", bound=RunConfig)
