"""A command in a fork of this process.

This process has imported all that commands need, so that a random moment falls into their work and not into
the import of torch.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import exit_code


@dataclass(frozen=True)
class Task:
    """A command, the folder that it starts from, and what must come out of it."""

    name: str
    command: Callable[[Path], None]
    outcome: Callable[[Path], Any]
    start: Path


class Fork:
    """A task's command, as the leader of a process group of its own."""

    def __init__(
        self, task: Task, at: Path, disturb: Callable[[], None] = lambda: None, modules: Path | None = None
    ) -> None:
        """`disturb` is called in the fork before the command starts; `modules` gets what it has imported."""
        self.log = at.with_name(f"{at.name}.log.{time.monotonic_ns()}")
        self.log.touch()
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if self.process == 0:
            code = 1
            try:
                os.setsid()
                log = os.open(self.log, os.O_WRONLY | os.O_APPEND)
                for stream in (1, 2):
                    os.dup2(log, stream)
                os.environ["ALIGNMENT_BENCH_CACHE"] = str(at / "cache")
                disturb()
                code = exit_code(lambda: task.command(at))
                if modules is not None:
                    modules.write_text("\n".join(sys.modules))
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def kill(self) -> None:
        """Whatever the command has started included."""
        try:
            os.killpg(self.process, signal.SIGKILL)
        except ProcessLookupError:  # not a leader yet
            os.kill(self.process, signal.SIGKILL)

    def running(self) -> bool:
        return os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self) -> tuple[int, str]:
        """Exit status, negative for a signal, and what the command said."""
        _, status = os.waitpid(self.process, 0)
        text = self.log.read_text(errors="replace")
        self.log.unlink()
        return os.waitstatus_to_exitcode(status), text


def run_undisturbed(task: Task, at: Path) -> None:
    """Run a task, and import what its command has imported. Raises RuntimeError if it fails."""
    modules = at.with_name("modules")
    code, text = Fork(task, at, modules=modules).wait()
    if code:
        raise RuntimeError(f"{task.name} fails undisturbed: {text}")
    for name in modules.read_text().splitlines():
        with suppress(Exception):  # made up by their packages
            importlib.import_module(name)


def fresh(folder: Path, task: Task) -> Path:
    """A copy of the task's start, at the same place for all cases: paths may stand in files."""
    case = folder / "case"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(task.start, case)
    return case
