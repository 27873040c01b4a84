"""What the numbers of maps and their truth mean."""

from dataclasses import dataclass

import numpy as np

from rsmamba_cli.errors import InputError
from rsmamba_cli.evaluation.map_counts import Counted
from rsmamba_cli.evaluation.metrics import Counts


@dataclass(frozen=True)
class Meaning:
    """How values are classes.

    Attributes:
        classes: their names.
        place: value -> index of its class.
        notes: how values were understood and what was left out.
    """

    classes: tuple[str, ...]
    place: dict[int, int]
    notes: list[str]


def understand(counted: Counted, positive: int | None, ignore: tuple[int, ...]) -> Meaning:
    """Settle the classes of what was counted.

    Args:
        counted: what was counted.
        positive: compare this class with all others; None compares all classes, or the positive
            class of masks.
        ignore: values that were left out.

    Raises:
        InputError: 255 could be a class or no data.
    """
    # The truth is the first of the joint values and the last of the sides.
    order = [*range(1, len(counted.sides)), 0]
    sides = [(s, counted.values(i)) for s, i in zip(counted.sides, order, strict=True)]
    notes = [note for side, _ in sides for note in side.notes]
    names: dict[int, str] = {}
    for side, values in sides:
        names = {**side.names, **names}
        count = counted.left_out[side.what]
        if side.nodata is not None and count:
            shown = f"{side.nodata:g}"
            hint = ""
            if side.nodata == 255 and values <= {0}:
                hint = "; if 255 is its positive class, remove the declaration"
            notes.append(
                f"{side.what}: {shown} is declared as no data, {count} pixels left out{hint}"
            )
        elif count:
            notes.append(f"{side.what}: {count} pixels without data left out")
        if 255 in values and values <= {0, 255} and positive is None:
            notes.append(f"{side.what}: coded 0/255; 255 is the positive class, not ignored")
    if counted.left_out["area"]:
        notes.append(f"{counted.left_out['area']} pixels outside the area left out")
    if counted.left_out["ignore"]:
        shown = ", ".join(map(str, ignore))
        notes.append(
            f"{counted.left_out['ignore']} pixels with an ignored value ({shown}) left out"
        )
    values = set().union(*(v for _, v in sides))
    classes: tuple[str, ...]
    if positive is not None:
        notes.append(f"class {positive} against all others")
        classes = (f"not {positive}", names.get(positive, f"class {positive}"))
        place = {v: int(v == positive) for v in values}
    elif 255 in values and values <= {0, 1, 255}:
        # One side may be coded 0/255 and another 0/1: both mean the same.
        if any({1, 255} <= v for _, v in sides):
            raise InputError(
                "A map holds 0, 1 and 255, so that 255 could be a class or no data: name it as "
                "ignored (--ignore 255) or as the positive class (--positive 255)."
            )
        classes = (names.get(0, "background"), names.get(1, "foreground"))
        place = {v: int(v != 0) for v in values}
    else:
        if 255 in values:
            notes.append("255 occurs beside other classes and is counted as a class")
        listed = sorted(values | ({0, 1} if values <= {0, 1} else set()))
        plain = {0: "background", 1: "foreground"} if listed == [0, 1] else {}
        classes = tuple(names.get(v, plain.get(v, f"class {v}")) for v in listed)
        place = {v: i for i, v in enumerate(listed)}
        if len(listed) == 1:
            classes = (*classes, "none")
    return Meaning(classes, place, list(dict.fromkeys(notes)))


def confusions(counted: Counted, meaning: Meaning, number: int) -> Counts:
    """The confusion of every unit, int64 (U, K, K), rows the truth.

    Args:
        counted: what was counted.
        meaning: its classes.
        number: of the map, from 0.
    """
    classes = len(meaning.classes)
    each = np.zeros((len(counted.units), classes, classes), np.int64)
    for matrix, unit in zip(each, counted.units, strict=True):
        for key, pixels in unit.items():
            matrix[meaning.place[key[0]], meaning.place[key[number + 1]]] += pixels
    return each
