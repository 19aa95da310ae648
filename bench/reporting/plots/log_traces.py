"""Curves of the quantities that methods log over training."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.reporting.plots.style import PAGE, cost_axis, legend, looks, paper


def traces(rows: pd.DataFrame, methods: Sequence[str], reference: str) -> Figure:
    """Diagnostics logged by methods (rewards, advantages, gates) over training, one panel per quantity.

    `rows` is what `training_logs` gives. Noise bins, thin, are shown where one method alone logs a quantity;
    the shares of a histogram, `advantage/-1..0`, are stacked, for the first method that logs them.
    """
    look = looks(methods, reference)
    is_share = rows["name"].str.contains("..", regex=False)
    shares, rows = rows[is_share], rows[~is_share]
    names = list(dict.fromkeys(rows["name"])) + list(shares["method"].unique()[:1])
    bins = sorted(set(rows["t"]) - {""})
    shades = dict(zip(bins, plt.get_cmap("viridis")(np.linspace(0.15, 0.9, len(bins))), strict=True))
    columns = min(4, len(names))
    height = -(-len(names) // columns)
    with paper():
        figure, panels = plt.subplots(height, columns, figsize=(PAGE, 0.5 + 1.15 * height), squeeze=False)
        for panel, name in zip(panels.flat, names, strict=False):
            if name in set(shares["method"]):
                _histogram(panel, shares[shares["method"] == name])
                continue
            quantity = rows[rows["name"] == name]
            for (method, t), own in quantity.groupby(["method", "t"], sort=False):
                if t == "":
                    style = {
                        "color": look[method]["color"],
                        "linestyle": look[method]["linestyle"],
                        "lw": 1.3,
                    }
                    panel.plot(own["step"], own["value"], label=method, zorder=3, **style)
                elif quantity["method"].nunique() == 1:
                    panel.plot(own["step"], own["value"], label=f"t in {t}", color=shades[t], lw=0.6)
            panel.set_title(name.replace("_", " "))
            cost_axis(panel, "step")
            panel.set_xlabel("")
        for panel in panels.flat[len(names) :]:
            panel.set_visible(False)
        legend(figure, panels.flat, columns=6)
        figure.supxlabel("training step", fontsize=8)
    return figure


def _histogram(panel: Axes, shares: pd.DataFrame) -> None:
    """Stacked fractions of the bins of a histogram over training; bins are named `NAME/low..high`."""
    table = shares.pivot(index="step", columns="name", values="value")
    names = sorted(map(str, table), key=lambda name: float(name.partition("/")[2].partition("..")[0]))
    what = names[0].partition("/")[0]
    labels = [f"{what} in {name.partition('/')[2]}" for name in names]
    colours = plt.get_cmap("PuOr")(np.linspace(0.1, 0.9, len(labels)))
    panel.stackplot(table.index, table[names].to_numpy().T, labels=labels, colors=colours, lw=0)
    panel.set_title(f"{what} shares")
    panel.set_ylim(0, 1)
    cost_axis(panel, "step")
    panel.set_xlabel("")
