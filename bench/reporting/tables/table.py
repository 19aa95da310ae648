"""Tables that can be printed as Markdown, LaTeX (booktabs, siunitx), CSV and HTML.

Numbers are `mean ± spread`; the best of a comparison is bold, the second underlined. The LaTeX needs
`booktabs`, `graphicx` and `siunitx` (version 3) in the preamble.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

_LATEX = {character: "\\" + character for character in "_%#&${}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
_LATEX |= {"<": "$<$", ">": "$>$", "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "≤": r"$\le$", "≥": r"$\ge$"}
_LATEX |= {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "Δ": r"$\Delta$", "ⁿ": "$^n$"}
_SIUNITX = "uncertainty-mode=separate,retain-zero-uncertainty,table-align-uncertainty=false,"
_SIUNITX += "group-digits=none,detect-weight"
_SHRINK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # only where it is too wide
_NUMBER = re.compile(r"^[−-]?\d+(\.\d+)?( ± \d+(\.\d+)?)?$")


@dataclass(frozen=True)
class Cell:
    """A cell of a table; `value` and `spread` are unrounded, for the CSV."""

    text: str = "–"
    value: float | str | None = None
    spread: float = math.nan
    mark: Literal["", "best", "second"] = ""


@dataclass(frozen=True)
class Column:
    """A column: its name in the CSV, its heading, and the heading of its group."""

    name: str
    heading: str
    group: str = ""
    text: bool = False  # words, aligned left; else numbers


@dataclass(frozen=True)
class Table:
    """A table; a thin rule precedes the rows in `breaks`."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    breaks: Sequence[int] = field(default_factory=tuple)

    def to_frame(self) -> pd.DataFrame:
        """Unrounded values; columns whose cells have a spread are followed by `<name> sd`."""
        data: dict[str, list] = {}
        for index, column in enumerate(self.columns):
            cells = [row[index] for row in self.rows]
            data[column.name] = [cell.value for cell in cells]
            if any(not math.isnan(cell.spread) for cell in cells):
                data[f"{column.name} sd"] = [cell.spread for cell in cells]
        return pd.DataFrame(data)

    @property
    def file(self) -> str:
        """Name of its files, without suffix."""
        return slug(self.name)

    def to_csv(self) -> str:
        return self.to_frame().to_csv(index=False)

    def to_markdown(self) -> str:
        """A pipe table; a column's group is written into its heading."""
        marks = {"": "{}", "best": "**{}**", "second": "<u>{}</u>"}
        headings = [markdown_text(f"{column.heading} {column.group}".strip()) for column in self.columns]
        lines = [_pipes(headings), _pipes([":--" if column.text else "--:" for column in self.columns])]
        lines += [
            _pipes([marks[cell.mark].format(markdown_text(cell.text)) for cell in row]) for row in self.rows
        ]
        return "\n".join([*lines, "", *(f"{markdown_text(note)}  " for note in self.notes)]) + "\n"

    def to_latex(self, caption: str) -> str:
        """A `table*` to be `\\input`; siunitx aligns numbers at the decimal point and at the ±.

        A name that repeats the row above it within a block is left out.
        """
        numeric = [not column.text for column in self.columns]
        formats = [
            _s_column([row[index].text for row in self.rows]) if numeric[index] else "l"
            for index in range(len(self.columns))
        ]
        headings = [
            f"{{{_escape(column.heading)}}}" if numeric[index] else _escape(column.heading)
            for index, column in enumerate(self.columns)
        ]
        lines = [r"\begin{table*}", r"\centering\footnotesize\setlength{\tabcolsep}{4pt}"]
        lines += [rf"\caption{{{_escape(self.title)}. {_escape(caption)}}}", rf"\label{{tab:{self.file}}}"]
        lines += [
            _SHRINK,
            r"\begin{tabular}{@{}" + " ".join(formats) + "@{}}",
            r"\toprule",
            *self._latex_groups(),
        ]
        lines += [" & ".join(headings) + r" \\", r"\midrule"]
        for position, row in enumerate(self.rows):
            new = position == 0 or position in self.breaks
            above = self.rows[position - 1]
            cells = [
                ""
                if not (numeric[index] or new) and cell == above[index]
                else _latex_cell(cell, numeric[index])
                for index, cell in enumerate(row)
            ]
            lines += [r"\midrule"] if new and position else []
            lines.append(" & ".join(cells) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}}"]
        lines += [rf"\par\smallskip\parbox{{\linewidth}}{{\scriptsize {_escape(' '.join(self.notes))}}}"]
        return "\n".join([*lines, r"\end{table*}"]) + "\n"

    def _latex_groups(self) -> list[str]:
        """The line of group headings, with a rule below each."""
        if not any(column.group for column in self.columns):
            return []
        spans: list[tuple[str, int, int]] = []
        for index, column in enumerate(self.columns, start=1):
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1], index)
            else:
                spans.append((column.group, index, index))
        heads = [
            rf"\multicolumn{{{last - first + 1}}}{{c}}{{{_escape(group)}}}" if group else "&" * (last - first)
            for group, first, last in spans
        ]
        rules = [rf"\cmidrule(lr){{{first}-{last}}}" for group, first, last in spans if group]
        return [" & ".join(heads) + r" \\", " ".join(rules)]


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def slug(name: str) -> str:
    """For file names: `sit-ti/2[qk_norm=true]` -> `sit-tip2-qk_norm-true`."""
    kept = "".join(
        letter if letter.isalnum() or letter in "-_." else "-" for letter in name.replace("/", "p")
    )
    return "-".join(part for part in kept.split("-") if part)


def markdown_text(text: str) -> str:
    """One line that Markdown shows as it is, whatever a user's names hold: no HTML, link or column."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([`|\\]|(?<=\])[(\[:])", r"\\\1", escaped)


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _s_column(texts: Sequence[str]) -> str:
    """`S[...]` with room for the widest integer part, decimals and spread of these cells."""
    numbers = [text.replace("−", "-").split(" ± ") for text in texts if _NUMBER.match(text)]
    if not numbers:
        return "c"
    signed = "-" if any(mean.startswith("-") for mean, *_ in numbers) else ""
    whole = max(len(mean.lstrip("-").partition(".")[0]) for mean, *_ in numbers)
    decimals = max(len(mean.partition(".")[2]) for mean, *_ in numbers)
    spread = max((len(rest[0].replace(".", "").lstrip("0")) for _, *rest in numbers if rest), default=0)
    room = f"{signed}{whole}.{decimals}" + (
        f"({max(spread, 1)})" if any(rest for _, *rest in numbers) else ""
    )
    return f"S[table-format={room},{_SIUNITX}]"


def _latex_cell(cell: Cell, numeric: bool) -> str:
    if not numeric:
        return _escape(cell.text)
    if not _NUMBER.match(cell.text):
        return f"{{{_escape(cell.text)}}}"
    number = cell.text.replace("−", "-").replace("±", r"\pm")
    if cell.mark == "second":  # siunitx cannot underline what it aligns
        return rf"{{\underline{{\num[{_SIUNITX}]{{{number}}}}}}}"
    return rf"\bfseries {number}" if cell.mark == "best" else number
