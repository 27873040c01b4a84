"""Unpacking what datasets are published in."""

import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from rsmamba_cli.errors import DatasetError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started

_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_STAGE = "unpack"


def find_archives(source: Path) -> list[Path]:
    """The archives in a folder and below it, or the one that ``source`` is."""
    paths = [source] if source.is_file() else sorted(source.rglob("*"))
    return [p for p in paths if p.is_file() and p.name.lower().endswith(_ENDINGS)]


def unpack_all(source: Path, target: Path, on_event: EventHandler) -> None:
    """Unpack every archive of a source, and those inside of them, into one folder.

    What one folder holds all of goes side by side with what came of the other archives, other
    archives into a folder of their own name. Archives that were unpacked before are passed over.

    Args:
        source: an archive, or a folder that holds some.
        target: where to.
        on_event: told of every archive.

    Raises:
        DatasetError: an archive is damaged.
    """
    target.mkdir(parents=True, exist_ok=True)
    waiting = find_archives(source)
    on_event(Started(_STAGE, len(waiting), "archive"))
    while waiting:
        for archive in waiting:
            base = target if target in archive.parents else source
            inner = "_".join(archive.relative_to(base).parts) or archive.name
            done = target / f".{inner}.done"
            if not done.exists():
                _unpack(archive, target)
                done.touch()
            on_event(Progress(_STAGE, detail=archive.name))
            if target in archive.parents:
                archive.unlink()
        waiting = find_archives(target)
    on_event(Finished(_STAGE))


def _unpack(archive: Path, target: Path) -> None:
    try:
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as packed:
                place = _place(archive, target, packed.namelist())
                packed.extractall(place)
        else:
            with tarfile.open(archive) as tar:
                place = _place(archive, target, tar.getnames())
                tar.extractall(place, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError) as error:
        raise DatasetError(
            f"{archive} cannot be unpacked ({error}): get it again, or unpack it yourself and name "
            "the folder."
        ) from error
    shutil.rmtree(target / "__MACOSX", ignore_errors=True)


def _place(archive: Path, target: Path, names: list[str]) -> Path:
    """Where an archive's members go."""
    parts = [PurePosixPath(name).parts for name in names]
    tops = {p[0] for p in parts if len(p) > 1} - {"__MACOSX"}
    stem = archive.name[: archive.name.lower().rindex(".tar" if ".tar" in archive.name else ".")]
    return target if len(tops) == 1 else target / stem
