"""Where a run keeps what is finished: blocks and a journal in ``OUTPUT.partial``.

A run may be killed at any moment, power cuts included. Every finished block is written under a
temporary name, synced, renamed, and only then noted in the journal with its hash; a block that the
journal does not vouch for, or whose bytes no longer match, does not exist. `plan.json` says what
the run computes: a resumed run with another plan is refused by naming what changed.

    OUTPUT.partial/plan.json       what is computed, canonical JSON with its hash
    OUTPUT.partial/journal.jsonl   one line a finished block
    OUTPUT.partial/blocks/         deflated rows of the layers
    OUTPUT.partial/lock            the process at work
"""

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rsmamba_cli.errors import OutputError, ResumeError
from rsmamba_cli.raster.lock import RunLock

Array = npt.NDArray[Any]
Key = tuple[int, int]

_PLAN_FILE = "plan.json"
_JOURNAL_FILE = "journal.jsonl"
_BLOCK_FOLDER = "blocks"
_OWN_NAMES = (_PLAN_FILE, _JOURNAL_FILE, _BLOCK_FOLDER, "lock", "final")


@dataclass(frozen=True)
class Layer:
    """One raster that a run makes: its bands, type and the value of pixels without an answer."""

    count: int
    dtype: str
    fill: int


@dataclass(frozen=True)
class Layout:
    """How a raster is cut into blocks.

    Attributes:
        rows: borders of the bands of rows, from 0 to the height.
        cols: borders of the strips of columns, from 0 to the width.
        layers: what every block holds.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    layers: Mapping[str, Layer]

    def block_keys(self) -> list[Key]:
        """Every block as (band, strip), strips side by side."""
        return [(b, s) for b in range(len(self.rows) - 1) for s in range(len(self.cols) - 1)]

    def shape(self, key: Key) -> tuple[int, int]:
        """(height, width) of a block."""
        band, strip = key
        return self.rows[band + 1] - self.rows[band], self.cols[strip + 1] - self.cols[strip]


def canonical_json(value: Any) -> str:
    """JSON with one spelling for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def partial_folder(output: Path) -> Path:
    """The working folder of an output."""
    return output.with_name(output.name + ".partial")


