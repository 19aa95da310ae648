"""Tables: one content in all formats."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from bench.reporting.tables.table import Cell, Column, Table

TABLE = Table(
    "demo",
    "A table with every kind of cell: 100% & more_or_less #1",
    [Column("method", "Method", text=True), Column("fid[net]", "FID ↓", "net"), Column("speedup", "×")],
    [
        [
            Cell("repa[weight=1.0]", "repa[weight=1.0]"),
            Cell("0.30 ± 0.02", 0.3012, 0.0213, "best"),
            Cell("2.3", 2.3),
        ],
        [Cell("a_b", "a_b"), Cell("12.50", 12.5, mark="second"), Cell("not reached", "not reached")],
        [Cell("a_b", "a_b"), Cell("−1.20 ± 0.10", -1.2, 0.1), Cell("> 3.1", "> 3.1")],
        [Cell("c|d", "c|d"), Cell(), Cell()],
    ],
    ["A note: Δ < 1 & p ≤ 2/2ⁿ."],
    breaks=[3],
)
ESCAPES = Table("escapes", r"\ ~ ^ $ { } – ≤ ≥", [Column("x", "Δ", text=True)], [[Cell("±↑↓−<>")]])


def test_csv_keeps_unrounded_values_and_spreads() -> None:
    frame = pd.read_csv(io.StringIO(TABLE.to_csv()))
    assert list(frame.columns) == ["method", "fid[net]", "fid[net] sd", "speedup"]
    assert frame["fid[net]"].tolist()[:3] == [0.3012, 12.5, -1.2]
    assert frame["fid[net] sd"].tolist()[0] == 0.0213
    assert frame["speedup"].tolist()[:3] == ["2.3", "not reached", "> 3.1"]


def test_markdown_has_one_line_a_row_and_marks() -> None:
    lines = TABLE.to_markdown().splitlines()
    assert lines[0] == "| Method | FID ↓ net | × |"
    assert lines[1] == "| :-- | --: | --: |"
    assert lines[2] == "| repa[weight=1.0] | **0.30 ± 0.02** | 2.3 |"
    assert lines[3] == "| a_b | <u>12.50</u> | not reached |"
    assert r"c\|d" in lines[5]


def test_siunitx_columns_have_room_for_their_widest_number() -> None:
    # two digits before the point (12.50), a sign (-1.20), two after, a spread of two digits (0.02, 0.10)
    assert "S[table-format=-2.2(2)," in TABLE.to_latex("caption")


def test_latex_leaves_out_names_that_repeat_the_row_above() -> None:
    rows = [line for line in TABLE.to_latex("caption").splitlines() if line.endswith(r"\\")]
    assert [row.partition(" & ")[0] for row in rows[-4:]] == ["repa[weight=1.0]", r"a\_b", "", "c|d"]


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on this machine")
def test_latex_compiles_without_overfull_lines(tmp_path: Path) -> None:
    packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx,siunitx}"
    tables = TABLE.to_latex("50,000 samples & 100%") + ESCAPES.to_latex("")
    document = rf"\documentclass[twocolumn]{{article}}{packages}\begin{{document}}{tables}\end{{document}}"
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    if "siunitx.sty' not found" in done.stdout:
        pytest.skip("no siunitx on this machine")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and "Missing character" not in done.stdout
