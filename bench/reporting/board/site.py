"""Boards -> a static site: index, a page per protocol, published numbers, entries and their JSON schema."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from bench.core.files import replacing
from bench.metrics.names import Metric, in_order
from bench.reporting.board.entries import INCEPTION, Entry
from bench.reporting.board.standings import Board, Budget, Standing
from bench.reporting.pages.html import breakable, groups, sort_value
from bench.reporting.statistics import Estimate
from bench.reporting.tables import published
from bench.reporting.tables.caption import protocol_text
from bench.reporting.tables.cells import cost_cell, mean_cell
from bench.reporting.tables.table import Cell, Column, Table

_TEMPLATE = Path(__file__).with_name("template")
_SORTABLE = Path(__file__).parents[1] / "pages" / "template" / "sortable.min.js"
SCHEMA = "entry.schema.json"


def write(boards: Sequence[Board], entries: Sequence[Entry], output: Path) -> Path:
    """Write the whole site, or none of it, in place of an earlier one; returns its first page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"groups": groups, "sort_value": sort_value, "breakable": breakable}
    with replacing(output) as site:
        (site / "entries").mkdir(parents=True)
        shutil.copyfile(_TEMPLATE / "board.css", site / "board.css")
        shutil.copyfile(_SORTABLE, site / "sortable.min.js")

        def page(name: str, template: str, **content: Any) -> None:
            (site / name).write_text(environment.get_template(template).render(**content), encoding="utf-8")

        page(
            "index.html", "index.html", boards=boards, index=_index(boards), published=len(_published().rows)
        )
        for board in boards:
            page(
                f"{board.protocol}.html",
                "protocol.html",
                board=board,
                facts=_facts(board),
                tables=list(_tables(board.standings)),
                earlier=list(_tables(board.earlier)),
            )
        page("published.html", "published.html", table=_published())
        for entry in entries:
            path = site / "entries" / f"{entry.checksum}.json"
            path.write_text(json.dumps(entry.content, indent=1), encoding="utf-8")
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Entry.model_json_schema()
        (site / SCHEMA).write_text(json.dumps(schema, indent=1), encoding="utf-8")
    return output / "index.html"


def _index(boards: Sequence[Board]) -> Table:
    columns = [
        Column("protocol", "Protocol", text=True),
        Column("what", "Data and scoring", text=True),
        Column("lines", "Lines"),
        Column("entries", "Entries"),
        Column("earlier", "Earlier"),
    ]
    rows = [
        [
            Cell(board.protocol, board.protocol),
            Cell(_words(board)),
            *(
                Cell(f"{value:,}", value)
                for value in (
                    len(board.standings),
                    sum(len(standing.checksums) for standing in board.standings),
                    len(board.earlier),
                )
            ),
        ]
        for board in boards
    ]
    return Table("protocols", "Protocols", columns, rows)


def _words(board: Board) -> str:
    if board.content is None:
        return board.words
    return protocol_text(board.protocol, board.content.model_dump(mode="json")).partition(": ")[2]


def _facts(board: Board) -> dict[str, str]:
    """The protocol field by field; empty for earlier reports alone, which describe it in words."""
    if board.content is None:
        return {}
    fields = board.content.model_dump(mode="json")
    return {
        name.replace("_", " "): ", ".join(map(str, value)) if isinstance(value, list) else f"{value}"
        for name, value in fields.items()
        if name != "identity" and value not in ("", [], None)
    }


def _tables(standings: Sequence[Standing]) -> Iterator[tuple[Table, list[Standing]]]:
    """A table per budget, the best of its headline first, leaky ones last, and the lines in this order."""
    for budget, lines in Board.by_budget(standings).items():
        measures = in_order(key for line in lines for key in line.metrics)
        ordered = sorted(lines, key=partial(_rank, measures[0]))
        yield _table(budget, measures, ordered), ordered


def _rank(headline: Metric, line: Standing) -> tuple[bool, float]:
    sign = -1 if headline.lower_is_better is False else 1
    return line.is_leaky(headline), sign * line.metrics.get(headline.key, Estimate()).mean


def _table(budget: Budget, measures: Sequence[Metric], lines: Sequence[Standing]) -> Table:
    columns = [
        Column("method", "Method", text=True),
        Column("source", "By", text=True),
        Column("seeds", "Seeds"),
        *(Column(item.key, f"{item.short} {item.arrow}", item.net or INCEPTION) for item in measures),
        Column("hours", "Device-hours"),
        Column("hardware", "Hardware", text=True),
        Column("commit", "Commit", text=True),
    ]
    best = {item.key: _best(item, lines) for item in measures}
    rows = []
    for line in lines:
        cells = [Cell(line.method, line.method), Cell(line.source, line.source)]
        cells.append(Cell(str(len(line.seeds)), len(line.seeds)))
        for item in measures:
            found = line.metrics.get(item.key, Estimate())
            cell = mean_cell(found, item.decimals, "best" if found.mean == best[item.key] else "")
            cells.append(Cell(f"{cell.text} leaky", cell.value, cell.spread) if line.is_leaky(item) else cell)
        cells.append(cost_cell(line.hours))
        cells += [Cell("; ".join(parts) or "–", "; ".join(parts)) for parts in (line.hardware, line.commits)]
        rows.append(cells)
    return Table(str(budget), str(budget), columns, rows)


def _best(item: Metric, lines: Sequence[Standing]) -> float | None:
    """The best mean of those not trained against the net; None where neither direction is better."""
    if item.lower_is_better is None or len(lines) < 2:
        return None
    fair = [line for line in lines if not line.is_leaky(item)]
    means = [line.metrics[item.key].mean for line in fair if item.key in line.metrics]
    return (min if item.lower_is_better else max)(means, default=None)


def _published() -> Table:
    """Every published number of the table whose source is not in doubt."""
    rows = published.load()
    rows = rows[rows["status"] != "U"]
    names = ["method", "backbone", "encoder", "steps_k", "sampler", "labels", "guidance"]
    headings = ["Method", "Backbone", "Encoder", "Steps (K)", "Sampler", "Labels", "Guidance"]
    columns = [
        *(Column(name, heading, text=True) for name, heading in zip(names, headings, strict=True)),
        *(Column(item.key, f"{item.short} {item.arrow}") for item in in_order(published.METRICS)),
        Column("source", "Source", text=True),
        Column("status", "Status", text=True),
    ]
    cells = [
        [
            *(Cell(row[name] or "–", row[name]) for name in names),
            *(
                Cell() if pd.isna(row[item.key]) else Cell(f"{row[item.key]:g}", row[item.key])
                for item in in_order(published.METRICS)
            ),
            Cell(row["source"], row["source"]),
            Cell(row["status"], row["status"]),
        ]
        for row in rows.to_dict("records")
    ]
    return Table("published", "ImageNet-256, as published", columns, cells)
