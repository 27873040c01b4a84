"""Settings of a pre-training; `rsmamba_cli.training.recipe` describes those of any training."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rsmamba_cli.training.recipe import ChangePart, Part, RunConfig


class ImagesPart(Part):
    """What is learnt from.

    Attributes:
        root: a folder with ``train`` and ``val``, in each a folder a class.
        train_split: the folder that is learnt.
        val_split: the folder that is measured; None trains without validation.
        normalise: ``imagenet`` (8-bit red, green, blue), ``statistics`` (measured on the training
            images), or ``auto``: ``imagenet`` where it fits, else ``statistics``.
        crop: side of the images that the model sees, in pixels.
        shown: share of the shorter side that the central crop of a validation image covers.
        batch_size: images a step and device.
        limit, val_limit: use so many images, evenly spread, for trials.
        workers: reading processes; ``auto``: none on a CPU, up to 8 beside a GPU.
    """

    root: Path | None = None
    train_split: str = "train"
    val_split: str | None = "val"
    normalise: Literal["auto", "imagenet", "statistics"] = "auto"
    crop: int = Field(224, ge=32)
    shown: float = Field(0.875, gt=0, le=1)
    batch_size: int = Field(64, ge=1)
    limit: int | None = Field(None, ge=1)
    val_limit: int | None = Field(None, ge=1)
    workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"


class ImageChangePart(ChangePart):
    """Random changes to an image, and the mixing of the images of a batch.

    Attributes:
        area: range of the crop's share of the image (Inception, Szegedy et al. 2015).
        ratio: range of the crop's width over its height.
        rand_augment: magnitude, 0 to 10, of two changes drawn for each image of 8-bit RGB
            (RandAugment, Cubuk et al. 2020); 0 for none.
        erase: probability that a rectangle becomes noise (Zhong et al. 2020).
        mixup: alpha of Beta(alpha, alpha), from which the share of the other image is drawn
            (Zhang et al. 2018); 0 for none.
        cutmix: the same for the share of the area that is pasted (Yun et al. 2019).
        cutmix_probability: how often a batch is cut, not blended, where both are on.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    rand_augment: float = Field(9.0, ge=0, le=10)
    erase: float = Field(0.25, ge=0, le=1)
    mixup: float = Field(0.8, ge=0)
    cutmix: float = Field(1.0, ge=0)
    cutmix_probability: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError("area is (low, high) with 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio is (low, high) with 0 < low <= high")
        return self


class ClassLossPart(Part):
    """Cross-entropy against one class an image.

    Attributes:
        label_smoothing: share of the target that is spread over all classes.
    """

    label_smoothing: float = Field(0.1, ge=0, lt=1)


class PretrainConfig(RunConfig):
    """All settings of a pre-training."""

    recipes: ClassVar[str] = "rsmamba_cli.pretraining"

    data: ImagesPart = ImagesPart()
    augment: ImageChangePart = ImageChangePart()
    loss: ClassLossPart = ClassLossPart()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.loop.monitor != "auto":
            raise ValueError("loop.monitor is auto here: the share of right first guesses, top1")
        return self
