"""Status of runs, read from their folders and the scheduler, without contacting the runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich import box
from rich.markup import escape
from rich.table import Table

from bench.core.errors import UserError
from bench.core.files import read_json
from bench.core.progress import duration
from bench.launch import slurm
from bench.launch.slurm import Queued
from bench.runs import lock
from bench.runs.record import RunRecord, find_runs

WAITING, RUNNING, FINISHED = "waiting", "running", "finished"
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class RunState:
    """Current state of a run."""

    folder: Path
    state: str  # "not started", WAITING, RUNNING, FINISHED, "failed", "interrupted" or "lost"
    step: int
    steps: int
    seconds_per_step: float | None  # of training
    metric: str  # the last evaluation's first
    where: str  # node or host
    job: str  # number
    message: str  # why it waits, or what went wrong
    to_evaluate: int  # steps whose separate evaluation is not made yet
    evaluations_queued: bool  # whether jobs for these are still in the queue

    @property
    def seconds_left(self) -> float | None:
        """Remaining seconds of training, at the speed of the last logged step."""
        if self.seconds_per_step is None:
            return None
        return (self.steps - self.step) * self.seconds_per_step

    @property
    def done(self) -> bool:
        """Whether training and all evaluations are complete."""
        return self.state == FINISHED and not self.to_evaluate

    @property
    def over(self) -> bool:
        """Whether its state will not change without user action."""
        return self.state not in ("not started", WAITING, RUNNING) and not (
            self.to_evaluate and self.evaluations_queued
        )


def chosen(runs: str, results: Path, only: str = "") -> list[Path]:
    """Folders of the runs of a suite, or in a folder; of all suites in `results` if `runs` is "".

    Only those whose name contains `only`. Raises UserError where there are none.
    """
    named = Path(runs) if Path(runs).is_dir() else results / runs
    suites = [named] if runs else sorted(results.glob("*"))
    found = [run for suite in suites for run in find_runs(suite) if only in run.name]
    if not found:
        which = f" whose name contains {only}" if only else ""
        raise UserError(f"there are no runs{which} in {named}: name a suite or a folder of runs.")
    return found


def poll(folders: Sequence[Path]) -> list[RunState]:
    """Current states of runs; the scheduler is queried once."""
    queue = slurm.queue()
    return [poll_run(folder, queue) for folder in folders]


def poll_run(folder: Path, queue: dict[str, Queued]) -> RunState:
    """State of one run, given the jobs of the scheduler."""
    record, job = RunRecord(folder), description(folder)
    status, last = record.status(), record.last_training_row()
    number, alive = job.get("id", ""), lock.working_on(folder)
    to_evaluate = len(record.kept_steps())
    state, where, message = status.state, "", status.message
    if state != FINISHED:
        if number in queue and queue[number].state == "PENDING":
            state, message = WAITING, queue[number].reason
        elif number in queue or alive or _is_starting(job):
            state, message = RUNNING, ""
            where = queue[number].node if number in queue else alive.host if alive else ""
        elif job and state in (RUNNING, "not started"):
            state, message = "lost", _explain(folder, job)
        elif state == RUNNING:
            state, message = "lost", "its process has ended; start it again, it continues"
    elif to_evaluate:
        message = f"{to_evaluate} evaluations to be made"
    return RunState(
        folder=folder,
        state=state,
        step=max(status.step, last.step if last else 0),
        steps=record.steps(),
        seconds_per_step=last.step_seconds if last else None,
        metric=_metric(record),
        where=where,
        job=number,
        message=message,
        to_evaluate=to_evaluate,
        evaluations_queued=any(number in queue for number in job.get("evaluations", ())),
    )


def description(folder: Path) -> dict[str, Any]:
    """The record of the submitted job; empty for runs that were not submitted."""
    return read_json(folder / "job.json")


def logs(folder: Path) -> list[Path]:
    """Log files of the last job, errors first, then the log of the run."""
    job = description(folder)
    found = []
    if job:
        for kind in ("err", "out"):
            found += sorted(Path(job["logs"]).glob(f"{job['id']}_*_log.{kind}"))
    return [path for path in (*found, folder / "log.txt") if path.is_file()]


def last_lines(path: Path, count: int) -> list[str]:
    """The last non-empty lines of a text file."""
    return [line for line in _tail(path).splitlines() if line.strip()][-count:]


def table(seen: list[RunState]) -> Table:
    """Table for the terminal, one line per run."""
    found = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    found.add_column("run", overflow="fold")
    found.add_column("state", no_wrap=True)
    for column in ("step", "step/s", "left", "metric", "job", "node"):
        found.add_column(column, justify="right", no_wrap=True)
    found.add_column("message", overflow="fold")
    for run in seen:
        left = run.seconds_left if run.state == RUNNING else None
        found.add_row(
            escape(run.folder.name),
            run.state,
            f"{run.step}/{run.steps}",
            f"{1 / run.seconds_per_step:.3g}" if run.seconds_per_step else "",
            duration(left) if left is not None else "",
            escape(run.metric),
            escape(run.job),
            escape(run.where),
            escape(run.message),
        )
    return found


def summary(seen: list[RunState]) -> str:
    """`"3 finished, 1 running"`."""
    states = [run.state for run in seen]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def time_left(seen: list[RunState]) -> str:
    """`", 12 min left of those running"`: of the running run that takes longest; empty if none is known."""
    left = [run.seconds_left for run in seen if run.state == RUNNING and run.seconds_left is not None]
    return f", {duration(max(left))} left of those running" if left else ""


def _explain(folder: Path, job: dict[str, Any]) -> str:
    """Why a job ended without a message of its own."""
    fate = slurm.fate(job["id"]) if job["launcher"] == "slurm" else ""
    errors = Path(job["logs"]) / f"{job['id']}_0_log.err"
    said = last_lines(errors, 20)
    if any("oom" in line.lower() and "kill" in line.lower() for line in said):
        fate = "OUT_OF_MEMORY"
    if fate in slurm.ADVICE:
        return slurm.ADVICE[fate]
    missing = [line for line in said if "ModuleNotFoundError" in line or "No such file" in line]
    if missing and not (folder / "env.json").is_file():
        return f"{missing[-1].strip()}: the environment is not there on the node; prepare it with --setup"
    ending = [line for line in said if "error" in line.lower()] or said
    return (f"{ending[-1].strip()} ({errors})" if ending else "its process was killed") + "; resubmit it"


def _is_starting(job: dict[str, Any]) -> bool:
    """Whether a job of this machine has a process that has not claimed its run yet."""
    if not job or job["launcher"] != "local" or job["host"] != os.uname().nodename:
        return False
    try:
        process = psutil.Process(int(job["id"]))
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= job["submitted"] + 60
    except psutil.NoSuchProcess:
        return False


def _metric(record: RunRecord) -> str:
    rows = [row for row in record.evaluations() if row.metrics]
    if not rows:
        return ""
    name, value = next(iter(rows[-1].metrics.items()))
    return f"{name} {value:.4g}"


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
