"""Samples of all methods, from the same noise."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from bench.reporting.comparison import Comparison, Entry
from bench.reporting.plots.style import PAGE, on_lines, paper
from bench.runs.sample_grid import first_row


def sample_rows(comparison: Comparison, backbone: str, seed: int) -> Figure:
    """One row per method, one column per noise and label; the backbone must have samples of this seed."""
    strips = sample_strips(comparison, backbone, seed)
    height, width = strips[0][1].shape[:2]
    with paper():
        label = 1.3  # inches, for the method's name
        strip = (PAGE - label) * height / width
        size = (PAGE, len(strips) * (strip + 0.02))
        figure, panels = plt.subplots(len(strips), 1, figsize=size, squeeze=False, layout="none")
        figure.subplots_adjust(left=label / PAGE, right=1, top=1, bottom=0, hspace=0.02 / strip)
        for panel, (entry, image) in zip(panels.flat, strips, strict=True):
            panel.imshow(image, interpolation="nearest", aspect="auto")
            panel.axis("off")
            name = on_lines(entry.method, 24) + ("\n(unfinished)" if entry.final.empty else "")
            panel.text(-0.01, 0.5, name, transform=panel.transAxes, ha="right", va="center", fontsize=6.5)
    return figure


def sample_strips(comparison: Comparison, backbone: str, seed: int) -> list[tuple[Entry, np.ndarray]]:
    """The first row [H, W, 3] of the last sample grid of every entry on a backbone."""
    strips = []
    for entry in comparison.entries:
        runs = entry.runs[entry.runs["seed"] == seed]
        if entry.backbone != backbone or runs.empty:
            continue
        grids = sorted((comparison.results.folder / runs["run"].iloc[0] / "samples").glob("step-*.png"))
        if grids:
            strips.append((entry, first_row(np.asarray(Image.open(grids[-1]).convert("RGB")))))
    return strips
