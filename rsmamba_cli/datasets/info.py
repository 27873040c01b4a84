"""What the toolkit knows about a dataset before it has seen a file of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Color = tuple[int, int, int]

IGNORE = 255
"""The label index of pixels that count neither in a loss nor in a metric."""

ROLES: Mapping[str, tuple[str, ...]] = {
    "segmentation": ("image", "label"),
    "change": ("t1", "t2", "label"),
    "multimodal": ("image", "sar", "label"),
}
"""Task -> the folders a split consists of; the label comes last."""

INPUTS: Mapping[str, tuple[str, ...]] = {
    "segmentation": ("image",),
    "change": ("t1", "t2"),
    "multimodal": ("optical", "sar"),
}
"""Task -> what models call the images of a sample."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class DatasetClass:
    """One class of a dataset.

    Attributes:
        value: what the label files hold for it.
        name: what a user calls it.
        color: how it is painted, 8-bit RGB.
    """

    value: int
    name: str
    color: Color


@dataclass(frozen=True, slots=True)
class LabelValues:
    """Other numbers that label files of a dataset may hold for its classes.

    Attributes:
        values: in the order of the classes.
        ignore: those that mean "not labelled".
        note: what a user is told when a dataset is coded so.
        ending: of the stems of label files that are always coded so; "" for none.
        folder: the name of the folder whose label files are coded so, and no others; "" for any.
        further: other numbers -> the one of ``values`` whose class they are part of.
    """

    values: tuple[int, ...]
    ignore: tuple[int, ...]
    note: str
    ending: str = ""
    folder: str = ""
    further: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Download:
    """A file at a public address that has been stable for years.

    Attributes:
        url: where.
        checksum: "algorithm:hexadecimal digits", or "" where its makers publish none.
    """

    url: str
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """An entry of the catalogue.

    Attributes:
        name: what ``--dataset`` takes.
        title: its full name.
        tasks: what it can train, in the order in which a folder is looked at.
        bands: band names of the (optical) images, or () when any bands are possible.
        classes: in the order of the model's outputs, or () when the data decide.
        ignore_index: label value left out of losses and metrics, or None when there is none.
        gsd: ground sample distance in metres, or None.
        splits: name -> official number of tiles (None where no official figure exists).
        tile: side of the official tiles in pixels, or None.
        licence: the terms as its makers state them.
        citation: the paper to cite.
        source: where to get it, in words a user can follow.
        layout: the folders it must consist of, a line each.
        binary_any: label files mean "any value but 0 is the positive class".
        sar_bands: band names of the radar images of a multimodal dataset.
        stacked: folder of files that hold the bands of both, the optical ones first; "" for none.
        recodings: other numbers that label files may hold for the classes.
        coloured: label files may also be pictures in the classes' colours; black is ignored where
            no class is black.
        image_endings: ends of the images' stems that labels do not have ("_leftImg8bit").
        label_endings: ends of the labels' stems that images do not have, the preferred one first.
        nested: tiles may lie in further folders below those of the layout.
        mean: official mean of each band, optical then radar, in the files' units; () for none.
        std: official standard deviation of each, or ().
        downloads: the files that `fetch` gets; () where an address is not stable or wants a login.
        notes: what surprises people.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    bands: tuple[str, ...]
    classes: tuple[DatasetClass, ...]
    ignore_index: int | None
    gsd: float | None
    splits: Mapping[str, int | None]
    tile: int | None
    licence: str
    citation: str
    source: str
    layout: str
    binary_any: bool = False
    sar_bands: tuple[str, ...] = ()
    stacked: str = ""
    recodings: tuple[LabelValues, ...] = ()
    coloured: bool = False
    image_endings: tuple[str, ...] = ()
    label_endings: tuple[str, ...] = ()
    nested: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    downloads: tuple[Download, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def task(self) -> str:
        """The tasks in one phrase, for tables and messages."""
        return " or ".join(self.tasks)


def binary_classes(name: str, value: int = 1) -> tuple[DatasetClass, DatasetClass]:
    """Background 0 and one foreground class, black and white."""
    return (
        DatasetClass(0, "background", (0, 0, 0)),
        DatasetClass(value, name, (255, 255, 255)),
    )
