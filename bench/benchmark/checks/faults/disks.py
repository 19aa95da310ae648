"""Disks that are full, from any file on or in the middle of one."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from bench.benchmark.checks.faults.cluster import STAND_IN
from bench.benchmark.checks.faults.counts import Line
from bench.benchmark.checks.faults.process import Fork, Task, fresh

FULL, LIMITED = "disk full at every write", "write fails within a file"
LEAST = 4096  # bytes that a file may have under a limit, so that the log of a command has room


def fill_disk(folder: Path, task: Task, truth: Any) -> Line:
    """No space left from the n-th file on that is opened for writing, for every n."""
    line = Line(FULL, task.name)
    for number in range(1, 1000):
        case = fresh(folder, task)
        code, text = Fork(task, case, lambda case=case, number=number: _refuse_from(case, number)).wait()
        if code == 0 and "no space is left" not in text:
            return line  # no n-th write
        line.tries += 1
        line.ended(code, text)
        line.complete(task, case, truth)
    return line


def _refuse_from(folder: Path, number: int) -> None:
    """Let this process open fewer than `number` files of the folder for writing."""
    import safetensors.numpy
    import safetensors.torch

    opened = 0

    def count(path: object) -> None:
        nonlocal opened
        if str(path).startswith(str(folder)) and STAND_IN not in Path(str(path)).parts:
            opened += 1
            if opened >= number:
                if opened == number:
                    os.write(1, b"(no space is left from here on)\n")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            count(arguments[0])

    writers: tuple[Any, ...] = (safetensors.torch, safetensors.numpy)  # in Rust, which no audit hook sees
    for writer in writers:

        def save(
            tensors: Any, path: Any, *rest: Any, write: Any = writer.serialize_file, **options: Any
        ) -> None:
            count(path)
            write(tensors, path, *rest, **options)

        writer.serialize_file = save
    sys.addaudithook(hook)


def limit_size(folder: Path, task: Task, truth: Any, draw: random.Random) -> Line:
    """Writes that fail in the middle of a file: the kernel's limit on the size of files, at sizes that the
    command has written in the folder's last case."""
    line = Line(LIMITED, task.name)
    case = fresh(folder, task)
    Fork(task, case).wait()
    sizes = sorted({path.stat().st_size for path in case.rglob("*") if path.is_file()})
    sizes = [size for size in sizes if size > LEAST]
    for size in draw.sample(sizes, min(len(sizes), 8)):
        case = fresh(folder, task)

        def disturb(size: int = size) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, resource.RLIM_INFINITY))

        code, text = Fork(task, case, disturb).wait()
        line.tries += 1
        line.ended(code, text)
        line.complete(task, case, truth)
    return line
