"""Published numbers on ImageNet-256, from `published.csv`, and their comparability with our runs.

Every row keeps its provenance: `source` (paper, table, repository), `note`, and a `status`:

    P  read in the text, tables or README of the method's own authors
    R  another group's own run of the method
    S  a secondary copy, from another paper's table or a summary
    U  doubtful or in conflict with its source: kept so that nobody adds it again, never printed

`steps_k` are thousands of steps at batch size 256. A row is compared with a run only if the backbone,
the steps, the sampler, the guidance, the labels, 50,000 samples and the ADM Inception agree. Encoders and
latent spaces are the methods' own, and differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import backbones
from bench.core import grammar
from bench.metrics.names import metric
from bench.reporting.comparison import Comparison
from bench.reporting.tables.summary import measure_columns
from bench.reporting.tables.table import Cell, Column, Table

TITLE = "Published numbers"
METRICS = ("fid", "sfid", "is", "precision", "recall")
SAMPLERS = {  # names of sampler presets -> as the papers call them; others were not published with
    "repa-sde-250": "SDE-EM-250",
    "sit-sde-250": "SDE-EM-250",
    "sit-ode-heun-250": "ODE-Heun-250NFE",
    "dit-ddpm-250": "DDPM-250",
}
_GUIDANCE = re.compile(
    r"^cfg (?P<scale>[\d.]+)(?: t in \[(?P<low>[\d.]+),(?P<high>[\d.]+)\])?(?P<three> \(3 ch\.\))?$"
)


def load() -> pd.DataFrame:
    """All rows; metrics and `steps` (NaN where the source gives epochs) as numbers, the rest as text."""
    table = pd.read_csv(Path(__file__).with_name("published.csv"), dtype=str, keep_default_na=False)
    for name in METRICS:
        table[name] = pd.to_numeric(table[name])
    table["steps"] = pd.to_numeric(table["steps_k"], errors="coerce") * 1000
    return table


def agreeing(comparison: Comparison) -> pd.DataFrame:
    """The comparable rows: same protocol, and a backbone and number of steps of our runs."""
    rows = load()
    guidance = pd.Series([str(_guidance(text)) for text in rows["guidance"]], index=rows.index)
    kept = pd.Series(False, index=rows.index)
    for entry in comparison.entries:
        protocol = comparison.results.protocols[entry.protocol]
        if not _is_adm(protocol, comparison) or set(entry.runs["batch_size"]) != {256}:
            continue
        family, _, size = grammar.split(entry.backbone)[0].partition("-")
        own = str(_own_guidance(protocol))
        sampler = SAMPLERS.get(protocol[f"sampler_{backbones.process_of(family)}"], "")
        kept |= (
            (rows["backbone"].str.lower() == f"{family}-{size if '/' in size else size + '/2'}")
            & rows["steps"].isin(entry.curves["step"])
            & (rows["sampler"] == sampler)
            & (rows["labels"] == protocol["labels"])
            & (guidance == own)
        )
    return rows[kept & (rows["status"] != "U")]


def _is_adm(protocol: Mapping[str, Any], comparison: Comparison) -> bool:
    """Whether the protocol is the usual one: 50,000 samples from the EMA, with ADM's Inception."""
    return (
        "imagenet256" in protocol["data"]
        and "fid" in comparison.results.metrics
        and protocol["samples"] == 50_000
        and protocol["weights"] == "ema"
    )


def _own_guidance(protocol: Mapping[str, Any]) -> tuple | None:
    scale, interval = protocol["guidance_scale"], tuple(protocol["guidance_interval"])
    return (1.0, (0.0, 1.0), None) if scale == 1 else (scale, interval, protocol["guidance_channels"] or None)


def _guidance(text: str) -> tuple | None:
    """Scale, interval and channels; None if the source does not give all of them."""
    if text == "none":
        return 1.0, (0.0, 1.0), None
    match = _GUIDANCE.match(text)
    if not match:
        return None
    interval = (float(match["low"] or 0), float(match["high"] or 1))
    return float(match["scale"]), interval, 3 if match["three"] else None


def published_table(comparison: Comparison) -> Table:
    """A table of the comparable rows with their sources; empty if there are none."""
    rows = agreeing(comparison)
    columns = [
        Column("backbone", "Backbone", text=True),
        Column("method", "Method", text=True),
        Column("encoder", "Encoder", text=True),
        Column("steps", "Steps"),
        *measure_columns([metric(name) for name in METRICS]),
        Column("source", "Source", text=True),
        Column("status", "Status", text=True),
    ]
    cells = [
        [
            *(Cell(row[name] or "–", row[name]) for name in ("backbone", "method", "encoder")),
            Cell(f"{row['steps']:.0f}", int(row["steps"])),
            *(Cell() if pd.isna(row[name]) else Cell(f"{row[name]:g}", row[name]) for name in METRICS),
            Cell(row["source"], row["source"]),
            Cell(row["status"], row["status"]),
        ]
        for row in rows.sort_values(["backbone", "steps", "fid"]).to_dict("records")
    ]
    if not cells:
        return Table("published", TITLE, columns, [], ["No published number was made under this protocol."])
    noted = rows[rows["note"] != ""].to_dict("records")
    remarks = {f"{row['method']} at {row['steps_k']}K: {row['note']}." for row in noted}
    notes = [
        "Published elsewhere, not run here. Backbone, steps, sampler, guidance, labels and metric net are as "
        "in ours; encoders and latents are the methods' own. Status P: the authors' own numbers; R: another "
        "group's run; S: a secondary copy.",
        *sorted(remarks),
    ]
    return Table("published", TITLE, columns, cells, notes)
