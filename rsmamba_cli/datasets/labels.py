"""What the numbers in label files mean: 0/1, 0/255, class numbers, and which are to be ignored.

A coding is a property of a dataset, not of a file: a tile that holds only 255 can be wholly built
up or wholly unlabelled, and only its neighbours tell.
"""

import colorsys
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from rsmamba_cli.datasets.files import Box, is_picture, read_label
from rsmamba_cli.datasets.info import IGNORE, Color, DatasetClass, DatasetInfo
from rsmamba_cli.errors import DatasetError

CLASS_FILES = ("classes.json", "classes.yaml", "classes.yml")

_TELLING_FILES = 200
"""Label files that are read to tell one coding from another."""

_MOST_CLASSES = 254
"""Indices are stored in 8 bits and 255 is the ignore index."""


@dataclass(frozen=True, slots=True)
class LabelCoding:
    """How the values of label files become class indices.

    Attributes:
        classes: in index order; their ``value`` is what the files hold.
        ignore: values that mean "not labelled".
        binary_any: every value but 0 (and ``ignore``) is class 1.
        notes: what was understood and a user should know.
        palette: colour -> value, where label files are pictures.
        further: values that are taken for another.
    """

    classes: tuple[DatasetClass, ...]
    ignore: tuple[int, ...] = ()
    binary_any: bool = False
    notes: tuple[str, ...] = ()
    palette: Mapping[Color, int] | None = None
    further: Mapping[int, int] = field(default_factory=dict)

    def read(self, path: Path, box: Box | None = None) -> NDArray[Any]:
        """Read a label file, or a part, as the values that `encode` takes, (H, W).

        Raises:
            DatasetError: as `read_label`.
        """
        return read_label(path, box, self.palette)

    def knows(self, values: NDArray[Any]) -> bool:
        """Whether all values are classes or ignored."""
        known = [*(c.value for c in self.classes), *self.ignore, *self.further]
        return bool(np.isin(values, known).all())

    def encode(self, raw: NDArray[Any], path: Path | str = "label") -> NDArray[np.int64]:
        """Turn file values (H, W) into class indices (H, W), int64, 255 where ignored.

        Raises:
            DatasetError: the array holds a value that is neither a class nor ignored.
        """
        if self.further:
            given = raw
            raw = raw.copy()
            for value, taken in self.further.items():
                raw[given == value] = taken
        if self.binary_any:
            out: NDArray[np.int64] = (raw != 0).astype(np.int64)
        else:
            known = np.array([c.value for c in self.classes], dtype=np.int64)
            order = np.argsort(known)
            place = np.searchsorted(known[order], raw).clip(0, len(known) - 1)
            out = order[place].astype(np.int64)
            unknown = known[out] != raw
            if unknown.any():
                unknown &= ~np.isin(raw, self.ignore)
            if unknown.any():
                values = ", ".join(str(v) for v in np.unique(raw[unknown])[:8])
                wanted = ", ".join(f"{c.value} {c.name}" for c in self.classes)
                raise DatasetError(
                    f"{path} holds the values {values}, which are no class of this dataset "
                    f"({wanted}; ignored: {list(self.ignore)}). "
                    "List all classes in classes.json beside the splits."
                )
        if self.ignore:
            out[np.isin(raw, self.ignore)] = IGNORE
        return out


def default_color(index: int) -> Color:
    """A colour for class ``index``: black for 0, then well separated hues."""
    if index == 0:
        return (0, 0, 0)
    red, green, blue = colorsys.hsv_to_rgb((0.08 + 0.618034 * (index - 1)) % 1.0, 0.75, 0.95)
    return (round(red * 255), round(green * 255), round(blue * 255))


