"""Make tables, plots and a page of runs: python -m bench.report SUITE

The report is written to the folder `report` next to the runs, which are never changed.
"""

from __future__ import annotations

import gc
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from bench.core.cli import OptionalPath, OptionalStr, Results, parse
from bench.core.errors import UserError, exit_code


@dataclass(frozen=True)
class Report:
    """Make tables (Markdown, LaTeX, CSV), plots (PDF, PNG) and a page of run folders."""

    runs: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUNS")]
    """a suite or its TOML file, or a folder of runs"""
    results: Results = Path("results")
    reference: Annotated[OptionalStr, tyro.conf.arg(metavar="METHOD")] = None
    """reference method of differences and speedups; by default that of the suite, or baseline"""
    metric: OptionalStr = None
    """headline metric, as named in the rows; by default the first one of the protocol"""
    metrics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE...")] = ()
    """Python files of additional metrics in the rows, for their labels and directions"""
    confidence: float = 0.95
    """confidence level of all intervals"""
    allow_mixed: bool = False
    """allow runs of different protocols in one table, with footnotes"""
    with_published: bool = False
    """add a table of published numbers of the same protocol"""
    output: OptionalPath = None
    """folder of the report; by default the folder report next to the runs"""

    @property
    def command(self) -> str:
        """What regenerates the report."""
        given = [field for field in fields(self) if getattr(self, field.name) != field.default]
        arguments = [self.runs]
        for field in given[1:]:
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else [] if value is True else [value]
            arguments += [f"--{field.name.replace('_', '-')}", *map(str, values)]
        return f"python -m bench.report {shlex.join(arguments)}"


def write(options: Report) -> Path:
    """Write the report and return its web page. Raises UserError where there is nothing to report."""
    from bench.reporting import report_folder

    folder = _folder(options)
    return report_folder.write(
        folder,
        options.output or folder / "report",
        options.command,
        reference=options.reference,
        default_reference=_reference_of_suite(options.runs) or "baseline",
        metric=options.metric,
        metrics=options.metrics,
        confidence=options.confidence,
        allow_mixed=options.allow_mixed,
        with_published=options.with_published,
    )


def _reference_of_suite(name: str) -> str | None:
    from bench.config import suites

    known = name in suites.names() or suites.is_file(name)
    return suites.load(name).reference if known else None


def _folder(options: Report) -> Path:
    from bench.config import suites

    of_suite = options.results / (Path(options.runs).stem if suites.is_file(options.runs) else options.runs)
    for folder in (of_suite, Path(options.runs).expanduser()):
        if folder.is_dir():
            return folder
    raise UserError(f"there is no folder {of_suite} or {options.runs}: run the suite first.")


def main() -> None:
    """Write the report and say where it is."""
    gc.disable()  # a short command that drops little: looking for garbage would take an eighth of its time
    options = parse(Report, __doc__)
    print(f"report: {write(options)}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
