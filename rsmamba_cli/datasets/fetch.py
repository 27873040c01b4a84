"""Getting the files of datasets that have a stable public address."""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rsmamba_cli.datasets.catalogue import catalogue, get_dataset
from rsmamba_cli.datasets.info import Download
from rsmamba_cli.errors import DatasetError, OutputError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, Warned, ignore_events

_CHUNK = 1 << 20
_TRIES = 5
"""Times in a row that nothing arrives until it is given up."""

_TIMEOUT = 60.0
_FAILURES = (OSError, http.client.HTTPException)


def fetch_dataset(
    name: str, folder: Path | str, on_event: EventHandler = ignore_events
) -> list[Path]:
    """Download the archives of a dataset; what is there already is checked and kept.

    Args:
        name: a dataset of the catalogue with `DatasetInfo.downloads`.
        folder: where to.
        on_event: told of every mebibyte.

    Returns:
        The files, ready for `prepare_dataset`.

    Raises:
        DatasetError: the dataset has no stable address, or a file cannot be got as it should be.
        OutputError: the folder cannot be written.
    """
    info = get_dataset(name)
    if not info.downloads:
        known = ", ".join(i.name for i in catalogue() if i.downloads)
        raise DatasetError(
            f"{name} has no address that a program could rely on. Get it from: {info.source}. "
            f"Datasets that can be fetched: {known}."
        )
    return fetch_files(info.downloads, Path(folder), on_event)


def fetch_files(
    downloads: Sequence[Download],
    folder: Path,
    on_event: EventHandler = ignore_events,
    pause: Callable[[float], None] = time.sleep,
) -> list[Path]:
    """Download files, each going on where an earlier attempt or a dropped connection stopped.

    A file appears under its name only when complete and, where there is a checksum, right.

    Args:
        downloads: addresses and checksums; redirections are followed.
        folder: where to; made where it is missing.
        on_event: told of every mebibyte.
        pause: waits so many seconds before another attempt.

    Raises:
        DatasetError: the server refuses or falls silent, or a checksum is wrong.
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error}") from error
    paths = []
    for download in downloads:
        path = folder / unquote(Path(urlsplit(download.url).path).name)
        stage = f"fetch {path.name}"
        if not path.exists():
            partial = path.with_name(path.name + ".partial")
            _complete(download.url, partial, stage, on_event, pause)
            _check(download, partial)
            partial.replace(path)
        else:
            _check(download, path)
        if not download.checksum:
            on_event(Warned(f"{path.name}: its makers publish no checksum, so none was compared"))
        paths.append(path)
    return paths


def _complete(
    url: str, partial: Path, stage: str, on_event: EventHandler, pause: Callable[[float], None]
) -> None:
    """Append to a file until the server has no more.

    Raises:
        DatasetError: the server refuses, or nothing arrives several times in a row.
    """
    failures = 0
    on_event(Started(stage, None, "MiB"))
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            if _receive(url, partial, before, stage, on_event):
                break
            reason = "the connection was cut off"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise DatasetError(
                    f"{url}: the server answers {error.code} {error.reason}. The file may have "
                    "moved: see `rsmamba datasets NAME` for its source."
                ) from error
            reason = f"the server answers {error.code}"
        except _FAILURES as error:
            reason = str(error) or type(error).__name__
        here = partial.stat().st_size if partial.exists() else 0
        failures = 0 if here > before else failures + 1
        if failures == _TRIES:
            raise DatasetError(
                f"{url} cannot be fetched: {reason}. What has arrived is kept in {partial}; try "
                "again later to go on from there."
            )
        pause(min(60.0, 2.0**failures))
    on_event(Finished(stage))


def _receive(url: str, partial: Path, have: int, stage: str, on_event: EventHandler) -> bool:
    """One attempt from byte ``have`` on; returns whether the file is complete."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies beyond what is here: it is complete, or it is not this file's beginning.
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if total == str(have):
            return True
        partial.unlink()
        return False
    with response:
        goes_on = response.status == 206
        wanted = response.headers.get("Content-Length")
        left = None if wanted is None else int(wanted)
        with partial.open("ab" if goes_on else "wb") as file:
            while chunk := response.read(_CHUNK if left is None else min(_CHUNK, max(left, 1))):
                file.write(chunk)
                left = None if left is None else left - len(chunk)
                on_event(Progress(stage, detail=f"{file.tell() >> 20} MiB"))
    return left in (None, 0)


def _check(download: Download, path: Path) -> None:
    """Compare a checksum; a file that is wrong is removed.

    Raises:
        DatasetError: it is another one.
    """
    if not download.checksum:
        return
    algorithm, _, wanted = download.checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != wanted:
        path.unlink()
        raise DatasetError(
            f"{path.name} from {download.url} has the {algorithm} {found} instead of {wanted}: it "
            "was damaged on the way or has been changed. It was removed; fetch it again."
        )
