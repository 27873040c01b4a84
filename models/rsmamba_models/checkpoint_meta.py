"""What travels with the weights: everything needed to run a model without being told."""

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Transform(_Frozen):
    """How a band's stored values become a model's input; one entry a band in every tuple.

    ``x = (value - offset) * scale``, then decibels, then clipping, then ``(x - mean) / std``.

    Attributes:
        offset: Subtracted first, in stored units.
        scale: Multiplied next.
        db: Whether ``10 log10(max(x, 1e-10))`` follows (SAR intensity).
        clip: Lower and upper bound that follow, or None.
        mean: Subtracted next.
        std: Divided by last; positive.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    db: bool = False
    clip: tuple[float, float] | None = None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len({len(t) for t in (self.offset, self.scale, self.mean, self.std)}) != 1:
            raise ValueError("offset, scale, mean and std must have one value a band each")
        if not self.offset:
            raise ValueError("a transform needs at least one band")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError("clip must be (lower, upper) with lower < upper")
        return self

    @classmethod
    def imagenet8(cls) -> Self:
        """Three 8-bit bands, red, green, blue, with ImageNet's mean and deviation."""
        return cls(
            offset=(0.0,) * 3,
            scale=(1 / 255,) * 3,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )

    @classmethod
    def unit8(cls, bands: int) -> Self:
        """``bands`` 8-bit bands to mean 0.5 and deviation 0.25."""
        return cls._unit(bands, 255.0)

    @classmethod
    def unit16(cls, bands: int, top: float = 10_000.0) -> Self:
        """``bands`` 16-bit bands, ``top`` (reflectance 1 in most products) taken as 1."""
        return cls._unit(bands, top)

    @classmethod
    def _unit(cls, bands: int, top: float) -> Self:
        return cls(
            offset=(0.0,) * bands,
            scale=(1 / top,) * bands,
            mean=(0.5,) * bands,
            std=(0.25,) * bands,
        )

    @property
    def bands(self) -> int:
        """Number of bands."""
        return len(self.offset)

    def apply(
        self, array: NDArray[Any], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Transform stored values.

        Args:
            array: ``(bands, H, W)`` (or ``(..., bands, H, W)``), any real dtype.
            out: Of the same shape, where the result goes; None makes a new array.

        Returns:
            float32 of the same shape; NaN stays NaN.

        Raises:
            ValueError: Another number of bands.
        """
        if array.ndim < 3 or array.shape[-3] != self.bands:
            raise ValueError(f"expected {self.bands} bands, got an array of shape {array.shape}")

        def column(values: tuple[float, ...]) -> NDArray[np.float32]:
            return np.asarray(values, np.float32)[:, None, None]

        x = np.empty(array.shape, np.float32) if out is None else out
        np.copyto(x, array, casting="unsafe")
        x -= column(self.offset)
        x *= column(self.scale)
        if self.db:
            np.log10(np.maximum(x, np.float32(1e-10), out=x), out=x)
            x *= np.float32(10.0)
        if self.clip is not None:
            np.clip(x, np.float32(self.clip[0]), np.float32(self.clip[1]), out=x)
        x -= column(self.mean)
        x /= column(self.std)
        return x


class InputSpec(_Frozen):
    """One image that a model takes.

    Attributes:
        name: ``image``; ``t1``, ``t2``; ``optical``, ``sar``.
        bands: Names of the bands, in the model's order.
        transform: From stored values to the model's input.
        dtype: NumPy name of the training data's dtype.
        nodata: Value that marked missing pixels, or None.
        resampling: How it is warped on to another grid.
        missing: What to do when it is not given: refuse, or feed zeros.
    """

    name: str
    bands: tuple[str, ...]
    transform: Transform
    dtype: str = "uint8"
    nodata: float | None = None
    resampling: str = "bilinear"
    missing: Literal["refuse", "zero"] = "refuse"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.bands) != self.transform.bands:
            raise ValueError(
                f"input {self.name!r} names {len(self.bands)} bands, "
                f"its transform has {self.transform.bands}"
            )
        try:
            np.dtype(self.dtype)
        except TypeError as error:
            raise ValueError(f"input {self.name!r}: {self.dtype!r} is not a dtype") from error
        return self


class ClassInfo(_Frozen):
    """One class of the output.

    Attributes:
        value: Its number in a mask, 0..65534.
        name: Its name.
        color: Red, green, blue, 0..255.
    """

    value: int = Field(ge=0, le=65534)
    name: str
    color: tuple[int, int, int]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not all(0 <= c <= 255 for c in self.color):
            raise ValueError(f"class {self.name!r}: colours are 0..255, not {self.color}")
        return self


class CheckpointMeta(_Frozen):
    """A checkpoint's metadata (format 1); ``docs/checkpoints.md`` describes every field.

    Attributes:
        format: Version of this description.
        architecture: Registry name.
        arguments: Enough for ``create_model(architecture, **arguments)``.
        task: What it computes; fixes the number of inputs (1, 2, 2, 1).
        inputs: The images, in the order of the model's arguments.
        classes: In the order of the logits; a sigmoid model lists background, foreground.
        output: ``sigmoid`` (one logit) or ``softmax`` (one logit a class).
        threshold: Foreground above this probability (sigmoid).
        temperature: Logits are divided by it before the sigmoid or softmax.
        ignore_index: Label value that training ignored, or None.
        tile: Window side in pixels.
        overlap: Overlap of neighbouring windows as a fraction of the side, [0, 1).
        trim: Pixels dropped from inner window sides.
        size_multiple: The network's own padding multiple.
        gsd: Ground sample distance of the training data in metres, or None.
        sampler: Settings of a diffusion model's sampler, or None.
        metrics: Name to value, of the evaluation named in ``training``.
        training: Data set, recipe, steps, seed, versions.
        licence: Licence of the weights.
        citation: What to cite.
        sha256: Of the tensors; filled on saving, verified on loading.
        demo: True only for the embedded demonstration checkpoints.
    """

    format: int = FORMAT
    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    task: Literal["segmentation", "change", "multimodal", "classification"]
    inputs: tuple[InputSpec, ...]
    classes: tuple[ClassInfo, ...]
    output: Literal["sigmoid", "softmax"]
    threshold: float = Field(0.5, gt=0.0, lt=1.0)
    temperature: float = Field(1.0, gt=0.0)
    ignore_index: int | None = 255
    tile: int = Field(512, ge=1)
    overlap: float = Field(0.25, ge=0.0, lt=1.0)
    trim: int = Field(0, ge=0)
    size_multiple: int = Field(32, ge=1)
    gsd: float | None = Field(None, gt=0.0)
    sampler: dict[str, Any] | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    licence: str = ""
    citation: str = ""
    sha256: str = ""
    demo: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wanted = 1 if self.task in ("segmentation", "classification") else 2
        if len(self.inputs) != wanted:
            raise ValueError(f"task {self.task} takes {wanted} input(s), not {len(self.inputs)}")
        if len(self.classes) < 2 or (self.output == "sigmoid" and len(self.classes) != 2):
            raise ValueError("a sigmoid model lists two classes, a softmax model at least two")
        if len({c.value for c in self.classes}) != len(self.classes):
            raise ValueError("two classes share a value")
        return self

    @property
    def logits(self) -> int:
        """Number of the model's output channels."""
        return 1 if self.output == "sigmoid" else len(self.classes)
