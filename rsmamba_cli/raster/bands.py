"""Which bands of a file go into a model, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from rsmamba_cli.errors import InputError


@dataclass(frozen=True)
class BandChoice:
    """The bands to read.

    Attributes:
        bands: 1-based band numbers in the model's order (repeats allowed).
        names: a name for each, from descriptions or colour interpretation.
        expand_palette: read band 1 and look its values up in the colour table (3 bands come out).
        alpha: 1-based numbers of the alpha bands that say which pixels are valid.
        note: what was decided on the user's behalf, for a message; may be empty.
    """

    bands: tuple[int, ...]
    names: tuple[str, ...]
    expand_palette: bool = False
    alpha: tuple[int, ...] = ()
    note: str = ""

    @property
    def count(self) -> int:
        """Number of bands handed on."""
        return 3 if self.expand_palette else len(self.bands)


def choose_bands(
    dataset: Any,
    bands: Sequence[int] | None = None,
    expected: int | None = None,
    expected_names: Sequence[str] = (),
) -> BandChoice:
    """Decide which bands to read.

    Bands given by the user win. Otherwise alpha bands (by colour interpretation, whatever the band
    count) are set aside. The remaining ones are taken by name when all expected names are found
    among band descriptions or colour interpretations, else in file order when their number is the
    expected one.

    Args:
        dataset: an open rasterio dataset.
        bands: 1-based numbers, or None.
        expected: how many bands the model wants; None takes all but alpha.
        expected_names: what the model calls them.

    Raises:
        InputError: complex values, a band number out of range, or a count that does not fit; the
            message lists the bands found and those wanted.
    """
    used = tuple(range(1, dataset.count + 1)) if bands is None else tuple(int(b) for b in bands)
    if bands is not None and not used:
        raise InputError("--bands names no band")
    for band in used:
        if not 1 <= band <= dataset.count:
            raise InputError(
                f"{dataset.name}: has no band {band}; it has {_listing(dataset)}. Bands are "
                "counted from 1."
            )
    complex_bands = [b for b in used if np.dtype(_numpy_name(dataset.dtypes[b - 1])).kind == "c"]
    if complex_bands:
        raise InputError(
            f"{dataset.name}: band {complex_bands[0]} holds complex numbers "
            f"({dataset.dtypes[complex_bands[0] - 1]}), which no model here takes. Compute the "
            "intensity or amplitude first, for example with gdal_calc.py or SNAP."
        )
    interpretation = dataset.colorinterp
    alpha = tuple(
        b
        for b in range(1, dataset.count + 1)
        if interpretation[b - 1] == ColorInterp.alpha and not (bands is not None and b in used)
    )
    if bands is not None:
        if len(used) == 1 and expected == 3 and _has_palette(dataset, used[0]):
            return BandChoice(used, ("red", "green", "blue"), True, alpha)
        if expected is not None and len(used) != expected:
            listed = ",".join(map(str, used))
            raise InputError(
                f"--bands names {len(used)} band{'s' * (len(used) != 1)} ({listed}) but the model "
                f"wants {_wanted(expected, expected_names)}"
            )
        return BandChoice(used, _names(dataset, used), False, alpha)
    data = tuple(b for b in used if b not in alpha)
    if len(data) == 1 and expected == 3 and _has_palette(dataset, data[0]):
        note = "its colour table is applied: indices become red, green and blue"
        return BandChoice(data, ("red", "green", "blue"), True, alpha, note)
    named = _by_name(dataset, data, expected_names) if expected == len(expected_names) else None
    fits = expected is None or len(data) == expected
    if data and fits and named in (None, data):
        return BandChoice(data, _names(dataset, data), False, alpha)
    if named is not None:
        chosen = ", ".join(f"{b} ({n})" for b, n in zip(named, expected_names, strict=True))
        return BandChoice(
            named, tuple(expected_names), False, alpha, f"bands {chosen} are used, by their names"
        )
    if expected is None:
        raise InputError(f"{dataset.name}: has {_listing(dataset)}: alpha and nothing else")
    raise InputError(_refusal(dataset, data, alpha, expected, expected_names))


def _refusal(
    dataset: Any,
    data: tuple[int, ...],
    alpha: tuple[int, ...],
    expected: int,
    expected_names: Sequence[str],
) -> str:
    text = (
        f"{dataset.name}: has {_listing(dataset)}, but the model wants "
        f"{_wanted(expected, expected_names)}."
    )
    if alpha and len(data) + len(alpha) == expected:
        every = ",".join(str(b) for b in range(1, expected + 1))
        return text + (
            f" Band {alpha[0]} is marked as alpha (transparency); if it holds data, name all "
            f"bands: --bands {every}"
        )
    if len(data) > expected:
        example = ",".join(str(b) for b in data[:expected])
        return text + f" Choose them in the model's order, for example --bands {example}"
    return text + (
        " Give a file with these bands, or a model trained on what this one has"
        + (f" (to repeat a band: --bands {','.join(['1'] * expected)})." if expected < 9 else ".")
    )


def _has_palette(dataset: Any, band: int) -> bool:
    return bool(dataset.colorinterp[band - 1] == ColorInterp.palette)


def _by_name(
    dataset: Any, data: tuple[int, ...], expected_names: Sequence[str]
) -> tuple[int, ...] | None:
    """Bands whose descriptions, or else colour interpretations, are the expected names."""
    wanted = [name.lower() for name in expected_names]
    descriptions = {b: (dataset.descriptions[b - 1] or "").lower() for b in data}
    colours = {b: dataset.colorinterp[b - 1].name.lower() for b in data}
    for labels in (descriptions, colours):
        matches = [[b for b, label in labels.items() if label == name] for name in wanted]
        if wanted and all(len(match) == 1 for match in matches):
            return tuple(match[0] for match in matches)
    return None


def _names(dataset: Any, bands: Sequence[int]) -> tuple[str, ...]:
    return tuple(
        dataset.descriptions[b - 1] or dataset.colorinterp[b - 1].name.lower() for b in bands
    )


def _listing(dataset: Any) -> str:
    names = _names(dataset, range(1, min(dataset.count, 16) + 1))
    shown = ", ".join(f"{i} {n} {dataset.dtypes[i - 1]}" for i, n in enumerate(names, start=1))
    more = "" if dataset.count <= 16 else f", and {dataset.count - 16} more"
    return f"{dataset.count} band{'s' * (dataset.count != 1)} ({shown}{more})"


def _wanted(expected: int, names: Sequence[str]) -> str:
    listed = f" ({', '.join(names)})" if names else ""
    return f"{expected}{listed}"


def _numpy_name(dtype: str) -> str:
    """GDAL's complex integers have no numpy type of their own."""
    return "complex64" if dtype.startswith("complex_int") else dtype
