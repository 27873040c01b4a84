"""Finding images and labels in what the datasets' makers publish, and who learns from what."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from rsmamba_cli.datasets.files import SUFFIXES, list_images, read_header
from rsmamba_cli.datasets.info import ROLES, SPLITS, DatasetInfo
from rsmamba_cli.datasets.layout import Layout, Tile, describe_tree, find_layout
from rsmamba_cli.errors import DatasetError

STRIPS = "rsmamba-strips"
"""The split of WHU-CD, which has none: strips from west to east."""

BY_TENS = "rsmamba-tens"
"""The split of WHU-OPT-SAR where no list is given: of ten scenes by name, 7, 1 and 2."""

OFFICIAL = "official"

_PAIR_WORDS = {
    "t1": ("t1", "a", "before", "2012"),
    "t2": ("t2", "b", "after", "2016"),
    "label": ("label", "change_label", "change label", "change", "mask"),
}
_SPLIT_WORDS = {"train": "train", "val": "val", "train2017": "train", "val2017": "val"}

_POTSDAM = {
    "train": "2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_7 6_8 6_9 6_10 6_11 "
    "6_12 7_7 7_8 7_9 7_10 7_11 7_12",
    "val": "2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13",
}
_VAIHINGEN = {
    "train": "1 3 5 7 11 13 15 17 21 23 26 28 30 32 34 37",
    "val": "2 4 6 8 10 12 14 16 20 22 24 27 29 31 33 35 38",
}


def find_published(source: Path, info: DatasetInfo) -> tuple[Layout, str]:
    """Find a dataset in what was published, unpacked.

    Args:
        source: its folder.
        info: the catalogue's entry.

    Returns:
        The tiles of each split, and the name of the split.

    Raises:
        DatasetError: the folder holds something else.
    """
    finder = _FINDERS.get(info.name)
    if finder is not None:
        splits = finder(source)
        if splits:
            return _layout(source, info, splits), OFFICIAL
    try:
        return _find_below(source, info), OFFICIAL
    except DatasetError:
        if info.name == "whu-cd":
            return _whole_pair(source, info), STRIPS
        if info.name == "whu-opt-sar" and (splits := _by_tens(source)):
            return _layout(source, info, splits), BY_TENS
        raise


def _layout(source: Path, info: DatasetInfo, splits: Mapping[str, list[Tile]]) -> Layout:
    task = info.tasks[0]
    sorted_tiles = {s: tuple(sorted(tiles, key=lambda t: t.stem)) for s, tiles in splits.items()}
    return Layout(source, task, ROLES[task][:-1], sorted_tiles)


def _find_below(source: Path, info: DatasetInfo) -> Layout:
    """The layout of a folder, or of the first below it that has one."""
    try:
        return find_layout(source, info)
    except DatasetError:
        for depth in ("*", "*/*"):
            for folder in sorted(p for p in source.glob(depth) if p.is_dir()):
                try:
                    return find_layout(folder, info)
                except DatasetError:
                    continue
        raise


def _images(source: Path) -> Iterator[Path]:
    """Every image below a folder, sorted."""
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def _split_of(path: Path) -> str | None:
    """The split that the innermost folder with the name of one says."""
    words = [_SPLIT_WORDS.get(part.lower()) for part in path.parts[:-1]]
    return next((word for word in reversed(words) if word), None)


def _paired(
    images: Mapping[str, Path], labels: Mapping[str, Path], splits: Iterable[tuple[str, str]]
) -> dict[str, list[Tile]]:
    """Tiles of (key, split) for which there is an image and a label."""
    found: dict[str, list[Tile]] = {}
    for key, split in splits:
        if key in images and key in labels:
            found.setdefault(split, []).append(Tile(key, (images[key],), labels[key]))
    return found


def _listed(table: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(key, split) for split, keys in table.items() for key in keys.split()]


def _potsdam(source: Path) -> dict[str, list[Tile]]:
    """``top_potsdam_2_10_RGB.tif`` with ``top_potsdam_2_10_label_noBoundary.tif`` or ``_label``."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in _images(source):
        if match := re.fullmatch(r"top_potsdam_(\d+_\d+)_(RGB|label|label_noBoundary)", path.stem):
            key, kind = match.groups()
            if kind == "RGB":
                images[key] = path
            elif kind == "label_noBoundary" or key not in labels:
                labels[key] = path
    return _paired(images, labels, _listed(_POTSDAM))


def _vaihingen(source: Path) -> dict[str, list[Tile]]:
    """``top_mosaic_09cm_area1.tif`` with ``top_mosaic_09cm_area1_noBoundary.tif``."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in _images(source):
        match = re.fullmatch(r"top_mosaic_09cm_area(\d+)(_noBoundary)?", path.stem)
        folders = "/".join(path.relative_to(source).parts[:-1]).lower()
        if match and match[2]:
            labels[f"area{match[1]}"] = path
        elif match and not re.search("gts|ground_truth", folders):
            images[f"area{match[1]}"] = path
    return _paired(images, labels, [(f"area{key}", split) for key, split in _listed(_VAIHINGEN)])


def _isaid(source: Path) -> dict[str, list[Tile]]:
    """``train/images/P0000.png`` with ``P0000_instance_color_RGB.png`` of the same split."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in _images(source):
        match = re.fullmatch(r"(P\d+)(_instance_color_RGB)?", path.stem)
        if match and _split_of(path.relative_to(source)):
            (labels if match[2] else images)[match[1]] = path
    splits = ((key, _split_of(path.relative_to(source)) or "") for key, path in labels.items())
    return _paired(images, labels, splits)


