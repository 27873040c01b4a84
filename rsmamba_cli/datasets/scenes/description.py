"""The file that describes a dataset of scenes: what lies where, what labels mean, how to split."""

import json
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rsmamba_cli.datasets.info import IGNORE, SPLITS, Color, DatasetClass
from rsmamba_cli.datasets.labels import default_color
from rsmamba_cli.errors import DatasetError

SplitName = Literal["train", "val", "test"]

IGNORED = "ignore"
"""What `ScenesFile.codes` calls a value that means "not labelled"."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassPart(_Part):
    """A class.

    Attributes:
        name: what it is called.
        value: the number of it in raster labels and in maps; None: its place in the list.
        color: 8-bit RGB; None: chosen.
    """

    name: str
    value: int | None = Field(None, ge=0)
    color: Color | None = None


class ScenePart(_Part):
    """One scene; paths are relative to the describing file.

    Attributes:
        image: the (optical, or first) raster.
        label: a raster of class numbers, or polygons, lines or points in any vector format.
        layer: of a vector file with several.
        sar: radar raster of the same place, on any grid.
        t2: second date, on any grid.
        area: polygons inside which the labels are complete; outside of them nothing is labelled.
        split: where all of this scene goes; None lets `SplitsPart` decide.
    """

    image: Path
    label: Path
    layer: str | None = None
    sar: Path | None = None
    t2: Path | None = None
    area: Path | None = None
    split: SplitName | None = None


class SplitsPart(_Part):
    """Who learns from what.

    Attributes:
        by: ``block`` deals out squares of every scene, ``scene`` whole scenes.
        block: side of the squares in pixels, about; also of the tiles that scenes are read in.
        buffer: no pixel to learn from lies within so many pixels of one to validate or test on, nor
            one to validate on of one to test on; scenes that overlap on the ground count too.
        shares: of the blocks or scenes that have labels.
        seed: of the dealing.
    """

    by: Literal["block", "scene"] = "block"
    block: int = Field(1024, ge=64)
    buffer: int = Field(64, ge=0)
    shares: dict[str, float] = Field(
        default_factory=lambda: {"train": 0.7, "val": 0.15, "test": 0.15}
    )
    seed: int = Field(0, ge=0)

    @field_validator("shares")
    @classmethod
    def _positive(cls, shares: dict[str, float]) -> dict[str, float]:
        if unknown := set(shares) - set(SPLITS):
            raise ValueError(f"there is no split {sorted(unknown)[0]!r}")
        if not shares or min(shares.values()) < 0 or sum(shares.values()) <= 0:
            raise ValueError("shares are numbers of at least 0, not all of them 0")
        return shares


class ScenesFile(_Part):
    """A dataset of scenes.

    Attributes:
        classes: in the order of the model's outputs; where vector labels have nothing is the first.
        scenes: at least one.
        field: the attribute that tells the class of a vector feature; None: all are the second.
        codes: value of the attribute (or of raster labels) -> name of a class, or "ignore". Values
            that are a class's name or number need none.
        all_touched: a feature covers every pixel that it touches, not those whose centre it covers.
        line_width: metres that lines are wide and points across; None: a pixel.
        ignore_border: pixels within so many of another class are not labelled.
        splits: how scenes are split.
        gsd: ground sample distance in metres; None: the first scene's.
        licence, citation: what a model trained on it inherits.
    """

    classes: tuple[ClassPart, ...] = Field(min_length=2, max_length=254)
    scenes: tuple[ScenePart, ...] = Field(min_length=1)
    field: str | None = None
    codes: dict[str, str] = Field(default_factory=dict)
    all_touched: bool = False
    line_width: float | None = Field(None, gt=0)
    ignore_border: int = Field(0, ge=0, le=64)
    splits: SplitsPart = SplitsPart()
    gsd: float | None = Field(None, gt=0)
    licence: str = ""
    citation: str = ""

    @field_validator("classes", mode="before")
    @classmethod
    def _by_name(cls, classes: object) -> object:
        if not isinstance(classes, list):
            return classes
        return [{"name": entry} if isinstance(entry, str) else entry for entry in classes]

    @field_validator("codes", mode="before")
    @classmethod
    def _as_text(cls, codes: object) -> object:
        return {str(k): v for k, v in codes.items()} if isinstance(codes, dict) else codes

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [c.name for c in self.classes]
        values = [c.value for c in self.named_classes()]
        if len(set(names)) < len(names) or len(set(values)) < len(values):
            raise ValueError("two classes have the same name or value")
        if IGNORED in names or IGNORE in values:
            raise ValueError(f'no class can be called "{IGNORED}" or have the value {IGNORE}')
        if unknown := set(self.codes.values()) - {*names, IGNORED}:
            raise ValueError(f"codes name {sorted(unknown)[0]!r}, which is no class")
        for other in ("sar", "t2"):
            if 0 < sum(getattr(s, other) is not None for s in self.scenes) < len(self.scenes):
                raise ValueError(f"some scenes have {other}, others have not")
        return self

    def named_classes(self) -> tuple[DatasetClass, ...]:
        """The classes with value and colour."""
        return tuple(
            DatasetClass(i if c.value is None else c.value, c.name, c.color or default_color(i))
            for i, c in enumerate(self.classes)
        )

    def indices(self) -> dict[str, int]:
        """Every value that labels may hold, as text -> class index, or 255."""
        classes = self.named_classes()
        place = {c.name: i for i, c in enumerate(classes)}
        own = {str(c.value): i for i, c in enumerate(classes)} | place
        given = {k: IGNORE if v == IGNORED else place[v] for k, v in self.codes.items()}
        return own | given


def read_scenes_file(path: Path) -> ScenesFile:
    """Read a description in YAML or JSON; its paths become absolute.

    Raises:
        DatasetError: there is none, it cannot be read, or a setting is wrong; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
        described = ScenesFile.model_validate(content)
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}). The dataset scenes is a YAML or JSON file "
            "that describes scenes and labels: name it with --data FILE."
        ) from error
    except ValidationError as error:
        lines = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in error.errors()
        )
        raise DatasetError(f"In {path}: {lines}.") from error
    except (ValueError, yaml.YAMLError) as error:
        raise DatasetError(f"{path} is no YAML or JSON: {error}") from error
    folder = path.resolve().parent
    scenes = []
    for scene in described.scenes:
        files = {
            key: folder / value
            for key in ("image", "label", "sar", "t2", "area")
            if (value := getattr(scene, key)) is not None
        }
        if missing := [str(file) for file in files.values() if not file.exists()]:
            raise DatasetError(f"{path} names {missing[0]}, which does not exist.")
        scenes.append(scene.model_copy(update=files))
    return described.model_copy(update={"scenes": tuple(scenes)})
