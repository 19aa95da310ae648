"""Lock of a run folder: at most one process, or the processes of one job, work on a run.

`owner.json` in the run's folder names the owner. It is created by a hard link, which succeeds for one of any
number of contenders on any file system, NFS included. While the owner lives, a thread renews the file's
time stamp. An owner is gone, and the run may be taken over, when

    its process has ended, as seen on the same machine; or
    it was the same Slurm job as the contender, which Slurm has started again; or
    the file has not been renewed for PATIENCE seconds, by the file server's own clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench.core.errors import UserError

RENEWED_EVERY = 20.0  # seconds
PATIENCE = 120.0  # seconds without renewal after which an owner elsewhere counts as gone


@dataclass(frozen=True)
class Owner:
    """A process on a machine, possibly in a job."""

    host: str
    process: int
    started: float  # of the process, seconds since the epoch: numbers of processes are used again
    job: str  # Slurm's number, empty elsewhere
    token: str  # of this ownership

    @classmethod
    def this_process(cls) -> Owner:
        own, job = psutil.Process(), os.environ.get("SLURM_JOB_ID", "")
        return cls(socket.gethostname(), own.pid, own.create_time(), job, uuid.uuid4().hex)

    def __str__(self) -> str:
        where = f"process {self.process} on {self.host}"
        return f"{where} (job {self.job})" if self.job else where


def owner_of(folder: Path) -> Owner | None:
    """The process that locked the run, dead or alive; None if it is not locked."""
    try:
        return Owner(**json.loads((folder / "owner.json").read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def working_on(folder: Path) -> Owner | None:
    """The live owner of the run, if there is one."""
    owner = owner_of(folder)
    return owner if owner and _lives(owner, folder, time.time()) else None


class RunLock:
    """A lock of this process on a run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = Owner.this_process()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def acquire(self) -> None:
        """Lock the run. Raises UserError, naming the owner, if another process holds the lock."""
        _acquire(self.folder, self._own)
        self._thread.start()

    def held(self) -> bool:
        """Whether this process still holds the lock; a suspended process may have lost it."""
        return owner_of(self.folder) == self._own

    def check(self) -> None:
        """Raises UserError if another process has taken the lock."""
        if not self.held():
            raise UserError(f"{self.folder.name} was taken over by {owner_of(self.folder)}: this one stops.")

    def release(self) -> None:
        """Release the lock."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.held():
            (self.folder / "owner.json").unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_EVERY):
            if self.held():
                with contextlib.suppress(OSError):
                    os.utime(self.folder / "owner.json")


def _acquire(folder: Path, own: Owner) -> None:
    path, candidate = folder / "owner.json", folder / f".owner.{own.token}"
    try:
        candidate.write_text(json.dumps(asdict(own)))
        for _ in range(3):
            with contextlib.suppress(FileExistsError):
                os.link(candidate, path)
                return
            found = owner_of(folder)
            if found and _lives(found, folder, candidate.stat().st_mtime, own):
                raise UserError(
                    f"{folder.name} is locked by {found}. Stop that process, or wait {PATIENCE:.0f} s if it "
                    "has died."
                )
            _remove_stale(path, found)
        raise UserError(
            f"{folder.name} is being locked by several processes at once: start one of them again."
        )
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}.") from None
    finally:
        candidate.unlink(missing_ok=True)


def _remove_stale(path: Path, stale: Owner | None) -> None:
    """Move a stale lock away; if another contender was faster, restore the other contender's file."""
    moved = path.with_name(f".owner.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(moved)
        if stale and stale.token not in moved.read_text():
            with contextlib.suppress(FileExistsError):
                os.link(moved, path)
        moved.unlink()


def _lives(owner: Owner, folder: Path, now: float, contender: Owner | None = None) -> bool:
    """`now` is by the clock of the file server."""
    if owner.host == socket.gethostname():
        try:
            process = psutil.Process(owner.process)
            same = abs(process.create_time() - owner.started) < 2
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
    if contender and owner.job and owner.job == contender.job:
        return False
    try:
        return now - (folder / "owner.json").stat().st_mtime < PATIENCE
    except FileNotFoundError:
        return False
