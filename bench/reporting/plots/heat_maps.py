"""Heat maps of a probed run: every measure by depth and noise level."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from bench.reporting.plots.style import PAGE, paper
from bench.runs.formats import ProbeRow

TITLES = {  # measure -> heat map
    "cknna": "CKNNA, k = 10",
    "cka": "CKA",
    "linear_probe": "linear probe accuracy",
    "token_cosine": "cosine to teacher tokens",
    "local_vs_distant": "local minus distant similarity",
    "effective_rank": "effective rank",
}


def draw(rows: Sequence[ProbeRow]) -> Figure:
    """A panel a measure: depth upwards, noise level to the right."""
    table = pd.DataFrame([row.fields() for row in rows])
    with paper():
        figure, panels = plt.subplots(2, 3, figsize=(PAGE, 0.5 * PAGE), sharex=True, sharey=True)
        for panel, (measure, title) in zip(panels.flat, TITLES.items(), strict=True):
            values = table.pivot(index="depth", columns="t", values=measure)
            image = panel.imshow(values, origin="lower", aspect="auto", cmap="viridis")
            panel.set_title(title)
            panel.set_xticks(range(len(values.columns)), [f"{t:g}" for t in values.columns])
            every = max(1, len(values.index) // 8)
            panel.set_yticks(range(0, len(values.index), every), values.index[::every])
            panel.grid(visible=False)
            figure.colorbar(image, ax=panel)
        figure.supxlabel("t: 0 data, 1 noise", fontsize=8)
        figure.supylabel("after block", fontsize=8)
    return figure
