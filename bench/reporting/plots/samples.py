"""Plot of samples of all methods from the same noise."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from bench.reporting.comparison import Comparison
from bench.reporting.plots.style import PAGE, on_lines, paper
from bench.runs import sample_grid

REAL_IMAGES = "real images"


def sample_rows(comparison: Comparison, backbone: str, seed: int) -> Figure:
    """A row per method, a column per noise and label, below a row of real images of these labels.

    The backbone must have samples of this seed.
    """
    strips = sample_strips(comparison, backbone, seed)
    entries = [entry for entry in comparison.entries if entry.backbone == backbone]
    unfinished = {entry.method for entry in entries if entry.final.empty}
    height, width = strips[0][1].shape[:2]
    for letters in (24, 36, 48):  # of a line; the fewest with which the rows are as high as the names
        names = [on_lines(name, letters) + "\n(unfinished)" * (name in unfinished) for name, _ in strips]
        lines = [name.split("\n") for name in names]
        label = 0.1 + 0.05 * max(len(line) for own in lines for line in own)  # inches, for the names
        strip = (PAGE - label) * height / width
        if 0.12 * max(map(len, lines)) <= strip:
            break
    with paper():
        size = (PAGE, len(strips) * (strip + 0.02))
        figure, panels = plt.subplots(len(strips), 1, figsize=size, squeeze=False, layout="none")
        figure.subplots_adjust(left=label / PAGE, right=1, top=1, bottom=0, hspace=0.02 / strip)
        for panel, name, (_, image) in zip(panels.flat, names, strips, strict=True):
            panel.imshow(image, interpolation="nearest", aspect="auto")
            panel.axis("off")
            panel.text(-0.01, 0.5, name, transform=panel.transAxes, ha="right", va="center", fontsize=6.5)
    return figure


def sample_strips(comparison: Comparison, backbone: str, seed: int) -> list[tuple[str, np.ndarray]]:
    """Name and row of images [H, W, 3]: real ones if runs saved some, then the first row of the last sample
    grid of every method; nothing if no method has samples.
    """
    strips: list[tuple[str, np.ndarray]] = []
    for entry in comparison.entries:
        runs = entry.runs[entry.runs["seed"] == seed]
        if entry.backbone != backbone or runs.empty:
            continue
        folder = comparison.results.folder / runs["run"].iloc[0] / "samples"
        if not strips and (folder / sample_grid.REAL).is_file():
            strips.append((REAL_IMAGES, _first_row(folder / sample_grid.REAL)))
        grids = sorted(folder.glob("step-*.png"))
        if grids:
            strips.append((entry.method, _first_row(grids[-1])))
    return strips if any(name != REAL_IMAGES for name, _ in strips) else []


def _first_row(path: Path) -> np.ndarray:
    return sample_grid.first_row(np.asarray(Image.open(path).convert("RGB")))
