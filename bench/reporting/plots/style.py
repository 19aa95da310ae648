"""Common style of all figures: sizes, colours, markers, axes, and saving to PDF and PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only, also where there is no display

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

COLUMN, PAGE = 3.3, 6.9  # inches: one column, both columns
REFERENCE = "#4d4d4d"
# Okabe and Ito 2008, told apart with any colour vision; yellow is left out, it is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("s", "^", "D", "v", "P", "X", "p", "h")
COST_LABELS = {"step": "training step", "seconds": "training time (s)", "flops": "training FLOPs"}


@contextmanager
def paper() -> Iterator[None]:
    """Context in which figures use `paper.mplstyle`."""
    with plt.style.context(Path(__file__).with_name("paper.mplstyle")):
        yield


def save(figure: Figure, *paths: Path) -> None:
    """Save a figure in the formats of the suffixes (pdf, png); equal results give equal files."""
    engine = figure.get_layout_engine()
    with paper():
        if engine is not None:
            engine.execute(figure)  # once, not for every format
        with plt.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)
            for path in paths:
                changing = "CreationDate" if path.suffix == ".pdf" else "Software"
                # Drawn in memory: where a disk fails, matplotlib's PDF writer hides why.
                drawn = io.BytesIO()
                figure.savefig(drawn, format=path.suffix[1:], metadata={changing: None})
                path.write_bytes(drawn.getvalue())
    plt.close(figure)


def looks(methods: Sequence[str], reference: str) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of every method, the same in all figures; the reference is grey and dashed."""
    others = sorted((method for method in methods if method != reference), key=lambda method: "[" in method)
    found = {
        method: {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": ("-", "-.", ":")[index // len(COLOURS) % 3],
        }
        for index, method in enumerate(others)
    }
    return {reference: {"color": REFERENCE, "marker": "o", "linestyle": "--"}} | found


def on_lines(text: str, width: int) -> str:
    """A method's name, or words with one, on lines of about `width` letters.

    Broken behind spaces and commas; options that are longer than a line, behind "=".
    """
    lines = [""]
    for option in text.replace(",", ",\n").replace(" ", " \n").split("\n"):
        for part in option.replace("=", "=\n").split("\n") if len(option) > width else [option]:
            if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def x_label(figure: Figure, text: str) -> None:
    """A label below all panels, on as many lines as it needs; the figure grows by further ones."""
    label = on_lines(text, int(figure.get_figwidth() / 0.065))
    figure.set_figheight(figure.get_figheight() + 0.17 * label.count("\n"))
    figure.supxlabel(label, fontsize=8)


def row_height(names: Sequence[str]) -> float:
    """Inches that a row needs for the name with the most lines."""
    return 0.02 + 0.15 * max((name.count("\n") + 1 for name in names), default=1)


def name_rows(panel: Axes, names: Sequence[str]) -> None:
    """Names on a y axis, at places 0, 1, ... from the top."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="y", visible=False)


def distance_axis(panel: Axes, values: Iterable[float]) -> None:
    """A logarithmic y axis with plain numbers, if the values span a sufficient range."""
    positive = [value for value in values if value > 0]
    if not positive or max(positive) < 2.5 * min(positive):
        return
    span = max(positive) / min(positive)
    steps = {300: (1,), 30: (1, 3), 8: (1, 2, 5), 0: (1, 1.5, 2, 3, 4, 5, 7)}  # for spans above so much
    ticks = next(found for least, found in steps.items() if span > least)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=ticks))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def cost_axis(panel: Axes, cost: str) -> None:
    """A linear x axis from zero in steps, seconds or FLOPs: `400k`, `2E`."""
    panel.set_xlabel(COST_LABELS[cost])
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter(EngFormatter(sep="\N{THIN SPACE}" if cost == "flops" else ""))
    panel.locator_params(axis="x", nbins=5)


def legend(figure: Figure, panels: Iterable[Axes], columns: int = 5) -> None:
    """One legend for all panels, above them, in at most so many columns as the figure has room for.

    The figure grows by what a long one takes.
    """
    handles: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = [on_lines(label, int((figure.get_figwidth() - 0.6) / 0.06)) for label in handles]
    while columns > 1 and _legend_width(labels, columns) > figure.get_figwidth():
        columns -= 1
    rows = max(1, -(-len(labels) // columns))
    columns = max(1, -(-len(labels) // rows))
    lines = [
        sum(1.2 * label.count("\n") + 1 for label in labels[i : i + rows])
        for i in range(0, len(labels), rows)
    ]
    figure.set_figheight(figure.get_figheight() + 0.17 * max(0, max(lines, default=0) - 3))
    figure.legend(list(handles.values()), labels, loc="outside upper center", ncols=columns)


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """In inches, of labels that fill column after column: about 0.06 a letter, and 0.4 for their signs."""
    rows = max(1, -(-len(labels) // columns))
    longest = [max(map(len, labels[start : start + rows])) for start in range(0, len(labels), rows)]
    return sum(0.4 + 0.06 * letters for letters in longest)
