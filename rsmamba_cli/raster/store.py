"""The working folder of a run: a plan, a lock, and the blocks that are finished.

A run may be killed at any moment, power cuts included. `plan.json` says what the run computes: a
resumed run with another plan is refused by naming what changed.

    OUTPUT.partial/plan.json            what is computed, canonical JSON with its hash
    OUTPUT.partial/journal.jsonl        one line a finished block
    OUTPUT.partial/journal-NAME.jsonl   the same, of a worker process or a shard
    OUTPUT.partial/blocks/              deflated rows of the layers
    OUTPUT.partial/lock                 the process at work
    OUTPUT.partial/lock-shard-I-of-N    the process at work on a shard
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rsmamba_cli.errors import OutputError, ResumeError
from rsmamba_cli.raster.blocks import (
    BLOCK_FOLDER,
    JOURNAL,
    Blocks,
    Layer,
    Layout,
    canonical_json,
    sync_folder,
    write_error,
    write_synced,
)
from rsmamba_cli.raster.lock import RunLock

__all__ = [
    "Layer",
    "Layout",
    "Shard",
    "Store",
    "canonical_json",
    "partial_folder",
    "plan_changes",
    "read_plan",
    "sync_folder",
    "write_synced",
]

_PLAN_FILE = "plan.json"
_LOCK = "lock"
_OWN_NAMES = re.compile(rf"plan\.json.*|{JOURNAL}.*\.jsonl|{BLOCK_FOLDER}|{_LOCK}.*|final")
Shard = tuple[int, int]
"""(i, n): the i-th of n parts of a run, counted from 1."""


def partial_folder(output: Path) -> Path:
    """The working folder of an output."""
    return output.with_name(output.name + ".partial")


def block_id(plan: Mapping[str, Any], layout: Layout) -> str:
    """What identifies the blocks of a plan: a hash over what is computed and how it is cut.

    Args:
        plan: its keys that start with "_" do not count.
        layout: of the blocks.
    """
    compared = {key: value for key, value in plan.items() if not key.startswith("_")}
    cut = [list(layout.rows), list(layout.cols)]
    return hashlib.sha256(canonical_json([compared, cut]).encode()).hexdigest()


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of a working folder; None when there is none, or it is damaged."""
    try:
        whole = json.loads((folder / _PLAN_FILE).read_bytes())
        plan = whole["plan"]
        good = hashlib.sha256(canonical_json(plan).encode()).hexdigest() == whole["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(plan) if good else None


class Store(Blocks):
    """The working folder of one run, open and locked. Use as a context manager.

    Leaving the block keeps the folder when there is something to resume from, and removes it when
    there is not (or after `discard`).
    """

    def __init__(
        self,
        output: Path,
        plan: Mapping[str, Any],
        layout: Layout,
        resume: bool,
        restart: bool,
        shard: Shard | None = None,
    ) -> None:
        """Open the folder.

        Args:
            output: the final file; the folder is beside it.
            plan: JSON value that says what is computed. Keys that start with "_" are carried along
                but not compared (paths, for instance).
            layout: bands, strips and layers; has to follow from the plan.
            resume: go on with what is there.
            restart: throw away what is there.
            shard: which part of the run this is; parts share the folder, and go on with what is
                there.

        Raises:
            OutputError: not writable, locked, or interrupted work is there and neither ``resume``
                nor ``restart`` was asked for.
            ResumeError: the plan differs from the one that was begun.
        """
        writer = "" if shard is None else f"shard-{shard[0]}-of-{shard[1]}"
        super().__init__(partial_folder(output), layout, block_id(plan, layout), writer)
        self._output = output
        self._plan = plan
        self._shared = shard is not None
        self._discarded = False
        self.lock = RunLock(self.folder / (f"{_LOCK}-{writer}" if writer else _LOCK))
        self._make_folder()
        self.lock.acquire()
        try:
            self._refuse_others()
            self._begin(resume or self._shared, restart)
        except BaseException as error:
            # A folder that was only just made holds nothing worth keeping.
            fresh = isinstance(error, OSError) or not (self.folder / _PLAN_FILE).exists()
            if fresh and not self._shared:
                self._remove()
            self.lock.release()
            if isinstance(error, OSError):
                raise write_error(self.folder, error) from error
            raise

    def _make_folder(self) -> None:
        parent = self.folder.parent
        if not parent.is_dir():
            raise OutputError(
                f"{self._output}: the folder {parent} does not exist; create it first"
            )
        try:
            self.folder.mkdir(exist_ok=True)
            strangers = sorted(
                e.name for e in self.folder.iterdir() if not _OWN_NAMES.fullmatch(e.name)
            )
        except OSError as error:
            raise write_error(self.folder, error) from error
        if strangers:
            raise OutputError(
                f"{self.folder}: holds files that are not of this tool ({strangers[0]}); the run "
                "needs this folder for its work, so move it away"
            )

    def _refuse_others(self) -> None:
        """A whole run and a shard never work at the same time; shards may.

        Raises:
            OutputError: names who is at work.
        """
        for path in self.folder.glob(f"{_LOCK}*"):
            if path != self.lock.path and not (self._shared and path.name != _LOCK):
                RunLock(path).refuse_if_held()

    def _begin(self, resume: bool, restart: bool) -> None:
        before = read_plan(self.folder)
        begun = self.noted() if before is not None else 0
        if begun and not (resume or restart):
            total = len(self.layout.block_keys())
            raise OutputError(
                f"{self.folder}: an interrupted run is here ({begun} of {total} blocks done). "
                "Go on with it (--resume) or start again (--overwrite)."
            )
        if before is not None and (begun or self._shared) and resume and not restart:
            changes = plan_changes(before, self._plan)
            if changes:
                raise ResumeError(
                    f"{self._output}: the interrupted run cannot be continued, because "
                    + "; ".join(changes[:6])
                    + ". Use the same again, or start anew with --overwrite."
                )
            self.recover()
        else:
            self._clear()
        (self.folder / BLOCK_FOLDER).mkdir(exist_ok=True)
        if not self._shared:
            shutil.rmtree(self.folder / "final", ignore_errors=True)
            (self.folder / "final").mkdir()
            if not self._done:
                for path in self.journals():
                    path.unlink()
        if before is None or not self._shared:
            self._write_plan()

    def _write_plan(self) -> None:
        digest = hashlib.sha256(canonical_json(self._plan).encode()).hexdigest()
        whole = canonical_json({"plan": self._plan, "sha256": digest})
        write_synced(self.folder / _PLAN_FILE, whole.encode(), self._suffix)

    def discard(self) -> None:
        """Remove the folder on leaving: the run is finished, or cannot be resumed."""
        self._discarded = True

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name.startswith(_LOCK):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._clear()
        self.lock.release()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        """Unlock, and remove the folder if nothing in it can be resumed."""
        if not self._shared and (self._discarded or not self._done):
            self._remove()
            return
        if not self._shared:
            shutil.rmtree(self.folder / "final", ignore_errors=True)
        self.lock.release()

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
