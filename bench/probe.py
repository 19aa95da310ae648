"""Probe the hidden states of a run by depth and noise level: python -m bench.probe results/quickstart/RUN

Hidden states after every block, at several times t (0 data, 1 noise), are compared with a frozen encoder's
features of the clean images. The network is given the null class, so that a linear probe cannot read the
label off its input. Images are training records; probes are evaluated on images held out from their fit.
Writes probe.jsonl, probe.png and probe.pdf (heat maps) to the run's folder.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bench.core.cli import Device, OptionalStr, parse
from bench.core.errors import UserError, exit_code
from bench.core.files import write_text


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
    from bench.evaluation.probing import probe_run
    from bench.reporting.plots import heat_maps, style

    folder, device = options.run, machine.select_device(options.device)
    rows = probe_run(folder, device, options.times, options.images, options.encoder)
    try:
        write_text(folder / "probe.jsonl", "".join(json.dumps(row.fields()) + "\n" for row in rows))
        style.save(heat_maps.draw(rows), folder / "probe.pdf", folder / "probe.png")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}.") from None
    print(f"{len(rows)} rows in {folder / 'probe.jsonl'}, heat maps in {folder / 'probe.png'}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
