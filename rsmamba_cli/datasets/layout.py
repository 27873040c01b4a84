"""Finding the images and labels of a dataset on disk, whichever of the usual layouts it has.

Four arrangements are understood (S a split, R a role such as image, t1 or label):

* ``S/R/stem.*``: the official layout of RS-Mamba, WHU, LEVIR-CD and Massachusetts;
* ``R/S/stem.*``: ``img_dir/train`` and ``ann_dir/train``, or ``img_dir/rgb/train``;
* ``S/stem.*`` beside ``S_labels/stem.*``;
* ``R/stem.*`` with ``list/S.txt`` naming the files of a split.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsmamba_cli.datasets.files import list_images
from rsmamba_cli.datasets.info import ROLES, SPLITS, DatasetInfo
from rsmamba_cli.errors import DatasetError

_ROLE_NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "images", "img", "imgs", "img_dir", "sat", "optical", "opt", "leftimg8bit"),
    "sar": ("sar", "radar", "s1"),
    "t1": ("t1", "a", "time1", "im1", "before", "pre"),
    "t2": ("t2", "b", "time2", "im2", "after", "post"),
    "label": (
        "label",
        "labels",
        "mask",
        "masks",
        "map",
        "gt",
        "ann_dir",
        "annotations",
        "out",
        "lbl",
        "gtfine",
    ),
}
_SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "train2017"),
    "val": ("val", "valid", "validation", "val2017"),
    "test": ("test", "testing"),
}
_LABEL_ENDINGS = ("_labels", "_label", "_masks", "_mask")


@dataclass(frozen=True, slots=True)
class Tile:
    """The files of one sample: ``images`` in role order, and the label."""

    stem: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True, slots=True)
class Layout:
    """What was found: the task, the role of each image, and the tiles of every split there is.

    A role is the name of a folder, or of several with a plus between, whose files are stacked.
    """

    root: Path
    task: str
    roles: tuple[str, ...]
    splits: Mapping[str, tuple[Tile, ...]]

    def labels(self) -> Iterator[Path]:
        """Every label file of every split."""
        return (tile.label for tiles in self.splits.values() for tile in tiles)


def find_layout(
    root: Path,
    info: DatasetInfo,
    task: str | None = None,
    roles: Sequence[str] | None = None,
) -> Layout:
    """Find the splits of a dataset below ``root``.

    Args:
        root: the dataset's folder.
        info: its catalogue entry, for the tasks it allows and the words of a refusal.
        task: look for this task's folders only; None tries the entry's tasks in turn.
        roles: folders of the images, where they are not the usual ones; ``t1+sar_t1`` stacks the
            files of two.

    Raises:
        DatasetError: nothing there, another layout, or files that do not pair; the message says
            where the dataset comes from, what was expected and what was found.
    """
    if task is not None and task not in info.tasks:
        raise DatasetError(f"{info.title} is for {info.task}, not for {task}.")
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise DatasetError(_refusal(info, f"{root} {kind}."))
    for candidate, images in _candidates(info, task, roles):
        splits = {}
        folders = tuple(folder for role in images for folder in folders_of(role))
        for split in SPLITS:
            found = _find_split(root, folders, split)
            if found is not None:
                splits[split] = _pair(root, info, split, *found)
        if splits:
            return Layout(root, candidate, images, splits)
    asked = f" The images were looked for in folders called {', '.join(roles)}." if roles else ""
    raise DatasetError(_refusal(info, f"In {root} there is {describe_tree(root)}.{asked}"))


def folders_of(role: str) -> tuple[str, ...]:
    """The folders whose files make up an image."""
    return tuple(role.split("+"))


def _candidates(
    info: DatasetInfo, task: str | None, roles: Sequence[str] | None
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Tasks and folders of the images to look for, in this order.

    Raises:
        DatasetError: folders that fit no task, or two.
    """
    tasks = (task,) if task else info.tasks
    if roles is not None:
        tasks = tuple(t for t in tasks if len(ROLES[t]) == len(roles) + 1)
        if len(tasks) != 1:
            raise DatasetError(
                f"data.roles names {len(roles)} folder(s) of images ({', '.join(roles)}), which "
                + (
                    f"could be for {' or '.join(tasks)}: set data.task (--task)."
                    if tasks
                    else f"does not fit {task or info.task}: segmentation takes one, change and "
                    "multimodal take two."
                )
            )
        yield tasks[0], tuple(roles)
        return
    for candidate in tasks:
        yield candidate, ROLES[candidate][:-1]
        if candidate == "multimodal" and info.stacked:
            yield candidate, (info.stacked,) * 2


