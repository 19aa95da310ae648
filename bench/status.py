"""Show the status of runs: python -m bench.status quickstart --watch

Reads run folders and queries the scheduler, without disturbing runs. RUNS is a suite or a folder of runs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from bench.core.cli import Results, option, parse
from bench.core.errors import UserError, exit_code

if TYPE_CHECKING:
    from bench.launch.watch import RunState

LOG_LINES = 30


@dataclass(frozen=True)
class Options:
    runs: Annotated[tyro.conf.Positional[str], option(metavar="RUNS")] = ""
    """a suite or a folder of runs; by default all suites in RESULTS"""
    results: Results = Path("results")
    only: Annotated[str, option(metavar="RUN")] = ""
    """only runs whose name contains this"""
    watch: bool = False
    """update the table until all runs have ended"""
    cancel: bool = False
    """end the jobs of these runs; they save first, and can be resubmitted"""
    resubmit: bool = False
    """resubmit failed, interrupted and lost runs with the same resources"""
    log: Annotated[str, option(metavar="RUN")] = ""
    """print the end of the log of this run"""


def main() -> None:
    """Parse the command line, then show, cancel or resubmit."""
    options = parse(Options, __doc__)
    from rich.console import Console

    from bench.launch import watch

    folders = watch.chosen(options.runs, options.results, options.only)
    if options.log:
        _print_logs(folders, options.log)
        return
    seen = watch.poll(folders)
    if options.cancel:
        _cancel(seen)
        seen = watch.poll(folders)
    if options.resubmit:
        _resubmit(seen)
        seen = watch.poll(folders)
    if options.watch:
        from bench.launch.display import Display

        with Display(folders) as display:
            seen = display.until_over()
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(watch.table(seen))
    console.print(watch.summary(seen), highlight=False)


def _print_logs(folders: list[Path], name: str) -> None:
    from bench.launch import watch

    chosen = [folder for folder in folders if name in folder.name]
    if len(chosen) != 1:
        raise UserError(f"--log {name}: {len(chosen)} runs are called so, name one.")
    for path in watch.logs(chosen[0]):
        print(f"==> {path}")
        print("\n".join(watch.last_lines(path, LOG_LINES)))


def _cancel(seen: list[RunState]) -> None:
    from bench.launch import slurm, watch

    jobs = [run.job for run in seen if run.job and run.state in (watch.WAITING, watch.RUNNING)]
    jobs += [
        number
        for run in seen
        if run.evaluations_queued
        for number in watch.description(run.folder).get("evaluations", ())
    ]
    if not jobs:
        raise UserError("none of these runs has a job that waits or runs.")
    slurm.cancel(jobs)
    print(f"cancelled: {', '.join(jobs)}")


def _resubmit(seen: list[RunState]) -> None:
    from bench.launch.submit import resubmit

    ended = [run for run in seen if run.job and run.over and not run.done]
    if not ended:
        raise UserError("none of these runs was a job that ended too early.")
    resubmit(ended)


if __name__ == "__main__":
    sys.exit(exit_code(main))
