"""Execution of one run from start to end: train, checkpoint, sample, evaluate; resumable.

Several processes may share the work (`bench/core/distributed.py`); the first owns the folder and writes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NoReturn

import torch

from backbones import checkpoints
from bench.config.spec import RunSpec
from bench.core import distributed, machine
from bench.core.errors import TRY_AGAIN, UserError
from bench.core.files import to_numbers
from bench.core.parallel import UNDIVIDED, Parallelism
from bench.core.progress import progress_bar
from bench.evaluation.evaluator import Evaluator, evaluate_kept
from bench.launch.stopping import SIGNALS, Stopped, noted
from bench.runs import gaps
from bench.runs.folder import RunFolder
from bench.runs.formats import Counters, Environment, Parameters, TrainingRow
from bench.runs.lock import RunLock
from bench.runs.trackers import Trackers
from bench.training.trainer import Trainer


def carry_out(
    spec: RunSpec,
    root: Path,
    device: torch.device,
    parallelism: Parallelism,
    evaluate: Literal["here", "separate"],
    track: Sequence[str] = (),
    signals: Mapping[int, int] = SIGNALS,
) -> None:
    """Run a run to its end, with the evaluations that were kept for later. Raises as `Runner.run`."""
    runner = Runner(spec, root, device, parallelism, evaluate, track=track)
    runner.run(signals)
    for step in distributed.broadcast_from_rank0(runner.run_folder.record.kept_steps):
        evaluate_kept(spec, root, step, device)


class Runner:
    """A run and its folder."""

    def __init__(
        self,
        spec: RunSpec,
        root: Path,
        device: torch.device,
        parallelism: Parallelism = UNDIVIDED,
        evaluate: Literal["here", "separate"] = "here",
        when_kept: Callable[[int], None] = lambda step: None,
        track: Sequence[str] = (),
    ) -> None:
        """Open the folder of a run.

        With `evaluate="separate"`, weights are saved for separate evaluation jobs, and `when_kept` is called
        with the step. `track` names the trackers that get a copy of every row. Raises UserError if the folder
        cannot be written.
        """
        self.spec, self.device, self.parallelism, self.evaluate = spec, device, parallelism, evaluate
        self.when_kept, self.track = when_kept, track
        self.run_folder = distributed.broadcast_from_rank0(lambda: RunFolder(root, spec))
        self.lock: RunLock | None = None  # of the first process
        self.trackers: Trackers | None = None
        self.step, self.seconds, self.flops = 0, 0.0, 0

    def run(self, signals: Mapping[int, int] = SIGNALS) -> None:
        """Train to the last step, with all evaluations.

        One of `signals` (number -> STOP or AGAIN) ends the step at hand, saves, and raises Stopped. Raises
        UserError where another process works on this run, the checkpoint is damaged, or the loss diverges,
        the latter with the state before that step saved.
        """
        distributed.broadcast_from_rank0(self._acquire)
        try:
            with noted(signals) as stop_asked:
                self._prepare()
                self.trackers = self._trackers()
                self._train(stop_asked)
        except Exception as error:
            message = _in_one_line(error, self.spec)
            with suppress(OSError):  # on a full disk there is no room for the status either
                if self.lock is None or self.lock.held():
                    self._set_status("failed", message)
            if isinstance(error, torch.OutOfMemoryError | OSError):
                raise UserError(message) from None
            raise
        finally:
            if self.trackers:
                self.trackers.close(failed=self.run_folder.record.status().state == "failed")
            if self.lock:
                self.lock.release()

    def _trackers(self) -> Trackers:
        return Trackers(self.track if distributed.is_first() else (), self.run_folder.record, self.spec)

    def _acquire(self) -> None:
        self.lock = self.run_folder.lock()

    def _prepare(self) -> None:
        """Build the trainer and restore the last checkpoint."""
        self.trainer = Trainer(self.spec, self.device, self.parallelism)
        restored = self.run_folder.load_checkpoint()
        if restored:
            parts, counters = restored
            try:
                self.trainer.load_state(parts)
            except (KeyError, RuntimeError):  # other names or shapes of tensors
                raise UserError(
                    f"the checkpoint of {self.run_folder.folder} was written by another version of the code "
                    "or of the method: move the folder away to train anew."
                ) from None
            self.step, self.seconds, self.flops = counters.step, counters.seconds, counters.flops
            if distributed.is_first():
                self._warn_of_gaps()
        self.evaluator = Evaluator(self.run_folder, self.trainer.data, self.trainer.process, self.device)

    def _warn_of_gaps(self) -> None:
        """Name the rows that are missing before the step at hand; those of later steps are written again."""
        record = self.run_folder.record
        for found in (
            gaps.missing_training(record, self.step),
            gaps.missing_evaluations(record, self.step - 1),
        ):
            if found:
                warnings.warn(f"{self.run_folder.folder}: {found}", stacklevel=2)

    def _train(self, stop_asked: Callable[[], int]) -> None:
        training = self.spec.training
        distributed.broadcast_from_rank0(self._write_environment)
        self._set_status("running")
        for cache in self.trainer.frozen.feature_caches:
            distributed.broadcast_from_rank0(cache.fill)
            if self.step == 0:  # what filling took is part of the cost of every run that uses it
                self.seconds, self.flops = self.seconds + cache.cost[0], self.flops + cache.cost[1]
        if self.step == 0:
            frozen = self.trainer.frozen
            self.seconds, self.flops = self.seconds + frozen.sample_seconds, self.flops + frozen.sample_flops
        bar = progress_bar(training.steps, self.step, self.spec.run_id[:-9], "step")
        with bar:
            while True:
                if self._evaluation_due() and not distributed.broadcast_from_rank0(
                    lambda: self.run_folder.evaluated(self.step)
                ):
                    self._evaluate(stop_asked)
                if self.step == training.steps:
                    break
                self._train_step()
                bar.update()
                if request := distributed.all_reduce_max(stop_asked()):
                    self._save()
                    self._stop(request)
                if self.step % training.checkpoint_every == 0 or self._evaluation_due():
                    self._save()
                    self._set_status("running")
        ema = self.trainer.whole(self.trainer.ema)
        path = self.run_folder.folder / "ema.safetensors"
        distributed.broadcast_from_rank0(lambda: checkpoints.save(path, ema, self.spec.process))
        self._set_status("finished")

    def _stop(self, request: int) -> NoReturn:
        self._set_status("interrupted")
        raise Stopped(request)

    def _set_status(self, state: str, message: str = "") -> None:
        if distributed.is_first():
            self.run_folder.set_status(state, self.step, message)

    def _train_step(self) -> None:
        self.trainer.prepare(self.step)  # not part of the step's time
        start = machine.synchronise(self.device)
        try:
            row = self.trainer.step(self.step)
        except UserError as error:
            self._save()
            message = f"{self.spec.run_id} stopped at step {self.step + 1}: {error}"
            raise UserError(
                f"{message} The state before it is saved in {self.run_folder.checkpoints}."
            ) from None
        duration = machine.synchronise(self.device) - start
        self.step += 1
        self.seconds += duration
        self.flops += self.trainer.flops_per_step
        log = self.step % self.spec.training.log_every == 0 or self.step == 1
        if log and distributed.is_first():
            speed = {
                "seconds": self.seconds,
                "step_seconds": duration,
                "images_per_second": self.spec.training.batch_size / duration,
            }
            written = TrainingRow(step=self.step, **to_numbers(speed), **to_numbers(row))
            self.run_folder.append(written)
            if self.trackers:
                self.trackers.training(written)

    def _counters(self) -> Counters:
        extras = [asdict(extra) for extra in self.trainer.backbone.extras]
        return Counters(step=self.step, seconds=self.seconds, flops=self.flops, extras=extras)

    def _save(self) -> None:
        state = self.trainer.state()

        def write() -> None:
            assert self.lock is not None
            self.lock.check()
            self.run_folder.save_checkpoint(state, self._counters())

        distributed.broadcast_from_rank0(write)

    def _evaluation_due(self) -> bool:
        training = self.spec.training
        return self.step == training.steps or (self.step > 0 and self.step % training.evaluate_every == 0)

    def _evaluate(self, stop_asked: Callable[[], int]) -> None:
        which = "ema" if self.spec.protocol.weights == "ema" else "backbone"
        model = self.trainer.whole(getattr(self.trainer, which))
        if self.evaluate == "separate":
            parts = {which: model.state_dict()}
            distributed.broadcast_from_rank0(lambda: self.run_folder.keep(parts, self._counters()))
            distributed.broadcast_from_rank0(lambda: self.when_kept(self.step))
        elif self.evaluator.evaluate(model, self._counters(), stop_asked=stop_asked) is None:
            # The state is saved; the evaluation starts anew.
            self._stop(distributed.all_reduce_max(stop_asked()))
        if self.trackers:
            self.trackers.evaluations()

    def _write_environment(self) -> None:
        trainer = self.trainer
        parameters = Parameters(
            backbone=sum(parameter.numel() for parameter in trainer.backbone.parameters()),
            method=sum(parameter.numel() for parameter in trainer.method.parameters()),
        )
        self.run_folder.set_environment(
            Environment(
                **machine.describe(self.device),
                devices=distributed.world_size(),
                parameters=parameters,
                records=len(trainer.data),
                teachers=tuple(sorted(trainer.frozen.names)),
            )
        )


def _in_one_line(error: Exception, spec: RunSpec) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"out of GPU memory with {spec.training.batch_size} images a step: hold fewer at once with "
            "--micro-batch N, divide them over more GPUs, or the weights with --shard; no number changes."
        )
    if isinstance(error, OSError):
        return f"{spec.run_id} stopped: {error}. {TRY_AGAIN}"
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]
