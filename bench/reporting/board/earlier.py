"""Reports that were written before reports had entries: lines without spec, environment and checksum."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from bench.metrics.names import METRICS
from bench.reporting.board import entries
from bench.reporting.board.standings import Budget, EarlierLine, Standing
from bench.reporting.statistics import Estimate

_CAPTION = re.compile(
    r"^Trained for [\d, ]+ steps of (?P<batch>[\d,]+) images; seeds (?P<seeds>[\d, ]+); "
    r"protocol (?P<hash>[0-9a-f]{8}): (?P<words>.*, feature nets [^.;]*)\. (?P<hardware>.*)\.$",
    re.MULTILINE,
)


def lines(root: Path, source: str) -> Iterator[EarlierLine]:
    """The lines of all such reports in `root` and below.

    A report of several protocols or batch sizes is left out: its table does not say which line is of which.
    """
    for table in sorted(root.rglob("main.csv")) if root.is_dir() else ():
        report = table.with_name("report.md")
        if report.is_file() and not table.with_name(entries.FILE).is_file():
            study = "/".join(part for part in table.parent.relative_to(root).parts if part != "report")
            name = f"{source}/{study}" if study else source
            yield from _of_report(table, report.read_text(encoding="utf-8"), name)


def _of_report(path: Path, page: str, source: str) -> Iterator[EarlierLine]:
    caption = _CAPTION.search(page)
    if caption is None:
        return
    table = pd.read_csv(path)
    seeds = tuple(int(seed) for seed in caption["seeds"].split(", "))
    for row in table.to_dict("records"):
        metrics = {
            str(key): Estimate(value, row.get(f"{key} sd", math.nan), n=len(seeds))
            for key, value in row.items()
            if (name := re.fullmatch(r"(\w+)(\[[^\]]*\])?", str(key))) and name[1] in METRICS
        }
        standing = Standing(
            source=source,
            method=row["method"],
            budget=Budget(row["backbone"], int(row["steps"]), int(caption["batch"].replace(",", ""))),
            seeds=seeds,
            metrics=metrics,
            hours=(row.get("device hours", math.nan),),
            hardware=(caption["hardware"],),
        )
        yield EarlierLine(caption["hash"], caption["words"], standing)
