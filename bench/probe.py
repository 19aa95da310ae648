"""Probe the hidden states of a run by depth and noise level: python -m bench.probe results/quickstart/RUN

Hidden states after every block, at several times t (0 data, 1 noise), are compared with a frozen encoder's
features of the clean images. The network is given the null class, so that a linear probe cannot read the
label off its input. Images are training records; probes are evaluated on images held out from their fit.
Writes probe.jsonl, probe.png and probe.pdf (heat maps) to the run's folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from bench.core.cli import Device, OptionalStr, parse
from bench.core.errors import UserError, exit_code
from bench.core.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bench.runs.record import ProbeRow

TITLES = {  # measure -> heat map
    "cknna": "CKNNA, k = 10",
    "cka": "CKA",
    "linear_probe": "linear probe accuracy",
    "token_cosine": "cosine to teacher tokens",
    "local_vs_distant": "local minus distant similarity",
    "effective_rank": "effective rank",
}


@dataclass(frozen=True)
class Options:
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """the folder of a run with a checkpoint"""
    encoder: OptionalStr = None
    """encoder that hidden states are compared with; by default the teacher of the run"""
    times: tuple[float, ...] = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
    """noise levels"""
    images: int = 1000
    """number of training records"""
    device: Device = "auto"


def main() -> None:
    """Probe a run; write the rows and the heat maps."""
    options = parse(Options, __doc__)

    from bench.core import machine
    from bench.evaluation.probing import probe
    from bench.reporting.plots import style
    from bench.runs import loading

    run = loading.load(options.run, machine.select_device(options.device))
    rows = probe(run, options.times, options.images, options.encoder)
    try:
        write_text(run.folder / "probe.jsonl", "".join(json.dumps(row.fields()) + "\n" for row in rows))
        style.save(heat_maps(rows), run.folder / "probe.pdf", run.folder / "probe.png")
    except OSError as error:
        raise UserError(f"cannot write to {run.folder}: {error.strerror or error}.") from None
    print(f"{len(rows)} rows in {run.folder / 'probe.jsonl'}, heat maps in {run.folder / 'probe.png'}")


def heat_maps(rows: Sequence[ProbeRow]) -> Figure:
    """A panel a measure: depth upwards, noise level to the right."""
    import matplotlib.pyplot as plt
    import pandas as pd

    from bench.reporting.plots.style import PAGE, paper

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


if __name__ == "__main__":
    sys.exit(exit_code(main))
