"""What each image of a sample is: its name for the model, its folder, its bands and their type."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsmamba_cli.datasets.files import TileHeader, read_header
from rsmamba_cli.datasets.info import INPUTS, DatasetInfo
from rsmamba_cli.datasets.layout import folders_of
from rsmamba_cli.errors import DatasetError

Bands = Sequence[int] | Sequence[Sequence[int] | None]
"""1-based numbers for every image, or one such list (None: all) for each."""

Nodata = float | Sequence[float | None]
"""A value for every image, or one (None: none) for each."""

Names = Sequence[str] | Sequence[Sequence[str]]
"""Names of bands of every image, or one such list for each."""


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """One image of every sample of a dataset.

    Attributes:
        name: what the model calls it: "image"; "t1", "t2"; "optical", "sar".
        role: the folder that it lies in.
        bands: names of the bands in use.
        dtype: the numpy name of the values.
        numbers: 1-based numbers of the bands in the files; None for all but alpha.
        nodata: a no-data value that the files do not declare, or None.
        parts: what it is stacked of, where its role names several folders.
    """

    name: str
    role: str
    bands: tuple[str, ...]
    dtype: str
    numbers: tuple[int, ...] | None = None
    nodata: float | None = None
    parts: tuple["DatasetInput", ...] = ()

    def describe(self) -> str:
        """Bands and type in words."""
        count = len(self.bands)
        return f"{count} band{'s' * (count != 1)} of {self.dtype}"


def describe_inputs(
    info: DatasetInfo,
    task: str,
    roles: Sequence[str],
    files: Sequence[Path],
    bands: Bands | None = None,
    nodata: Nodata | None = None,
    names: Names | None = None,
) -> tuple[DatasetInput, ...]:
    """Describe the images of a dataset by those of its first sample.

    Args:
        info: the catalogue's entry; names the bands where it knows as many as there are.
        task: of the dataset.
        roles: folder, or folders, of each image.
        files: of the first sample, one a folder.
        bands: those to use; None for all but alpha. Like what follows, of each folder where some
            are stacked.
        nodata: what the files do not declare.
        names: of the bands, as the user's class file says.

    Raises:
        DatasetError: bands or names that do not fit the files, or one folder for two images
            without saying which bands are whose.
    """
    count = len(files)
    folders = [folders_of(role) for role in roles]
    stacked = count > len(roles)
    official = (info.bands, info.sar_bands) if task == "multimodal" else (info.bands,) * count
    official = ((),) * count if stacked else official
    numbers = bands_of_each(bands, count)
    if count == 2 and files[0] == files[1] and bands is None:
        first, second = map(len, official)
        if not (first and second):
            raise DatasetError(
                f"Both images are read from {files[0].parent}: say which bands are whose, such as "
                "data.bands=[[1,2,3,4],[5]]."
            )
        numbers = [tuple(range(1, first + 1)), tuple(range(first + 1, first + second + 1))]
    values = nodata_of_each(nodata, count)
    given: list[Sequence[str] | None] = [None] * count
    if names is not None:
        given = [[str(n) for n in part] for part in names if not isinstance(part, str)]
        given = given or [[str(name) for name in names]] * count
        _check_count("bands in the class file", given, count)
    flat = [(n, folder) for n, part in zip(INPUTS[task], folders, strict=True) for folder in part]
    inputs = []
    for i, ((name, role), path) in enumerate(zip(flat, files, strict=True)):
        header = read_header(path)
        used = numbers[i]
        if used is None and len(header.bands) < len(official[i]) == len(header.stored):
            # Files of red, green, blue, near infrared are often written as if the last were alpha.
            used = tuple(range(1, len(header.stored) + 1))
        bands_in_use = _names(path, header, used, given[i], official[i])
        inputs.append(DatasetInput(name, role, bands_in_use, header.dtype, used, values[i]))
    if not stacked:
        return tuple(inputs)
    waiting = iter(inputs)
    return tuple(_stack(role, [next(waiting) for _ in folders_of(role)]) for role in roles)


def _stack(role: str, parts: Sequence[DatasetInput]) -> DatasetInput:
    """One image of the bands of several; bands with a name that is taken get their folder's."""
    if len(parts) == 1:
        return parts[0]
    bands: list[str] = []
    for part in parts:
        bands += [f"{part.role}_{band}" if band in bands else band for band in part.bands]
    dtype = np.result_type(*(part.dtype for part in parts)).name
    nodata = {part.nodata for part in parts}
    return DatasetInput(
        parts[0].name,
        role,
        tuple(bands),
        dtype,
        nodata=nodata.pop() if len(nodata) == 1 else None,
        parts=tuple(parts),
    )


def bands_of_each(bands: Bands | None, count: int) -> list[tuple[int, ...] | None]:
    """The bands to use of each of so many images.

    Raises:
        DatasetError: they are given for another number of images.
    """
    if bands is None:
        return [None] * count
    flat = tuple(part for part in bands if isinstance(part, int))
    if flat:
        return [flat] * count
    lists = [None if part is None else tuple(part) for part in bands if not isinstance(part, int)]
    _check_count("data.bands", lists, count)
    return lists


def nodata_of_each(nodata: Nodata | None, count: int) -> list[float | None]:
    """The value without data of each of so many images.

    Raises:
        DatasetError: they are given for another number of images.
    """
    one = nodata is None or isinstance(nodata, int | float)
    values: list[float | None] = [nodata] * count if one else [*nodata]  # type: ignore[misc, list-item]
    _check_count("data.nodata", values, count)
    return values


def _check_count(what: str, values: Sequence[object], count: int) -> None:
    if len(values) != count:
        raise DatasetError(f"{what} is given for {len(values)} images; a sample has {count}.")


def _names(
    path: Path,
    header: TileHeader,
    numbers: tuple[int, ...] | None,
    given: Sequence[str] | None,
    official: Sequence[str],
) -> tuple[str, ...]:
    """Names of the bands in use: the user's, the catalogue's, or the file's."""
    own = header.bands if numbers is None else header.stored
    wanted = numbers or tuple(range(1, len(own) + 1))
    if not all(1 <= b <= len(own) for b in wanted):
        raise DatasetError(
            f"{path} has {len(own)} bands ({', '.join(own)}); bands {list(wanted)} were asked for."
        )
    if given is not None and len(given) not in (len(own), len(wanted)):
        raise DatasetError(
            f"The class file beside the splits names {len(given)} bands; {path} has {len(own)}."
        )
    names = next(n for n in (given, official, own) if n and len(n) in (len(own), len(wanted)))
    return tuple(names[b - 1] for b in wanted) if len(names) == len(own) else tuple(names)
