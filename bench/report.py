"""Make tables, plots and a page of runs: python -m bench.report SUITE

The report is written to the folder `report` next to the runs, which are never changed.
"""

from __future__ import annotations

import gc
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from bench.core.cli import OptionalPath, OptionalStr, Results, parse
from bench.core.errors import UserError, exit_code
from bench.core.files import write_text

if TYPE_CHECKING:
    from bench.reporting.comparison import Comparison
    from bench.reporting.tables.table import Table


SHOWN = 5  # figures of the page; the others and all other files lie in the folder below
MORE = "more"


@dataclass(frozen=True)
class Report:
    """Make tables (Markdown, LaTeX, CSV), plots (PDF, PNG) and a page of run folders."""

    runs: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUNS")]
    """a suite, or a folder of runs"""
    results: Results = Path("results")
    reference: Annotated[str, tyro.conf.arg(metavar="METHOD")] = "baseline"
    """reference method of differences and speedups"""
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
    from bench.metrics import custom
    from bench.reporting import comparison, results

    custom.load(options.metrics)
    folder = _folder(options)
    found = comparison.compare(
        results.load(folder), options.reference, options.metric, options.confidence, options.allow_mixed
    )
    report = options.output or folder / "report"
    try:
        (report / MORE).mkdir(parents=True, exist_ok=True)
        return _write(found, report, options)
    except OSError as error:
        raise UserError(f"cannot write to {report}: {error.strerror or error}.") from None


def _write(found: Comparison, report: Path, options: Report) -> Path:
    from bench.reporting.board import entries
    from bench.reporting.pages import html, markdown
    from bench.reporting.plots.figures import drawings
    from bench.reporting.plots.style import save
    from bench.reporting.tables.caption import caption
    from methods.cards import bibliography

    more = report / MORE
    tables = _tables(found, options.with_published)
    write_text(report / "main.csv", tables[0].to_csv())
    for table in tables:
        write_text(more / f"{table.file}.csv", table.to_csv())
        write_text(more / f"{table.file}.md", table.to_markdown())
        write_text(more / f"{table.file}.tex", table.to_latex(caption(found)))
    finished = found.results.runs[found.results.runs["state"] == "finished"]["run"]
    if lines := entries.lines_of(found.results.folder / run for run in finished):
        write_text(report / entries.FILE, lines)  # for a leaderboard
    write_text(more / "references.bib", bibliography(entry.method for entry in found.entries))
    all_drawings = list(drawings(found))
    shown = sorted(all_drawings, key=lambda drawing: drawing.rank)[:SHOWN]
    for drawing in all_drawings:
        pixels = report if drawing in shown else more
        save(drawing.draw(), more / f"{drawing.name}.pdf", pixels / f"{drawing.name}.png")
    page = markdown.markdown(found, tables, all_drawings, shown, MORE, options.command)
    write_text(report / "report.md", page)
    path = report / "report.html"
    write_text(path, html.render(found, tables, options.command, report, MORE))
    return path


def _folder(options: Report) -> Path:
    for folder in (options.results / options.runs, Path(options.runs).expanduser()):
        if folder.is_dir():
            return folder
    raise UserError(
        f"there is no folder {options.results / options.runs} or {options.runs}: run the suite first."
    )


def _tables(found: Comparison, with_published: bool) -> list[Table]:
    """All tables that these results allow."""
    from bench.reporting.tables import published, ranking, speedup, studies, summary

    tables = [summary.main_table(found), ranking.ranking_table(found)]
    tables += [published.published_table(found)] if with_published else []
    tables += [studies.ablation_table(found, name, own) for name, own in studies.ablations(found).items()]
    tables += [
        studies.scaling_table(found, family, sizes) for family, sizes in studies.families(found).items()
    ]
    tables += [studies.aggregate_table(found), speedup.speedup_table(found), speedup.target_table(found)]
    tables += [speedup.equal_cost_table(found), summary.metrics_table(found), summary.difference_table(found)]
    return [table for table in tables if table.rows or table.title == published.TITLE]


def main() -> None:
    """Write the report and say where it is."""
    gc.disable()  # a short command that drops little: looking for garbage would take an eighth of its time
    options = parse(Report, __doc__)
    print(f"report: {write(options)}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
