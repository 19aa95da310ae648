"""The whole campaign, counted; an interrupted one continues."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from bench.benchmark.checks.faults.commands import commands
from bench.benchmark.checks.faults.counts import Line, table
from bench.benchmark.checks.faults.damage import HARMS, Reading, damage, readings
from bench.benchmark.checks.faults.disks import FULL, LIMITED, fill_disk, limit_size
from bench.benchmark.checks.faults.kills import (
    CLOCK,
    KILLED,
    SEVERAL,
    jump_clock,
    kill_at_random,
    start_several,
)
from bench.benchmark.checks.faults.process import Task, fresh, run_undisturbed
from bench.benchmark.checks.result import CheckResult
from bench.core.errors import UserError, unknown
from bench.core.files import append_row, read_rows, write_text
from bench.core.progress import progress_bar


def check_faults(kills: int, only: Sequence[str] = (), markdown: Path | None = None) -> Iterator[CheckResult]:
    """A result per kind of fault and command; `only` names some commands and readings.

    `markdown` is a file that the table of counts is written to. What is counted stands in a `.jsonl` beside
    it, too, line by line, and a campaign that was interrupted continues from there.

    Raises:
        UserError: if the file cannot be written, and for a name that is none of the campaign's.
    """
    counted = markdown and markdown.with_suffix(".jsonl")
    try:
        with tempfile.TemporaryDirectory() as folder:
            lines = campaign(Path(folder).resolve(), kills, only, counted)
        if markdown:
            write_text(markdown, table(lines) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {error.filename or markdown}: {error.strerror or error}.") from None
    for line in lines:
        text = f"{line.task}: {line.tries} tries, {line.stopped} ended early, {line.lost} lost"
        yield CheckResult(line.fault, "failed" if line.lost else "ok", "\n".join([text, *line.failures]))


def campaign(folder: Path, kills: int, only: Sequence[str] = (), counted: Path | None = None) -> list[Line]:
    """Run it in an empty folder, with at least `kills` kills; a line per kind of fault and command.

    Lines that `counted` holds are not made again, those that are made are added to it.
    """
    tasks = {task.name: task for task in commands(folder)}
    files = readings(folder)
    for name in only:
        if name not in {*tasks, *files}:
            raise unknown("command of the campaign", name, [*tasks, *files])
    chosen = list(only) or [*tasks, *files]
    disturbed = [Undisturbed(folder, tasks[name]) for name in chosen if name in tasks]
    counts = [*_while_working(folder, disturbed, kills)]
    counts += [count for name in chosen if name in files for count in _on_reading(folder, name, files[name])]
    before = {(row["fault"], row["task"]): Line(**row) for row in (read_rows(counted) if counted else ())}
    lines: list[Line] = []
    with progress_bar(len(counts), 0, "faults", "line") as bar:
        for fault, name, count in counts:
            line = before.get((fault, name)) or count(random.Random(f"{fault} {name}"))
            if counted and (fault, name) not in before:
                append_row(counted, asdict(line))
            lines.append(line)
            bar.update()
    return lines


class Undisturbed:
    """A task, and what comes out of it when nothing disturbs it."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder, self.task = folder, task

    @cached_property
    def truth(self) -> tuple[Any, float]:
        """The outcome, and the seconds that it takes."""
        run_undisturbed(self.task, fresh(self.folder, self.task))
        case, start = fresh(self.folder, self.task), time.monotonic()
        run_undisturbed(self.task, case)
        return self.task.outcome(case), time.monotonic() - start


# A line of the table to be: its fault, its command or reading, and what makes it.
Count = tuple[str, str, Callable[[random.Random], Line]]


def _while_working(folder: Path, works: Sequence[Undisturbed], kills: int) -> Iterator[Count]:
    """Each fault against each command while it works; the kills are shared out."""
    share = -(-kills // max(1, len(works)))
    faults: dict[str, Callable[[Undisturbed, random.Random], Line]] = {
        KILLED: lambda work, draw: kill_at_random(folder, work.task, *work.truth, share, draw),
        FULL: lambda work, _: fill_disk(folder, work.task, work.truth[0]),
        SEVERAL: lambda work, _: start_several(folder, work.task, work.truth[0]),
        CLOCK: lambda work, _: jump_clock(folder, work.task, *work.truth),
        LIMITED: lambda work, draw: limit_size(folder, work.task, work.truth[0], draw),
    }
    for fault, disturb in faults.items():
        for work in works:
            yield fault, work.task.name, partial(disturb, work)


def _on_reading(folder: Path, name: str, make: Callable[[], Reading]) -> Iterator[Count]:
    """Each way in which the files that a command reads are damaged."""
    reading = cache(make)
    for fault in HARMS:
        yield (
            fault,
            f"reads: {name}",
            lambda draw, fault=fault: damage(folder, name, reading(), fault, draw),
        )
