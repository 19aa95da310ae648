"""The suite's commands as processes of their own, forked from a server that has imported torch already.

A command that is started anew imports for seconds before it does anything. A forked one is as much a process:
it has its own id, is sent signals, is killed, and ends with a status.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection, reduction
from pathlib import Path
from typing import IO

from torch import multiprocessing as torch_multiprocessing

ROOT = Path(__file__).parents[2]
# What commands import on their way; not the commands' own modules, which run as `__main__`.
IMPORTED = (
    "torch._dynamo",
    "bench.config.options",
    "bench.data.digits",
    "bench.evaluation.evaluator",
    "bench.launch.inline",
    "bench.launch.runner",
    "bench.launch.submit",
)
_context = multiprocessing.get_context("forkserver")
_lock = threading.Lock()  # starting a process also asks for the status of the others, which is told once


class Command:
    """`python -m MODULE ARGUMENTS`, running in the root of the checkout.

    It has the methods of `subprocess.Popen` that tests need.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        *,
        module: str = "bench.run",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.args = [sys.executable, "-m", module, *map(str, arguments)]
        self._output, self._errors = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        _context.set_forkserver_preload(list(IMPORTED))  # of no effect once the server runs
        files = [reduction.DupFd(stream.fileno()) for stream in (self._output, self._errors)]
        told = (module, self.args[3:], dict(environment or os.environ), files)
        self._process = _context.Process(target=_run, args=told)
        with _lock:
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The status, minus the number of the signal that ended it; None while it runs."""
        with _lock:
            return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        connection.wait([self._process.sentinel])
        code = self.returncode
        assert code is not None
        return code

    def communicate(self) -> tuple[str, str]:
        """What it has printed and its errors, when it has ended."""
        self.wait()
        return _content(self._output), _content(self._errors)


def run(arguments: Sequence[object], **options: object) -> subprocess.CompletedProcess[str]:
    """The command, ended, with what it has printed."""
    command = Command(arguments, **options)  # type: ignore[arg-type]
    output, errors = command.communicate()
    return subprocess.CompletedProcess(command.args, command.wait(), output, errors)


def torchrun(count: int, module: str, arguments: Sequence[object]) -> list[int]:
    """Status of each of `count` processes of a command that work together, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    commands = [
        Command(arguments, module=module, environment=os.environ | group | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in map(str, range(count))
    ]
    return [command.wait() for command in commands]


def together(count: int, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    """Call `work(rank, *arguments)` in `count` processes; raises what one of them raises."""
    _context.set_forkserver_preload(list(IMPORTED))
    torch_multiprocessing.start_processes(work, arguments, nprocs=count, start_method="forkserver")


def _content(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read()


def _run(module: str, arguments: list[str], environment: dict[str, str], files: list[object]) -> None:
    for number, file in zip((1, 2), files, strict=True):
        os.dup2(file.detach(), number)  # type: ignore[attr-defined]
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    sys.path.insert(0, str(ROOT))
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # processes of multiprocessing skip these
        sys.stdout.flush()
        sys.stderr.flush()
