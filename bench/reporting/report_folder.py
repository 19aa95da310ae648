"""The folder of a report: its page, tables and figures, and the entries of its runs for a leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.core.errors import UserError
from bench.core.files import write_text
from bench.metrics import custom
from bench.reporting import comparison, results
from bench.reporting.board import entries
from bench.reporting.comparison import Comparison
from bench.reporting.pages import html, markdown
from bench.reporting.plots.figures import drawings
from bench.reporting.plots.style import save
from bench.reporting.tables import published, ranking, speedup, studies, summary
from bench.reporting.tables.caption import caption
from bench.reporting.tables.table import Table
from methods.cards import bibliography

SHOWN = 5  # figures of the page; the others and all other files lie in the folder below
MORE = "more"


def write(
    folder: Path,
    report: Path,
    command: str,
    *,
    reference: str | None,
    default_reference: str,
    metric: str | None,
    metrics: Sequence[str],
    confidence: float,
    allow_mixed: bool,
    with_published: bool,
) -> Path:
    """Write the report of a folder of runs, and return its web page.

    Args:
        folder: of the runs, which are only read.
        report: folder that is written to.
        command: what writes the report again.
        reference: method of differences and speedups; None: the default.
        default_reference: where it has no runs there are no differences, but a report.
        metric: headline metric; None: the first one of the protocol.
        metrics: Python files of additional metrics.
        confidence: level of all intervals, in (0, 1).
        allow_mixed: allow runs of different protocols in one table.
        with_published: add a table of published numbers.

    Raises:
        UserError: where there is nothing to report, and if the folder cannot be written to.
    """
    custom.load(metrics)
    found = comparison.compare(
        results.load(folder),
        reference or default_reference,
        metric,
        confidence,
        allow_mixed,
        required=reference is not None,
    )
    try:
        (report / MORE).mkdir(parents=True, exist_ok=True)
        return _write(found, report, command, with_published)
    except OSError as error:
        raise UserError(f"cannot write to {report}: {error.strerror or error}.") from None


def _write(found: Comparison, report: Path, command: str, with_published: bool) -> Path:
    more = report / MORE
    tables = _tables(found, with_published)
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
        pixels, other = (report, more) if drawing in shown else (more, report)
        (other / f"{drawing.name}.png").unlink(missing_ok=True)  # of a report with other figures
        save(drawing.draw(), more / f"{drawing.name}.pdf", pixels / f"{drawing.name}.png")
    page = markdown.markdown(found, tables, all_drawings, shown, MORE, command)
    write_text(report / "report.md", page)
    path = report / "report.html"
    write_text(path, html.render(found, tables, command, report, MORE))
    return path


def _tables(found: Comparison, with_published: bool) -> list[Table]:
    """All tables that these results allow."""
    tables = [summary.main_table(found), ranking.ranking_table(found)]
    tables += [published.published_table(found)] if with_published else []
    tables += [studies.ablation_table(found, name, own) for name, own in studies.ablations(found).items()]
    tables += [
        studies.scaling_table(found, family, sizes) for family, sizes in studies.families(found).items()
    ]
    tables += [studies.aggregate_table(found), speedup.speedup_table(found), speedup.target_table(found)]
    tables += [speedup.equal_cost_table(found), summary.metrics_table(found), summary.difference_table(found)]
    return [table for table in tables if table.rows or table.title == published.TITLE]