def _loveda(source: Path) -> dict[str, list[Tile]]:
    """``Train/{Urban,Rural}/images_png/0.png`` with ``masks_png/0.png``."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in _images(source):
        if path.parent.name in ("images_png", "masks_png"):
            (images if path.parent.name == "images_png" else labels)[path.stem] = path
    splits = ((key, _split_of(path.relative_to(source)) or "") for key, path in labels.items())
    return _paired(images, labels, splits)


def _coco_stuff(source: Path) -> dict[str, list[Tile]]:
    """Photographs and maps in folders called train2017 and val2017."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in _images(source):
        if path.parent.name in ("train2017", "val2017"):
            (images if path.suffix.lower() == ".jpg" else labels)[path.stem] = path
    if any(stem.endswith("_labelTrainIds") for stem in labels):
        return {}
    return _paired(images, labels, ((k, _SPLIT_WORDS[p.parent.name]) for k, p in labels.items()))


def _hunan(source: Path) -> dict[str, list[Tile]]:
    """``train/s2/s2_7.tif`` with ``s1/s1_7.tif`` and ``lc/lc_7.tif`` (or ``lc/7.tif``)."""
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for path in _images(source):
        role, split = path.parent.name.lower(), path.parent.parent.name.lower()
        if role in ("s2", "s1", "lc") and split in SPLITS:
            key = path.stem.removeprefix(f"{role}_")
            found.setdefault((split, key), {})[role] = path
    splits: dict[str, list[Tile]] = {}
    for (split, key), files in found.items():
        if len(files) == 3:
            splits.setdefault(split, []).append(Tile(key, (files["s2"], files["s1"]), files["lc"]))
    return splits


_FINDERS: Mapping[str, Callable[[Path], dict[str, list[Tile]]]] = {
    "potsdam": _potsdam,
    "vaihingen": _vaihingen,
    "isaid": _isaid,
    "loveda": _loveda,
    "coco-stuff": _coco_stuff,
    "hunan": _hunan,
}


def _by_tens(source: Path) -> dict[str, list[Tile]]:
    """The scenes of WHU-OPT-SAR in folders optical, sar and lbl, dealt out by name."""
    for optical in sorted(p for p in source.rglob("optical") if p.is_dir()):
        folders = [optical.parent / name for name in ("optical", "sar", "lbl")]
        if all(folder.is_dir() for folder in folders):
            listed = [list_images(folder) for folder in folders]
            stems = sorted(set(listed[0]) & set(listed[1]) & set(listed[2]))
            splits: dict[str, list[Tile]] = {}
            for place, stem in enumerate(stems):
                split = "train" if place % 10 < 7 else "val" if place % 10 == 7 else "test"
                tile = Tile(stem, (listed[0][stem], listed[1][stem]), listed[2][stem])
                splits.setdefault(split, []).append(tile)
            return splits
    return {}


def _whole_pair(source: Path, info: DatasetInfo) -> Layout:
    """Find the one big pair of WHU-CD and its change mask below ``source``.

    A raster's role is told by the innermost part of its path that names one.

    Raises:
        DatasetError: not exactly one raster for each role, or their sizes differ.
    """
    found: dict[str, list[Path]] = {role: [] for role in _PAIR_WORDS}
    paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    for path in paths:
        parts = path.relative_to(source).with_suffix("").parts
        for part in reversed(parts):
            role = next((r for r, words in _PAIR_WORDS.items() if part.lower() in words), None)
            if role:
                found[role].append(path)
                break
    counts = {role: len(files) for role, files in found.items()}
    if any(count != 1 for count in counts.values()):
        listed = "; ".join(
            f"{role}: {', '.join(str(p.relative_to(source)) for p in files[:3]) or 'none'}"
            for role, files in found.items()
        )
        raise DatasetError(
            f"{info.title}: one raster of each date and one change mask were expected below "
            f"{source}; found {listed} (of {describe_tree(source)}).\n"
            "Put the three into one folder as t1.tif, t2.tif and label.tif and name that folder.\n"
            f"Get them from: {info.source}"
        )
    t1, t2, label = (found[role][0] for role in ROLES["change"])
    sizes = {p.name: (h.width, h.height) for p in (t1, t2, label) for h in [read_header(p)]}
    if len(set(sizes.values())) != 1:
        raise DatasetError(f"{info.title}: the three rasters differ in size: {sizes}.")
    return Layout(source, "change", ("t1", "t2"), {"whole": (Tile("whu", (t1, t2), label),)})
