"""Kills at random moments, clocks that jump, and several owners at once."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

from bench.benchmark.checks.faults.counts import Line
from bench.benchmark.checks.faults.process import Fork, Task, fresh

KILLED, CLOCK, SEVERAL = "killed at a random moment", "clock jumps", "several owners at once"
KILLS_PER_CASE = 5  # before the case is run to its end


def kill_at_random(
    folder: Path, task: Task, truth: Any, seconds: float, kills: int, draw: random.Random
) -> Line:
    """SIGKILL to the command and whatever it has started, within the `seconds` that it takes."""
    line = Line(KILLED, task.name)
    while line.tries < kills:
        case = fresh(folder, task)
        for _ in range(KILLS_PER_CASE):
            fork, deadline = Fork(task, case), time.monotonic() + draw.uniform(0, seconds)
            while fork.running() and time.monotonic() < deadline:
                time.sleep(0.002)
            ended = not fork.running()
            if not ended:
                fork.kill()
            code, text = fork.wait()
            line.tries += not ended
            line.stopped += not ended
            if ended and code:
                line.fail(text)
            if ended:
                break
        line.complete(task, case, truth)
    return line


def jump_clock(folder: Path, task: Task, truth: Any, seconds: float) -> Line:
    """A killed command whose files are of tomorrow, or of last year, is taken over and completed."""
    line = Line(CLOCK, task.name)
    for days in (1, -1, 365, -365):
        case = fresh(folder, task)
        fork = Fork(task, case)
        time.sleep(seconds / 2)
        fork.kill()
        fork.wait()
        moment = time.time() + days * 86_400
        for path in case.rglob("*"):
            os.utime(path, (moment, moment), follow_symlinks=False)
        line.tries += 1
        line.complete(task, case, truth)
    return line


def start_several(folder: Path, task: Task, truth: Any) -> Line:
    """Two and three processes start the same command at once."""
    line = Line(SEVERAL, task.name)
    for number in (2, 3, 3):
        case = fresh(folder, task)
        forks = [Fork(task, case) for _ in range(number)]
        for code, text in [fork.wait() for fork in forks]:
            line.tries += 1
            line.ended(code, text)
        line.complete(task, case, truth)
    return line