class Store:
    """The working folder of one run, open and locked. Use as a context manager.

    Leaving the block keeps the folder when there is something to resume from, and removes it when
    there is not (or after `discard`).
    """

    def __init__(
        self, output: Path, plan: Mapping[str, Any], layout: Layout, resume: bool, restart: bool
    ) -> None:
        """Open the folder.

        Args:
            output: the final file; the folder is beside it.
            plan: JSON value that says what is computed. Keys that start with "_" are carried along
                but not compared (paths, for instance).
            layout: bands, strips and layers; has to follow from the plan.
            resume: go on with what is there.
            restart: throw away what is there.

        Raises:
            OutputError: not writable, locked, or interrupted work is there and neither ``resume``
                nor ``restart`` was asked for.
            ResumeError: the plan differs from the one that was begun.
        """
        self.folder = partial_folder(output)
        self.layout = layout
        self._output = output
        self._plan = plan
        self._done: dict[Key, dict[str, Any]] = {}
        self._cache: OrderedDict[Key, dict[str, Array]] = OrderedDict()
        self._discarded = False
        self._lock = RunLock(self.folder / "lock")
        self._make_folder()
        self._lock.acquire()
        try:
            self._begin(resume, restart)
        except BaseException as error:
            # A folder that was only just made holds nothing worth keeping.
            if isinstance(error, OSError) or not (self.folder / _PLAN_FILE).exists():
                self._remove()
            self._lock.release()
            if isinstance(error, OSError):
                raise _write_error(self.folder, error) from error
            raise

    def _make_folder(self) -> None:
        parent = self.folder.parent
        if not parent.is_dir():
            raise OutputError(
                f"{self._output}: the folder {parent} does not exist; create it first"
            )
        try:
            self.folder.mkdir(exist_ok=True)
            strangers = sorted(e.name for e in self.folder.iterdir() if e.name not in _OWN_NAMES)
        except OSError as error:
            raise _write_error(self.folder, error) from error
        if strangers:
            raise OutputError(
                f"{self.folder}: holds files that are not of this tool ({strangers[0]}); the run "
                "needs this folder for its work, so move it away"
            )

    def _begin(self, resume: bool, restart: bool) -> None:
        before = self._read_plan()
        lines = self._read_journal() if before is not None else {}
        if lines and not (resume or restart):
            total = len(self.layout.block_keys())
            raise OutputError(
                f"{self.folder}: an interrupted run is here ({len(lines)} of {total} blocks done). "
                "Go on with it (--resume) or start again (--overwrite)."
            )
        if lines and resume and not restart:
            assert before is not None
            changes = plan_changes(before, self._plan)
            if changes:
                raise ResumeError(
                    f"{self._output}: the interrupted run cannot be continued, because "
                    + "; ".join(changes[:6])
                    + ". Use the same again, or start anew with --overwrite."
                )
            self._done = {key: line for key, line in lines.items() if self._verified(key, line)}
        else:
            self._clear()
        (self.folder / _BLOCK_FOLDER).mkdir(exist_ok=True)
        shutil.rmtree(self.folder / "final", ignore_errors=True)
        (self.folder / "final").mkdir()
        if not self._done:
            (self.folder / _JOURNAL_FILE).unlink(missing_ok=True)
        text = canonical_json(self._plan)
        whole = {"plan": self._plan, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        write_synced(self.folder / _PLAN_FILE, canonical_json(whole).encode())

    def _read_plan(self) -> dict[str, Any] | None:
        try:
            whole = json.loads((self.folder / _PLAN_FILE).read_bytes())
            plan = whole["plan"]
            good = hashlib.sha256(canonical_json(plan).encode()).hexdigest() == whole["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return dict(plan) if good else None

    def _read_journal(self) -> dict[Key, dict[str, Any]]:
        """The last line about every block; a torn line (power cut) counts for nothing."""
        lines: dict[Key, dict[str, Any]] = {}
        try:
            text = (self.folder / _JOURNAL_FILE).read_bytes()
        except FileNotFoundError:
            return lines
        known = set(self.layout.block_keys())
        for raw in text.split(b"\n"):
            try:
                line = json.loads(raw)
                key = (int(line["block"][0]), int(line["block"][1]))
                lines[key] = {"sha256": str(line["sha256"]), "parts": dict(line["parts"])}
            except (ValueError, KeyError, TypeError, IndexError):
                continue
        return {key: line for key, line in lines.items() if key in known}

    def _block_path(self, key: Key) -> Path:
        return self.folder / _BLOCK_FOLDER / f"{key[0]:06d}_{key[1]:04d}.bin"

    def _verified(self, key: Key, line: Mapping[str, Any]) -> bool:
        try:
            data = self._block_path(key).read_bytes()
        except OSError:
            return False
        return hashlib.sha256(data).hexdigest() == str(line["sha256"])

    @property
    def done(self) -> frozenset[Key]:
        """Blocks that are finished and were verified."""
        return frozenset(self._done)

    def put(self, key: Key, arrays: Mapping[str, Array]) -> None:
        """Commit one block: from here on no crash can lose it.

        Args:
            key: (band, strip).
            arrays: for every layer (count, height, width) in its dtype.

        Raises:
            OutputError: the disk is full or the folder went away.
        """
        parts: dict[str, int] = {}
        data = b""
        for name, layer in self.layout.layers.items():
            array = arrays[name]
            expected = (layer.count, *self.layout.shape(key))
            if array.shape != expected or array.dtype != np.dtype(layer.dtype):
                raise ValueError(
                    f"block {key}, {name}: {array.shape} {array.dtype}, not {expected}"
                )
            packed = zlib.compress(np.ascontiguousarray(array).tobytes(), 1)
            parts[name] = len(packed)
            data += packed
        digest = hashlib.sha256(data).hexdigest()
        try:
            write_synced(self._block_path(key), data)
            self._append({"block": list(key), "parts": parts, "sha256": digest})
        except OSError as error:
            raise _write_error(self.folder, error, resumable=bool(self._done)) from error
        self._done[key] = {"sha256": digest, "parts": parts}

    def _append(self, line: Mapping[str, Any]) -> None:
        # A newline before the record ends whatever a power cut may have torn.
        with (self.folder / _JOURNAL_FILE).open("ab") as journal:
            journal.write(b"\n" + canonical_json(line).encode() + b"\n")
            journal.flush()
            os.fsync(journal.fileno())

    def _load(self, key: Key) -> dict[str, Array]:
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        line = self._done[key]
        try:
            data = self._block_path(key).read_bytes()
        except OSError as error:
            raise OutputError(f"{self._block_path(key)}: cannot be read ({error})") from error
        if hashlib.sha256(data).hexdigest() != line["sha256"]:
            raise OutputError(
                f"{self._block_path(key)}: changed under the run; run again with --resume"
            )
        arrays: dict[str, Array] = {}
        offset = 0
        for name, layer in self.layout.layers.items():
            length = int(line["parts"][name])
            raw = zlib.decompress(data[offset : offset + length])
            shape = (layer.count, *self.layout.shape(key))
            arrays[name] = np.frombuffer(raw, dtype=layer.dtype).reshape(shape)
            offset += length
        self._cache[key] = arrays
        # Reading goes down the raster in stripes that may end inside a band.
        while len(self._cache) > len(self.layout.cols) - 1:
            self._cache.popitem(last=False)
        return arrays

    def read_rows(self, name: str, first: int, last: int) -> Array:
        """Rows ``first <= row < last`` of a layer over the full width, (count, rows, width).

        Raises:
            OutputError: a block was damaged since it was written.
        """
        layer, rows, cols = self.layout.layers[name], self.layout.rows, self.layout.cols
        out = np.empty((layer.count, last - first, cols[-1]), dtype=layer.dtype)
        for band in range(len(rows) - 1):
            top, bottom = max(rows[band], first), min(rows[band + 1], last)
            if top >= bottom:
                continue
            for strip in range(len(cols) - 1):
                block = self._load((band, strip))[name]
                out[:, top - first : bottom - first, cols[strip] : cols[strip + 1]] = block[
                    :, top - rows[band] : bottom - rows[band]
                ]
        return out

    def discard(self) -> None:
        """Remove the folder on leaving: the run is finished, or cannot be resumed."""
        self._discarded = True

    def _clear(self) -> None:
        for name in _OWN_NAMES:
            path = self.folder / name
            if name == "lock":
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._clear()
        self._lock.release()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        """Unlock, and remove the folder if nothing in it can be resumed."""
        if self._discarded or not self._done:
            self._remove()
        else:
            shutil.rmtree(self.folder / "final", ignore_errors=True)
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def plan_changes(before: Any, now: Any, path: str = "") -> list[str]:
    """What differs between two plans, as phrases for a message. Keys with "_" are not compared."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        changes: list[str] = []
        for key in sorted({*before, *now}):
            if key.startswith("_"):
                continue
            changes += plan_changes(before.get(key), now.get(key), f"{path} {key}".strip())
        return changes
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            change
            for i, (a, b) in enumerate(zip(before, now, strict=True), start=1)
            for change in plan_changes(a, b, f"{path} {i}")
        ]
    if before == now:
        return []
    return [f"{path} was {_short(before)} and is now {_short(now)}"]


def _short(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= 60 else text[:57] + "..."


def write_synced(path: Path, data: bytes) -> None:
    """Write a file so that it is there in full, or not at all, after a power cut."""
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside a folder last; file systems that cannot are left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_error(folder: Path, error: OSError, resumable: bool = False) -> OutputError:
    advice = " Make room, then go on with --resume." if resumable else ""
    return OutputError(f"{folder}: cannot be written ({error.strerror or error}).{advice}")
