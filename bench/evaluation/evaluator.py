"""One evaluation of a run: sample by its protocol, judge, write a row. By all processes of a run together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.utils import make_grid, save_image

from bench.config.spec import RunSpec
from bench.core import distributed
from bench.core.files import to_numbers
from bench.data.base import Records
from bench.diffusion.objectives import Process
from bench.evaluation import sampling
from bench.evaluation.reference import reference_of_data
from bench.evaluation.scorer import Scorer
from bench.nets.judges import feature_net
from bench.runs import loading
from bench.runs.folder import RunFolder
from bench.training.trainer import synchronise

GRID_ROWS, GRID_COLUMNS = 4, 10  # of the sample grid; the same noise in the same place for all methods


class Evaluation:
    """What evaluations of one run share: the nets that judge and what they know of the reference."""

    def __init__(
        self,
        spec: RunSpec,
        run: RunFolder,
        data: Records,
        process: Process,
        device: torch.device,
        rows: str = "eval",
    ) -> None:
        """`rows` names the file that rows go to, `ROWS.jsonl`."""
        self.spec, self.run, self.data, self.process, self.device = spec, run, data, process, device
        self.rows = rows
        self._scorer: Scorer | None = None

    def make(
        self, model: nn.Module, counters: Mapping[str, Any], stop_asked: Callable[[], int] = lambda: 0
    ) -> int:
        """Sample and judge `model` at the step of `counters` (step, seconds, flops), and write the row.

        Process r of W samples numbers r, r + W, ... Returns 0, or what was asked of any process before the
        row could be written.
        """
        protocol, step = self.spec.protocol, counters["step"]
        start = synchronise(self.device)
        scorer = self._ready_scorer()
        index = torch.arange(protocol.samples)[distributed.rank() :: distributed.count()]
        progress = f"sampling at step {step}" if distributed.is_first() else ""
        shown: dict[int, torch.Tensor] = {}  # number -> image, of the grid
        for samples in sampling.stream(model, self.process, self.spec, self.data, index, progress=progress):
            if stop_asked():
                break
            scorer.update(samples.images, samples.labels, samples.index)
            pairs = zip(samples.index.tolist(), samples.images, strict=True)
            shown |= {number: image for number, image in pairs if number < GRID_ROWS * GRID_COLUMNS}
        if request := distributed.highest(stop_asked()):
            return request
        if distributed.count() > 1:
            scorer.gather()
            shown = {number: image for part in distributed.everyones(shown) for number, image in part.items()}
        if distributed.is_first():
            grid = torch.stack([shown[number] for number in sorted(shown)])
            save_grid(grid, self.run.samples / f"step-{step:08d}.png")
            row = {
                "step": step,
                "seconds": counters["seconds"],
                "flops": counters["flops"],
                "samples": protocol.samples,
                "protocol": protocol.hash,
                "guidance_scale": protocol.guidance_scale,
                "guidance_interval": protocol.guidance_interval,
                "weights": protocol.weights,
                "leaky": self.spec.leaky,
                "metrics": to_numbers(scorer.results()),
                "evaluation_seconds": synchronise(self.device) - start,
            }
            self.run.append(self.rows, row)
        return 0

    def _ready_scorer(self) -> Scorer:
        if self._scorer is None:
            nets = [feature_net(name, self.device) for name in self.spec.protocol.feature_nets]
            reference = reference_of_data(self.spec.data, self.data, nets)
            self._scorer = Scorer(nets, reference, neighbours=self.spec.protocol.neighbours)
        self._scorer.reset()
        return self._scorer


def make_kept(spec: RunSpec, root: Path, step: int, device: torch.device) -> None:
    """Evaluate the weights that training kept of a step; beside other processes that do so for other steps.

    Raises UserError where nothing was kept of that step.
    """
    run = RunFolder(root, spec)
    if not run.evaluated(step):
        found = loading.load(run.folder, device, kept=step)
        counters = {"step": found.step, "seconds": found.seconds, "flops": found.flops}
        rows = f"eval.step-{step:08d}"  # a file of its own: appending is safe for one writer
        Evaluation(spec, run, found.data, found.process, device, rows).make(found.model, counters)
    if distributed.is_first():
        run.forget(step)


def save_grid(images: torch.Tensor, path: Path) -> None:
    """The first samples [B, C, R, R] uint8 as one PNG; small images are enlarged to show their pixels."""
    size = images.shape[-1] * max(1, 48 // images.shape[-1])
    shown = F.interpolate(images[: GRID_ROWS * GRID_COLUMNS], size=size, mode="nearest")
    save_image(make_grid(shown.float() / 255, nrow=GRID_COLUMNS, padding=2, pad_value=1.0), path)