def official_coding(info: DatasetInfo, labels: Iterable[Path]) -> LabelCoding:
    """The coding of a dataset of the catalogue.

    Where its labels are handed around in several codings, the files' names tell, or the first label
    file that fits only one of them.

    Args:
        info: an entry with classes.
        labels: its label files.
    """
    ignore = () if info.ignore_index is None else (info.ignore_index,)
    coding = LabelCoding(info.classes, ignore, info.binary_any)
    few = list(islice(labels, _TELLING_FILES))
    if info.coloured and any(is_picture(path) for path in few[:1]):
        palette = {(0, 0, 0): info.ignore_index} if info.ignore_index is not None else {}
        palette |= {c.color: c.value for c in info.classes}
        note = "labels are pictures in the classes' colours"
        return replace(coding, palette=palette, notes=(note,))
    choices = [coding]
    for other in info.recodings:
        pairs = zip(info.classes, other.values, strict=True)
        classes = tuple(replace(c, value=value) for c, value in pairs)
        recoded = LabelCoding(classes, other.ignore, notes=(other.note,), further=other.further)
        if few and other.ending and few[0].stem.endswith(other.ending):
            return recoded
        if few and other.folder and few[0].parent.name.lower() == other.folder:
            return recoded
        if not other.folder:
            choices.append(recoded)
    for path in few if len(choices) > 1 else ():
        values = np.unique(read_label(path))
        fitting = [choice for choice in choices if choice.knows(values)]
        if len(fitting) == 1:
            return fitting[0]
    return coding


def count_values(paths: Iterable[Path]) -> dict[Path, dict[int, int]]:
    """Read label files and count the pixels of each value in each."""
    counted = {}
    for path in paths:
        values, counts = np.unique(read_label(path), return_counts=True)
        counted[path] = {int(v): int(n) for v, n in zip(values, counts, strict=True)}
    return counted


def read_class_file(root: Path) -> dict[str, Any] | None:
    """Read ``classes.json`` (or .yaml) beside the splits; None when there is none.

    Returns:
        A mapping with "coding" (LabelCoding) and, where given, "gsd", "bands", "licence",
        "citation".

    Raises:
        DatasetError: the file cannot be understood; the message shows what is expected.
    """
    path = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        return _parse_class_file(content, path)
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise DatasetError(
            f"{path} cannot be understood ({error}). Expected for example "
            '{"classes": [{"value": 0, "name": "ground", "color": [0, 0, 0]}, '
            '{"value": 1, "name": "building"}], "ignore": [255], "gsd": 0.5}.'
        ) from error


def _parse_class_file(content: Any, path: Path) -> dict[str, Any]:
    """Understand a list of names, a mapping of value to name, or the full form."""
    if isinstance(content, list):
        content = {"classes": content}
    elif "classes" not in content:
        content = {"classes": [{"value": int(v), "name": n} for v, n in content.items()]}
    unknown = set(content) - {"classes", "ignore", "gsd", "bands", "licence", "citation"}
    if unknown:
        raise ValueError(f"unknown entry {sorted(unknown)[0]!r}")
    classes = []
    for index, entry in enumerate(content["classes"]):
        if isinstance(entry, str):
            entry = {"name": entry}
        color = entry.get("color", entry.get("colour")) or default_color(index)
        red, green, blue = (int(part) for part in color)
        classes.append(
            DatasetClass(int(entry.get("value", index)), str(entry["name"]), (red, green, blue))
        )
    if len({c.value for c in classes}) != len(classes):
        raise ValueError("two classes have the same value")
    if not 2 <= len(classes) <= _MOST_CLASSES:
        raise ValueError(f"{len(classes)} classes; between 2 and {_MOST_CLASSES} are possible")
    ignore = content.get("ignore")
    ignore = () if ignore is None else tuple(int(v) for v in np.atleast_1d(ignore))
    if clash := {c.value for c in classes} & set(ignore):
        raise ValueError(f"value {min(clash)} is a class and ignored at once")
    coding = LabelCoding(tuple(classes), ignore, notes=(f"classes as {path.name} says",))
    extra = {k: content[k] for k in ("gsd", "bands", "licence", "citation") if k in content}
    return {"coding": coding, **extra}