def _refusal(info: DatasetInfo, found: str) -> str:
    """Say what is missing and how to get it right."""
    layout = info.layout.replace("\n", "\n  ")
    return (
        f"The dataset {info.name} ({info.title}) was not found. {found}\n"
        f"Get it from: {info.source}\n"
        f"Layout:\n  {layout}\n"
        "Name its folder with --data DIR."
    )


def _child(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The subfolder with one of these names, upper or lower case; None when there is none.

    Raises:
        DatasetError: two subfolders answer to the names.
    """
    found = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name.lower() in names]
    if len(found) > 1:
        raise DatasetError(
            f"{folder} holds both {found[0].name} and {found[1].name}: only one of them can be "
            f"meant. Rename or remove the other."
        )
    return found[0] if found else None


def _child_or_below(folder: Path, names: tuple[str, ...]) -> Path | None:
    """As `_child`, or the one subfolder's that there is (``img_dir/rgb/train``)."""
    if child := _child(folder, names):
        return child
    below = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return _child(below[0], names) if len(below) == 1 else None


def _find_split(
    root: Path, images: tuple[str, ...], split: str
) -> tuple[tuple[Path, ...], tuple[str, ...] | None] | None:
    """Find a split's folders in role order, and the stems that a list names (None: all)."""
    names = _SPLIT_NAMES[split]
    roles = [_ROLE_NAMES.get(role.lower(), (role.lower(),)) for role in (*images, "label")]
    folder = _child(root, names)
    if folder is not None:
        below = [_child(folder, role) for role in roles]
        if complete := _all(below):
            return complete, None
        labels = _child(root, tuple(name + end for name in names for end in _LABEL_ENDINGS))
        if images == ("image",) and labels is not None:
            return (folder, labels), None
    by_role = _all([_child(root, role) for role in roles])
    if by_role:
        if complete := _all([_child_or_below(folder, names) for folder in by_role]):
            return complete, None
        lists = _child(root, ("list", "lists", "splits"))
        if lists is not None:
            for name in names:
                if (file := lists / f"{name}.txt").is_file():
                    lines = file.read_text(encoding="utf-8").split("\n")
                    stems = (Path(line.split()[0]).stem for line in lines if line.strip())
                    return by_role, tuple(sorted(set(stems)))
    return None


def _all(folders: list[Path | None]) -> tuple[Path, ...] | None:
    """All of them, or None when one is missing."""
    present = tuple(f for f in folders if f is not None)
    return present if len(present) == len(folders) else None


def _list(folder: Path, endings: tuple[str, ...], nested: bool) -> dict[str, Path]:
    """The images of a folder by stem without its ending; of several endings the first counts."""
    listed = list_images(folder, nested)
    for ending in endings:
        if found := {s.removesuffix(ending): p for s, p in listed.items() if s.endswith(ending)}:
            return found
    return listed


def _pair(
    root: Path,
    info: DatasetInfo,
    split: str,
    folders: tuple[Path, ...],
    stems: tuple[str, ...] | None,
) -> tuple[Tile, ...]:
    """Match the files of a split by stem.

    Raises:
        DatasetError: a folder is empty, or a file has no partner.
    """
    endings = [info.image_endings] * (len(folders) - 1) + [info.label_endings]
    pairs = zip(folders, endings, strict=True)
    listed = [_list(folder, ending, info.nested) for folder, ending in pairs]
    for folder, files in zip(folders, listed, strict=True):
        if not files:
            raise DatasetError(
                f"{folder} holds no images (found {describe_tree(folder)}). "
                "Put the tiles there, or remove the split's folder."
            )
    if stems is None:
        stems = tuple(sorted(set().union(*listed)))
    for folder, files in zip(folders, listed, strict=True):
        if missing := [stem for stem in stems if stem not in files]:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise DatasetError(
                f"{folder.relative_to(root)} in {root} lacks {len(missing)} of the {len(stems)} "
                f"tiles of the split {split}: {shown}. An image and its label have the same stem."
            )
    return tuple(
        Tile(stem, tuple(files[stem] for files in listed[:-1]), listed[-1][stem]) for stem in stems
    )


def describe_tree(root: Path, depth: int = 2) -> str:
    """Say in one line what a folder holds, two levels deep: "train/image (48 files), ..."."""
    parts: list[str] = []

    def visit(folder: Path, level: int) -> None:
        entries = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
        count = sum(p.is_file() for p in entries)
        folders = [p for p in entries if p.is_dir()]
        if count or (not folders and folder != root):
            where = "" if folder == root else f"{folder.relative_to(root)} "
            parts.append(f"{where}({count} file{'s' * (count != 1)})".strip())
        for sub in folders:
            if level < depth:
                visit(sub, level + 1)
            else:
                parts.append(f"{sub.relative_to(root)}/...")

    visit(root, 0)
    if not parts:
        return "nothing"
    return ", ".join(parts[:12]) + (f" and {len(parts) - 12} more" if len(parts) > 12 else "")
