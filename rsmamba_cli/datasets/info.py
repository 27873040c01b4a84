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
        label_step: label files may also hold the classes' values divided by this.
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
    label_step: int | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def task(self) -> str:
        """The tasks in one phrase, for tables and messages."""
        return " or ".join(self.tasks)
