"""What a training step is given: records, times, noise and dropped labels, the same for all methods.

The whole batch is drawn, whoever asks; a process that trains on a part of it takes its rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bench.config.spec import RunSpec
from bench.core.seeding import generator
from bench.data.base import Batch, Records
from bench.diffusion.objectives import Process


class Inputs(NamedTuple):
    """A part of a batch, with all that is drawn for it."""

    x0: Tensor  # [b, C, H, W]
    t: Tensor  # [b]
    noise: Tensor  # [b, C, H, W]
    label: Tensor  # [b], after label dropout
    true_label: Tensor  # [b]
    image: Tensor  # [b, C', R, R] uint8
    index: Tensor  # [b], numbers of the records, on the CPU
    step_t: Tensor  # [B], t of the whole batch

    def rows(self, rows: slice) -> Inputs:
        """Some of the part's samples."""
        own = {name: tensor[rows] for name, tensor in self._asdict().items() if name != "step_t"}
        return self._replace(**own)


def draw(
    spec: RunSpec, data: Records, process: Process, step: int, part: slice, batch: Batch, device: torch.device
) -> Inputs:
    """Rows `part` of batch `step` (from 0), read as `batch`, on the device; draws are made on the CPU."""
    seed, size = spec.seed, spec.training.batch_size
    t = process.draw_t(torch.rand(size, generator=generator(seed, "time", step)))
    noise = torch.randn((size, *batch.x0.shape[1:]), generator=generator(seed, "noise", step))
    dropped = torch.rand(size, generator=generator(seed, "label dropout", step)) < spec.training.label_dropout
    label = batch.label.masked_fill(dropped[part], data.classes)
    return Inputs(
        x0=batch.x0.to(device),
        t=t[part].to(device),
        noise=noise[part].to(device),
        label=label.to(device),
        true_label=batch.label.to(device),
        image=batch.image.to(device),
        index=batch.indices,
        step_t=t.to(device),
    )
