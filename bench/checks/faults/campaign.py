"""The whole campaign, counted; an interrupted one continues."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.checks.faults.commands import commands
from bench.checks.faults.counts import Line, table
from bench.checks.faults.damage import HARMS, Reading, damage, readings
from bench.checks.faults.disks import FULL, LIMITED, fill_disk, limit_size
from bench.checks.faults.kills import CLOCK, KILLED, SEVERAL, jump_clock, kill_at_random, start_several
from bench.checks.faults.process import Task, fresh, run_undisturbed
from bench.core.errors import UserError, unknown
from bench.core.files import append_row, read_rows, write_text
from bench.core.progress import progress_bar
from bench.evaluation.protocol_checks import CheckResult


def check_faults(kills: int, only: Sequence[str] = (), markdown: Path | None = None) -> Iterator[CheckResult]:
    """A result per kind of fault and command; `only` names some commands and readings.

    `markdown` is a file that the table of counts is written to. What is counted stands in a `.jsonl` beside
    it, too, line by line, and a campaign that was interrupted continues from there.

    Raises UserError if the file cannot be written, and for a name that is none of the campaign's.
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
    done = [Line(**row) for row in read_rows(counted)] if counted else []
    lines: list[Line] = []

    def add(fault: str, name: str, count: Callable[[random.Random], Line]) -> None:
        before = [line for line in done if (line.fault, line.task) == (fault, name)]
        lines.append(before[0] if before else count(random.Random(f"{fault} {name}")))
        if counted and not before:
            append_row(counted, asdict(lines[-1]))

    chosen = list(only) or [*tasks, *files]
    share = -(-kills // max(1, len([name for name in chosen if name in tasks])))
    with progress_bar(len(chosen), 0, "faults", "command") as bar:
        for name in chosen:
            if name in tasks:
                _disturb(folder, tasks[name], share, add)
            else:
                _harm(folder, name, files[name], add)
            bar.update()
    return lines


def _disturb(folder: Path, task: Task, kills: int, add: Callable[..., None]) -> None:
    """A line for every fault that befalls a command while it works."""
    known: list[tuple[Any, float]] = []

    def truth() -> tuple[Any, float]:
        """What comes out undisturbed, and in how many seconds."""
        if not known:
            run_undisturbed(task, fresh(folder, task))
            case, start = fresh(folder, task), time.monotonic()
            run_undisturbed(task, case)
            known.append((task.outcome(case), time.monotonic() - start))
        return known[0]

    faults: dict[str, Callable[[random.Random], Line]] = {
        KILLED: lambda draw: kill_at_random(folder, task, *truth(), kills, draw),
        FULL: lambda _: fill_disk(folder, task, truth()[0]),
        LIMITED: lambda draw: limit_size(folder, task, truth()[0], draw),
        SEVERAL: lambda _: start_several(folder, task, truth()[0]),
        CLOCK: lambda _: jump_clock(folder, task, *truth()),
    }
    for fault, count in faults.items():
        add(fault, task.name, count)


def _harm(folder: Path, name: str, make: Callable[[], Reading], add: Callable[..., None]) -> None:
    """A line for every way in which the files that a command reads are damaged."""
    made: list[Reading] = []
    for fault in HARMS:

        def count(draw: random.Random, fault: str = fault) -> Line:
            if not made:
                made.append(make())
            return damage(folder, name, made[0], fault, draw)

        add(fault, f"reads: {name}", count)
