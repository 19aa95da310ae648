"""The job on the compute node. A job is one run; started again, it continues from the last checkpoint.

signal before the time limit, or preemption   saves, requeues itself by submitit's protocol, continues later
SIGTERM (scancel, scontrol requeue)           saves and ends; Slurm decides whether it is queued again
SIGKILL, node failure                         work since the last periodic checkpoint is lost
UserError (NaN, bad data), or a bug           the run is marked as failed and not queued again
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.core.errors import UserError

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

    from bench.config.spec import RunSpec

GRACE = 3  # seconds; after SIGTERM some clusters send the signal that asks to be queued again
PATIENCE = 3  # turns without a single step, after which a run is given up


@dataclass
class Job:
    """A run, or one evaluation of it, as a callable that submitit can store."""

    spec: str  # JSON
    root: str
    device: str
    micro_batch: int
    shard: bool
    evaluate: Literal["here", "separate"]
    revision: str  # of the code, when the job was submitted
    track: tuple[str, ...] = ()
    kept: int | None = None  # the step to evaluate; None trains
    turns_without_progress: int = 0
    first_step: int = 0  # of this turn
    recompute: bool = False

    def run_spec(self) -> RunSpec:
        from bench.config.spec import RunSpec

        return RunSpec.model_validate_json(self.spec)

    def __call__(self) -> None:
        """Run to the end or until a signal. Raises UserError if the run cannot be completed."""
        from bench.core import distributed, machine
        from bench.launch.stopping import AGAIN, STOP, Stopped

        again = getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"))
        _meet()
        self._compare_revisions()
        try:
            with distributed.process_group(self.device):
                device = machine.select_device(self.device)
                self._work(device, {signal.SIGINT: STOP, signal.SIGTERM: STOP, again: AGAIN})
        except Stopped as stopped:
            if stopped.request == AGAIN:
                signal.raise_signal(again)  # submitit's handler: `checkpoint`, requeue, exit
                sys.exit(0)  # of the other processes of this job
            time.sleep(GRACE)
            sys.exit(128 + signal.SIGTERM)

    def _work(self, device: Any, signals: dict[int, int]) -> None:
        from bench.core.parallel import Parallelism
        from bench.evaluation.evaluator import evaluate_kept
        from bench.launch.runner import Runner

        spec, root = self.run_spec(), Path(self.root)
        if self.kept is not None:
            evaluate_kept(spec, root, self.kept, device)
            return
        parallelism = Parallelism(self.micro_batch, self.shard, self.recompute)
        runner = Runner(spec, root, device, parallelism, self.evaluate, self._start_evaluation, self.track)
        self.first_step = runner.run_folder.record.status().step
        runner.run(signals)

    def _start_evaluation(self, step: int) -> None:
        """Let the evaluation of a step start as soon as its weights are saved, before the end of training."""
        from bench.launch import slurm, watch
        from bench.runs.folder import RunFolder

        spec = self.run_spec()
        jobs = watch.description(RunFolder(Path(self.root), spec).folder).get("evaluations", [])
        if jobs:
            slurm.release(jobs[spec.training.evaluation_steps.index(step)])

    def checkpoint(self) -> DelayedSubmission | None:
        """submitit's protocol: the job to queue again, or None to give up; the state is saved before."""
        from submitit.core.utils import DelayedSubmission

        from bench.runs.folder import RunFolder

        run = RunFolder(Path(self.root), self.run_spec())
        step = run.record.status().step
        self.turns_without_progress = 0 if step > self.first_step else self.turns_without_progress + 1
        if self.kept is None and self.turns_without_progress >= PATIENCE:
            message = (
                f"{PATIENCE} turns in a row ended without a step: a turn is too short for a step or an "
                "evaluation; raise --hours."
            )
            run.set_status("failed", step, message)
            return None
        return DelayedSubmission(self)

    def _compare_revisions(self) -> None:
        from bench.core import machine

        now = machine.revision()
        if now != self.revision:
            print(
                f"warning: the code has changed since this job was submitted: {self.revision or 'unknown'} "
                f"then, {now or 'unknown'} now.",
                file=sys.stderr,
            )


def _meet() -> None:
    """Set the environment of torch.distributed for the processes of this job."""
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    environment = JobEnvironment()
    if environment.num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if environment.num_nodes == 1:
            os.environ["MASTER_ADDR"] = "127.0.0.1"  # names of nodes need not resolve


def describe(number: str, launcher: str, logs: Path, job: Job) -> dict[str, Any]:
    """The record of a submitted job in the run folder: where it runs, and how to resubmit it."""
    where = {"id": number, "launcher": launcher, "host": socket.gethostname(), "logs": str(logs)}
    return where | {"submitted": time.time(), "job": asdict(job)}


def reset(description: dict[str, Any]) -> Job:
    """The job of such a record, as first submitted. Raises UserError for one of another version."""
    try:
        return Job(**description["job"] | {"turns_without_progress": 0, "first_step": 0})
    except (KeyError, TypeError):
        raise UserError("the job was submitted by another version: start it with bench.run.") from None
