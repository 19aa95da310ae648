"""Ends every process that a test run has started, however the test run itself ends, SIGKILL included.

Both ways rest on a pipe whose other end only the test run holds, so that its death is noticed. `end_marked`
is for everything: processes inherit a mark in their environment, and a watcher kills what carries it.
`Supervised` is for daemons, which may clear their environment: their supervisor adopts all their descendants
and kills those.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

MARK = "BENCH_TEST_RUN"
SECONDS = 100  # how long to look for processes that are still being started
ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of Linux

_pipes: list[object] = []  # open until this process ends


def end_marked() -> None:
    """Mark this process's environment, and start the watcher that kills what inherits the mark."""
    mark = uuid.uuid4().hex
    watcher = subprocess.Popen(
        [sys.executable, __file__, "marked", mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt from the keyboard must not reach it
    )
    _pipes.append(watcher.stdin)
    os.environ[MARK] = mark


class Supervised:
    """A running command that ends, with all its descendants, when this process ends or calls `end`."""

    def __init__(self, command: list[str], environment: Mapping[str, str], output: Path) -> None:
        self.command = command
        with open(output, "wb") as stream:
            self._supervisor = subprocess.Popen(
                [sys.executable, __file__, "supervise", *command],
                env={name: value for name, value in environment.items() if name != MARK},
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def running(self) -> bool:
        return self._supervisor.poll() is None

    def end(self) -> None:
        """Kill the command and its descendants; return when none is left."""
        if self._supervisor.stdin:
            self._supervisor.stdin.close()
        self._supervisor.wait(timeout=2 * SECONDS)


def marked(mark: str) -> list[psutil.Process]:
    """All processes whose environment holds the mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _descendants() -> list[psutil.Process]:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # adopted processes that have ended
            pass
    return psutil.Process().children(recursive=True)


def _kill(find: Callable[[], list[psutil.Process]]) -> None:
    """Kill what is found until two looks in a row find nothing: a daemon may start another meanwhile."""
    deadline, quiet = time.monotonic() + SECONDS, 0
    while quiet < 2 and time.monotonic() < deadline:
        processes = find()
        quiet = 0 if processes else quiet + 1
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.1)


def _supervise(command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ADOPT_ORPHANS, 1, 0, 0, 0)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while process.poll() is None and not select.select([sys.stdin], [], [], 0.2)[0]:
        pass  # nobody writes: what can be read is the end of the pipe
    _kill(_descendants)


if __name__ == "__main__":
    task, *words = sys.argv[1:]
    if task == "supervise":
        _supervise(words)
    else:
        sys.stdin.buffer.read()  # returns when the test run has ended
        _kill(lambda: marked(words[0]))
