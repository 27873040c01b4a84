"""One run at a time on one output folder."""

import errno
import fcntl
import json
import os
import socket
import uuid
from pathlib import Path

from rsmamba_cli.errors import OutputError


class RunLock:
    """An exclusive lock on a file, recorded with host and process.

    The kernel's file lock (``flock``) is the judge where the file system has one: it is gone the
    moment its process is, so that a killed run never needs cleaning up. The record in the file
    serves for messages, for file systems without locks, and for network mounts that keep locks to
    one host: a record of another host is believed.
    """

    def __init__(self, path: Path) -> None:
        """Name the lock; it is not taken yet.

        Args:
            path: its file.
        """
        self.path = path
        self.run = ""
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            OutputError: another run holds it, or the file cannot be made.
        """
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error
            try:
                self._judge(descriptor)
                # The holder may have removed the file while this process waited to open it; a lock
                # on a file without a name excludes nobody.
                if _same_file(descriptor, self.path):
                    break
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        self._descriptor = descriptor
        self.run = uuid.uuid4().hex
        record = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "run": self.run})
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, record.encode(), 0)
        except OSError as error:
            self.release()
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error

    def refuse_if_held(self) -> None:
        """Leave the lock as it is, but raise if somebody holds it.

        Raises:
            OutputError: another run holds it.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        try:
            self._judge(descriptor)
        finally:
            os.close(descriptor)

    def _judge(self, descriptor: int) -> None:
        """Return if the lock is free or left behind by a dead process; raise otherwise."""
        has_locks = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken(_record(descriptor)) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                raise
            has_locks = False
        record = _record(descriptor)
        host, pid = record.get("host"), record.get("pid")
        if host is None:
            return
        if host != socket.gethostname():
            raise self._taken(record)
        alive = isinstance(pid, int) and pid != os.getpid() and _is_alive(pid)
        if not has_locks and alive:
            raise self._taken(record)

    def _taken(self, record: dict[str, object]) -> OutputError:
        who = f"process {record.get('pid', '?')} on {record.get('host', 'another host')}"
        return OutputError(
            f"{self.path.parent}: another run is writing here ({who}). Wait for it, or write to "
            f"another output; if that process is surely gone, delete {self.path}"
        )

    def release(self) -> None:
        """Give the lock back and remove its file; harmless when it is not held."""
        if self._descriptor is None:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None


def holder(path: Path) -> str | None:
    """Which run (``RunLock.run``) a lock file names; None when there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        run = _record(descriptor).get("run")
    finally:
        os.close(descriptor)
    return None if run is None else str(run)


def _record(descriptor: int) -> dict[str, object]:
    try:
        record = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        on_disk = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (on_disk.st_dev, on_disk.st_ino)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