def infer_coding(
    counted: Mapping[Path, Mapping[int, int]], positive: str, classes: int | None = None
) -> LabelCoding:
    """Work out the coding of a dataset from the values its label files hold.

    Only 0 and 1, or only 0 and 255, is binary. Class numbers 0..K-1 are classes, and 255 beside
    them means "ignore". Anything that can be read in two ways is refused.

    Args:
        counted: the pixels of each value in each file of the dataset.
        positive: the name of class 1 of a binary dataset.
        classes: how many classes there must be (those of a checkpoint), or None.

    Raises:
        DatasetError: the values are ambiguous or no class numbers.
    """
    values = {v for counts in counted.values() for v in counts}
    if not values:
        raise DatasetError("There is no label file to learn the classes from.")
    if values <= {0, 1} and classes in (None, 2):
        return LabelCoding(_binary(1, positive), notes=("labels are coded 0/1",))
    if values <= {0, 255} and classes in (None, 2):
        note = f"labels are coded 0/255; 255 is {positive}, not ignored"
        return LabelCoding(_binary(255, positive), notes=(note,))
    numbers = values - {IGNORE}
    highest = max(numbers, default=0)
    if min(values) < 0 or highest >= _MOST_CLASSES:
        raise DatasetError(
            f"The label files hold the values {_some(values)}, which are no class numbers from 0 "
            f"up. Say what they mean in classes.json beside the splits.{_hint_lossy(values)}"
        )
    if values == {0, 1, IGNORE} and not any({1, IGNORE} <= set(c) for c in counted.values()):
        ones = next(p for p, c in counted.items() if 1 in c)
        whites = next(p for p, c in counted.items() if IGNORE in c)
        raise DatasetError(
            f"Some label files are coded 0/1 ({ones.name}), others 0/255 ({whites.name}): 255 "
            'could be the positive class or "ignore". Make them alike, or write classes.json '
            'beside the splits, with "ignore": [255] if that is what 255 means.'
        )
    count = highest + 1 if classes is None else classes
    if highest >= count:
        raise DatasetError(
            f"The label files hold class {highest}, but the model has only the classes "
            f"0 to {count - 1}."
        )
    if classes is None and len(numbers) < 0.5 * count and count > 8:
        raise DatasetError(
            f"The label files hold only {len(numbers)} values up to {highest} "
            f"({_some(numbers)}); that does not look like class numbers. Say what they mean in "
            f"classes.json beside the splits.{_hint_lossy(values)}"
        )
    count = max(count, 2)
    named = (
        _binary(1, positive)
        if count == 2
        else tuple(DatasetClass(v, f"class {v}", default_color(v)) for v in range(count))
    )
    notes = [f"labels are class numbers 0 to {count - 1}"]
    if IGNORE in values:
        notes.append("255 beside class numbers is read as ignore (classes.json can say otherwise)")
    if classes is None and (absent := sorted(set(range(count)) - numbers)):
        notes.append(f"no pixel has the class {_some(absent)}")
    return LabelCoding(named, (IGNORE,) if IGNORE in values else (), notes=tuple(notes))


def _binary(value: int, positive: str) -> tuple[DatasetClass, DatasetClass]:
    return (
        DatasetClass(0, "background", (0, 0, 0)),
        DatasetClass(value, positive, (255, 255, 255)),
    )


def _some(values: Iterable[int]) -> str:
    """The first few values in words."""
    ordered: Sequence[int] = sorted(values)
    return ", ".join(map(str, ordered[:8])) + (", ..." if len(ordered) > 8 else "")


def _hint_lossy(values: set[int]) -> str:
    """Values huddled at both ends of 8 bits are a mask that went through JPEG."""
    if max(values) <= 255 and all(v < 32 or v > 223 for v in values):
        return " They look like a 0/255 mask that was saved as JPEG: save it as PNG or TIFF."
    return ""
