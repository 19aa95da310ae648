"""`report.html`: the complete comparison in one self-contained file.

Tables sort on a click, plots show values on hovering, and methods and backbones filter all of it.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from bench.reporting.comparison import Comparison
from bench.reporting.pages.page_data import page_data
from bench.reporting.plots.samples import sample_strips
from bench.reporting.tables.caption import caption, outdated, purpose
from bench.reporting.tables.table import Cell, Column, Table

WIDEST_STRIP = 1200  # pixels


class Strip(NamedTuple):
    """Samples of one method on one backbone, in a row."""

    method: str
    backbone: str
    image: str  # a data URL


def render(comparison: Comparison, tables: Sequence[Table], command: str, report: Path, more: str) -> str:
    """The page's HTML, to be saved in the folder `report`, from where its links lead to the runs, and to the
    tables' files in the folder `more`."""
    folder = Path(__file__).with_name("template")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"zip": zip, "groups": groups, "sort_value": sort_value, "breakable": breakable}
    seed = int(comparison.results.runs["seed"].min())
    data = json.dumps(page_data(comparison), separators=(",", ":")).replace("<", "\\u003c")
    return environment.get_template("page.html").render(
        title=comparison.results.folder.resolve().name,
        purpose=purpose(comparison),
        caption=caption(comparison),
        outdated=outdated(comparison),
        command=command,
        comparison=comparison,
        tables=tables,
        more=more,
        seed=seed,
        strips=[strip for backbone in comparison.backbones for strip in _strips(comparison, backbone, seed)],
        runs=_runs(comparison),
        root=os.path.relpath(comparison.results.folder, report),
        unreadable=comparison.results.unreadable,
        gaps=comparison.results.gaps,
        data=data,
        asset=lambda name: (folder / name).read_text(),
    )


def sort_value(cell: Cell) -> str:
    """Sorting key of a cell: its unrounded value; empty cells are last."""
    return "" if cell.value is None or pd.isna(cell.value) else str(cell.value)


def breakable(text: str) -> Markup:
    """With places behind commas where a narrow column may break a method's long name."""
    return escape(text).replace(",", Markup(",<wbr>"))


def groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Group headings, and the number of columns that each spans."""
    return [
        (group, len(list(members))) for group, members in groupby(columns, key=lambda column: column.group)
    ]


def _strips(comparison: Comparison, backbone: str, seed: int) -> Iterator[Strip]:
    for name, image in sample_strips(comparison, backbone, seed):
        yield Strip(name, backbone, data_url(image))


def data_url(image: np.ndarray) -> str:
    """PNG for small images; JPEG of reduced size for photographs."""
    picture, buffer = Image.fromarray(image), io.BytesIO()
    if picture.width <= WIDEST_STRIP:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((WIDEST_STRIP, picture.height))
        picture.save(buffer, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _runs(comparison: Comparison) -> list[dict[str, Any]]:
    """One record per run, with its last headline value and linked files."""
    results, headline = comparison.results, comparison.headline
    last = results.own_evaluations.sort_values("step").drop_duplicates("run", keep="last").set_index("run")
    records = []
    for run in results.runs.to_dict("records"):
        value = last[headline.key].get(run["run"])
        files = [
            name
            for name in ("spec.json", "env.json", "log.txt")
            if (results.folder / run["run"] / name).is_file()
        ]
        records.append(run | {"value": None if pd.isna(value) else value, "files": files})
    return records
