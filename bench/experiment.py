"""One run from start to end: train, checkpoint, sample, evaluate; continued wherever it was left."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
import torch.nn.functional as F
from torchvision.utils import make_grid, save_image

from backbones import checkpoints
from bench import environment, sample
from bench.errors import UserError
from bench.metrics.features import feature_net
from bench.metrics.reference import reference_of_data
from bench.metrics.scorer import Scorer
from bench.progress import progress_bar
from bench.spec import RunSpec
from bench.store import Run, write_json
from bench.train import Trainer, synchronise, to_numbers

GRID_ROWS, GRID_COLUMNS = 4, 10  # of the sample grid; the same noise in the same place for all methods


class Experiment:
    """A run and its folder."""

    def __init__(self, spec: RunSpec, root: Path, device: torch.device) -> None:
        """Open the run's folder and restore its last checkpoint. Raises UserError where that is damaged."""
        self.spec, self.device = spec, device
        self.run = Run(root, spec)
        self.trainer = Trainer(spec, device)
        self.step, self.seconds, self.flops = 0, 0.0, 0
        restored = self.run.load_checkpoint()
        if restored:
            parts, counters = restored
            self.trainer.load_state(parts)
            self.step, self.seconds, self.flops = counters["step"], counters["seconds"], counters["flops"]
        self._scorer: Scorer | None = None

    def complete(self) -> None:
        """Train to the last step, evaluating on the way.

        A SIGINT or SIGTERM ends the step at hand, saves, and raises KeyboardInterrupt. Raises UserError
        where the loss diverges, with the state before that step saved.
        """
        training = self.spec.training
        self._write_environment()
        self.run.set_status("running", self.step)
        for cache in self.trainer.feature_caches:
            cache.fill()
            if self.step == 0:  # what filling took is part of the cost of every run that uses it
                self.seconds, self.flops = self.seconds + cache.cost[0], self.flops + cache.cost[1]
        bar = progress_bar(training.steps, self.step, self.spec.run_id[:-9], "step")
        with _stop_asked() as stop_asked, bar:
            while True:
                if self._evaluation_due() and not self.run.evaluated(self.step):
                    self._evaluate(stop_asked)
                if self.step == training.steps:
                    break
                self._train_step()
                bar.update()
                if stop_asked():
                    self._save()
                    self._interrupt()
                if self.step % training.checkpoint_every == 0 or self._evaluation_due():
                    self._save()
                    self.run.set_status("running", self.step)
        checkpoints.save(self.run.folder / "ema.safetensors", self.trainer.ema)
        self.run.set_status("finished", self.step)

    def _interrupt(self) -> NoReturn:
        self.run.set_status("interrupted", self.step)
        raise KeyboardInterrupt

    def _train_step(self) -> None:
        self.trainer.prepare(self.step)  # not part of the step's time
        start = synchronise(self.device)
        try:
            row = self.trainer.step(self.step)
        except UserError as error:
            self._save()
            message = f"{self.spec.run_id} stopped at step {self.step + 1}: {error}"
            self.run.set_status("failed", self.step, message)
            raise UserError(f"{message} The state before it is saved in {self.run.checkpoints}.") from None
        duration = synchronise(self.device) - start
        self.step += 1
        self.seconds += duration
        self.flops += self.trainer.flops_per_step
        if self.step % self.spec.training.log_every == 0 or self.step == 1:
            speed = {
                "seconds": self.seconds,
                "step_seconds": duration,
                "images_per_second": self.spec.training.batch_size / duration,
            }
            self.run.append("train", {"step": self.step, **to_numbers(speed), **to_numbers(row)})

    def _save(self) -> None:
        counters = {"seconds": self.seconds, "flops": self.flops}
        self.run.save_checkpoint(self.step, self.trainer.state(), {**counters, "step": self.step})

    def _evaluation_due(self) -> bool:
        training = self.spec.training
        return self.step == training.steps or (self.step > 0 and self.step % training.evaluate_every == 0)

    def _evaluate(self, stop_asked: Callable[[], bool]) -> None:
        protocol, trainer = self.spec.protocol, self.trainer
        model = trainer.ema if protocol.weights == "ema" else trainer.backbone
        start = synchronise(self.device)
        if self._scorer is None:
            nets = [feature_net(name, self.device) for name in protocol.feature_nets]
            reference = reference_of_data(self.spec.data, trainer.data, nets)
            self._scorer = Scorer(nets, reference, neighbours=protocol.neighbours)
        scorer = self._scorer
        scorer.reset()
        index = torch.arange(protocol.samples)
        progress = f"sampling at step {self.step}"
        samples_of = sample.stream(model, trainer.process, self.spec, trainer.data, index, progress=progress)
        first = []
        for samples in samples_of:
            if stop_asked():
                self._interrupt()  # the state is saved; the evaluation starts anew
            scorer.update(samples.images, samples.labels)
            if sum(map(len, first)) < GRID_ROWS * GRID_COLUMNS:
                first.append(samples.images)
        save_grid(torch.cat(first), self.run.samples / f"step-{self.step:08d}.png")
        row = {
            "step": self.step,
            "seconds": self.seconds,
            "flops": self.flops,
            "samples": protocol.samples,
            "protocol": protocol.hash,
            "guidance_scale": protocol.guidance_scale,
            "guidance_interval": protocol.guidance_interval,
            "weights": protocol.weights,
            "leaky": self.spec.leaky,
            "metrics": to_numbers(scorer.results()),
            "evaluation_seconds": synchronise(self.device) - start,
        }
        self.run.append("eval", row)

    def _write_environment(self) -> None:
        trainer = self.trainer
        counts = {
            "backbone": sum(parameter.numel() for parameter in trainer.backbone.parameters()),
            "method": sum(parameter.numel() for parameter in trainer.method.parameters()),
        }
        write_json(self.run.folder / "env.json", environment.describe(self.device) | {"parameters": counts})


def save_grid(images: torch.Tensor, path: Path) -> None:
    """The first samples [B, C, R, R] uint8 as one PNG; small images are enlarged to show their pixels."""
    size = images.shape[-1] * max(1, 48 // images.shape[-1])
    shown = F.interpolate(images[: GRID_ROWS * GRID_COLUMNS], size=size, mode="nearest")
    save_image(make_grid(shown.float() / 255, nrow=GRID_COLUMNS, padding=2, pad_value=1.0), path)


@contextmanager
def _stop_asked() -> Iterator[Callable[[], bool]]:
    """While inside: SIGINT and SIGTERM are noted, so that no step is cut in two; a second one interrupts."""
    asked: list[int] = []

    def note(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
