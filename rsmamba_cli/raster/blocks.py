"""Finished blocks of a run on disk, each vouched for by a line in a journal.

Every finished block is written under a temporary name, synced, renamed, and only then noted in a
journal with its hash; a block that no journal vouches for, or whose bytes no longer match, does not
exist. Each writer (a run, a worker process, a shard) appends to a journal of its own, so that no
two of them write one file, on network mounts neither. What a block holds follows from the plan
alone: two writers of one block write the same bytes.
"""

import contextlib
import hashlib
import json
import os
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsmamba_cli.errors import OutputError

Array = npt.NDArray[Any]
Key = tuple[int, int]

JOURNAL = "journal"
BLOCK_FOLDER = "blocks"


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


class Blocks:
    """The blocks of one plan in a working folder, and one writer's journal.

    Attributes:
        folder: the working folder.
        layout: bands, strips and layers.
        plan_id: hash of the plan; lines about blocks of other plans count for nothing.
        kept_bytes: of blocks that stay unpacked after they were read; at least one does.
    """

    kept_bytes = 64 << 20

    def __init__(self, folder: Path, layout: Layout, plan_id: str, writer: str = "") -> None:
        """Look at a folder; nothing is read or written yet.

        Args:
            folder: the working folder, with its ``blocks`` in it.
            layout: has to follow from the plan.
            plan_id: hash of the plan.
            writer: name of this writer among several; "" is the run itself.
        """
        self.folder = folder
        self.layout = layout
        self.plan_id = plan_id
        self._journal = folder / (f"{JOURNAL}-{writer}.jsonl" if writer else f"{JOURNAL}.jsonl")
        self._suffix = f".{writer}.new" if writer else ".new"
        self._known = set(layout.block_keys())
        self._done: dict[Key, dict[str, Any]] = {}
        self._read_up_to: dict[Path, int] = {}
        self._cache: OrderedDict[Key, dict[str, Array]] = OrderedDict()
        self._cached = 0

    @property
    def done(self) -> frozenset[Key]:
        """Blocks that are finished."""
        return frozenset(self._done)

    def journals(self) -> list[Path]:
        """The journals of all writers."""
        return sorted(self.folder.glob(f"{JOURNAL}*.jsonl"))

    def noted(self) -> int:
        """How many blocks the journals speak of, whatever the plan."""
        lines = (line for path in self.journals() for line in _lines(path.read_bytes()))
        return len({key for key, _ in lines if key in self._known})

    def recover(self) -> None:
        """Take over every block that a journal vouches for and whose bytes still match."""
        self._done.clear()
        for path in self.journals():
            for key, line in _lines(path.read_bytes()):
                if self._is_ours(key, line) and self._verified(key, line):
                    self._done[key] = line

    def refresh(self) -> list[Key]:
        """Blocks that other writers have noted since the last call; their bytes are not read yet.

        Returns:
            Keys that were not known to be done before.
        """
        new: list[Key] = []
        for path in self.journals():
            start = self._read_up_to.get(path, 0)
            with contextlib.suppress(OSError), path.open("rb") as journal:
                journal.seek(start)
                text = journal.read()
                # A line that is being written is read when it is whole.
                text = text[: text.rfind(b"\n") + 1]
                self._read_up_to[path] = start + len(text)
                for key, line in _lines(text):
                    if self._is_ours(key, line) and key not in self._done:
                        self._done[key] = line
                        new.append(key)
        return new

    def block_bytes(self) -> int:
        """What the finished blocks take on the disk."""
        return sum(sum(line["parts"].values()) for line in self._done.values())

    def forget(self, keys: Iterable[Key]) -> None:
        """Take blocks for unfinished: what they were computed from has changed."""
        for key in keys:
            self._done.pop(key, None)

    def _is_ours(self, key: Key, line: Mapping[str, Any]) -> bool:
        return key in self._known and line["plan"] == self.plan_id

    def _block_path(self, key: Key) -> Path:
        return self.folder / BLOCK_FOLDER / f"{key[0]:06d}_{key[1]:04d}.bin"

    def _verified(self, key: Key, line: Mapping[str, Any]) -> bool:
        try:
            data = self._block_path(key).read_bytes()
        except OSError:
            return False
        return hashlib.sha256(data).hexdigest() == str(line["sha256"])

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
            packed = _deflate(np.ascontiguousarray(array))
            parts[name] = len(packed)
            data += packed
        line = {"parts": parts, "plan": self.plan_id, "sha256": hashlib.sha256(data).hexdigest()}
        try:
            write_synced(self._block_path(key), data, self._suffix)
            self._append({"block": list(key), **line})
        except OSError as error:
            raise write_error(self.folder, error, resumable=bool(self._done)) from error
        self._done[key] = line
        self._cached -= _size(self._cache.pop(key, {}))

    def _append(self, line: Mapping[str, Any]) -> None:
        # A newline before the record ends whatever a power cut may have torn.
        with self._journal.open("ab") as journal:
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
        self._cached += _size(arrays)
        while len(self._cache) > 1 and self._cached > self.kept_bytes:
            self._cached -= _size(self._cache.popitem(last=False)[1])
        return arrays

    def read_rows(
        self, name: str, first: int, last: int, left: int = 0, right: int | None = None
    ) -> Array:
        """Rows ``first <= row < last`` of a layer, (count, rows, columns).

        Args:
            name: of the layer.
            first: first row.
            last: one past the last row.
            left: first column.
            right: one past the last column; None is the width.

        Raises:
            OutputError: a block was damaged since it was written.
        """
        layer, rows, cols = self.layout.layers[name], self.layout.rows, self.layout.cols
        right = cols[-1] if right is None else right
        out = np.empty((layer.count, last - first, right - left), dtype=layer.dtype)
        for band in range(bisect_right(rows, first) - 1, len(rows) - 1):
            top, bottom = max(rows[band], first), min(rows[band + 1], last)
            if top >= bottom:
                break
            for strip in range(bisect_right(cols, left) - 1, len(cols) - 1):
                start, stop = max(cols[strip], left), min(cols[strip + 1], right)
                if start >= stop:
                    break
                block = self._load((band, strip))[name]
                out[:, top - first : bottom - first, start - left : stop - left] = block[
                    :,
                    top - rows[band] : bottom - rows[band],
                    start - cols[strip] : stop - cols[strip],
                ]
        return out


def _size(arrays: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in arrays.values())


def _deflate(array: Array) -> bytes:
    # Runs alone are looked for: quicker than level 1 on noise, and smaller on maps.
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return packer.compress(array.data) + packer.flush()


def canonical_json(value: Any) -> str:
    """JSON with one spelling for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _lines(text: bytes) -> Iterable[tuple[Key, dict[str, Any]]]:
    """The records of a journal; a torn one (power cut) counts for nothing."""
    for raw in text.split(b"\n"):
        try:
            line = json.loads(raw)
            key = (int(line["block"][0]), int(line["block"][1]))
            yield (
                key,
                {
                    "parts": dict(line["parts"]),
                    "plan": str(line["plan"]),
                    "sha256": str(line["sha256"]),
                },
            )
        except (ValueError, KeyError, TypeError, IndexError):
            continue


def write_synced(path: Path, data: bytes, suffix: str = ".new") -> None:
    """Write a file so that it is there in full, or not at all, after a power cut."""
    temporary = path.with_name(path.name + suffix)
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


def write_error(folder: Path, error: OSError, resumable: bool = False) -> OutputError:
    """The message about a file system that refused to take something."""
    advice = " Make room, then go on with --resume." if resumable else ""
    return OutputError(f"{folder}: cannot be written ({error.strerror or error}).{advice}")
