"""The batch of a training step: records, times, noise and dropped labels, the same for all methods.

Times, noise and dropped labels are drawn for the whole batch on every process, which keeps its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bench.config.spec import RunSpec
from bench.core.seeding import generator
from bench.data.base import Batch, Records
from bench.diffusion.objectives import Process
from methods.base import Features


@dataclass(frozen=True)
class TrainingBatch:
    """Samples of the batch of a step: records, random numbers, and features of the images."""

    rows: slice  # indices in the whole batch of the b samples here
    x0: Tensor  # [b, C, H, W]
    t: Tensor  # [b]
    noise: Tensor  # [b, C, H, W]
    label: Tensor  # [b], after label dropout
    true_label: Tensor  # [b]
    image: Tensor  # [b, C', R, R] uint8
    indices: Tensor  # [b], numbers of the records, on the CPU
    step_t: Tensor  # [B], t of the whole batch
    features: Mapping[str, Features] = field(default_factory=dict)  # encoder name -> features of image

    @property
    def fraction(self) -> float:
        """Fraction of the whole batch, in (0, 1]."""
        return len(self.x0) / len(self.step_t)

    def on(self, device: torch.device) -> TrainingBatch:
        """The same on a device; the numbers of the records stay on the CPU."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=tensor.is_pinned())

        return self._mapped(moved)

    def pinned(self) -> TrainingBatch:
        """The same in page-locked memory, which a GPU copies while it computes."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> TrainingBatch:
        return replace(
            self,
            x0=function(self.x0),
            t=function(self.t),
            noise=function(self.noise),
            label=function(self.label),
            true_label=function(self.true_label),
            image=function(self.image),
            step_t=function(self.step_t),
        )

    def part(self, rows: slice) -> TrainingBatch:
        """The samples with these indices in the whole batch, which must be here."""
        first = self.rows.start
        own = slice(rows.start - first, rows.stop - first)
        return replace(
            self,
            rows=rows,
            x0=self.x0[own],
            t=self.t[own],
            noise=self.noise[own],
            label=self.label[own],
            true_label=self.true_label[own],
            image=self.image[own],
            indices=self.indices[own],
            features={name: features.rows(own) for name, features in self.features.items()},
        )


def draw_batch(
    spec: RunSpec, data: Records, process: Process, step: int, rows: slice, records: Batch
) -> TrainingBatch:
    """The `rows` of the batch of a step (from 0) with its records; on the CPU, without features."""
    seed, size = spec.seed, spec.training.batch_size
    t = process.draw_t(torch.rand(size, generator=generator(seed, "time", step)))
    noise = torch.randn((size, *records.x0.shape[1:]), generator=generator(seed, "noise", step))
    dropped = torch.rand(size, generator=generator(seed, "label dropout", step)) < spec.training.label_dropout
    label = records.label.masked_fill(dropped[rows], data.classes)
    return TrainingBatch(
        rows=rows,
        x0=records.x0,
        t=t[rows],
        noise=noise[rows],
        label=label,
        true_label=records.label,
        image=records.image,
        indices=records.indices,
        step_t=t,
    )
