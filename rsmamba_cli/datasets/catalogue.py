"""The catalogue: every dataset that ``--dataset`` knows by name."""

from rsmamba_cli.datasets.entries.buildings import LEVIR_CD, MASSACHUSETTS_ROADS, WHU, WHU_CD
from rsmamba_cli.datasets.entries.everyday import ADE20K, CITYSCAPES, COCO_STUFF
from rsmamba_cli.datasets.entries.landcover import (
    HUNAN,
    ISAID,
    LOVEDA,
    POTSDAM,
    VAIHINGEN,
    WHU_OPT_SAR,
)
from rsmamba_cli.datasets.entries.own import DEMO, FOLDER, SCENES
from rsmamba_cli.datasets.info import DatasetInfo
from rsmamba_cli.errors import DatasetError

_CATALOGUE = (
    DEMO,
    FOLDER,
    SCENES,
    WHU,
    WHU_CD,
    LEVIR_CD,
    MASSACHUSETTS_ROADS,
    LOVEDA,
    POTSDAM,
    VAIHINGEN,
    ISAID,
    WHU_OPT_SAR,
    HUNAN,
    ADE20K,
    CITYSCAPES,
    COCO_STUFF,
)


def catalogue() -> list[DatasetInfo]:
    """List every dataset the toolkit knows, in the order of the tables."""
    return list(_CATALOGUE)


def get_dataset(name: str) -> DatasetInfo:
    """Look a dataset up by the name that ``--dataset`` takes.

    Raises:
        DatasetError: no dataset has this name; the message lists those there are.
    """
    for info in _CATALOGUE:
        if info.name == name:
            return info
    known = ", ".join(info.name for info in _CATALOGUE)
    raise DatasetError(f"There is no dataset called {name!r}. Known: {known}.")
