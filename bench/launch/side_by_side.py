"""Small runs of a plan side by side: processes of one thread each, one progress bar, one command to stop.

A step of a small network has too little work for several cores; as many runs as there are cores take their
steps at the same time instead. A server that has imported everything forks a process for each run. Which
runs are small, and so run with one thread, depends on the plan alone: not on what is finished already, on
free memory or on speed. So a command that is killed and started again ends with the same numbers.
"""

from __future__ import annotations

import multiprocessing
import os
import selectors
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from bench.config import resolve
from bench.config.spec import RunSpec
from bench.core import distributed, machine, progress
from bench.core.errors import UserError, exit_code
from bench.core.parallel import Parallelism
from bench.data import datasets
from bench.launch import watch
from bench.launch.stopping import STOP, Stopped, noted

SMALL = 2e10  # FLOPs of a training step; a core takes under a second for these
PROCESS = 400 * 2**20  # bytes that a process takes beside what the plan counts
POLL = 0.5  # seconds

_context = multiprocessing.get_context("forkserver")


class Division(NamedTuple):
    """The runs of a plan: those side by side, `at_once` at a time, then those one after the other."""

    beside: tuple[RunSpec, ...]
    after: tuple[RunSpec, ...]
    at_once: int


def divide(specs: Sequence[RunSpec], device: torch.device, parallel_runs: int | Literal["auto"]) -> Division:
    """`auto`: small runs on the CPU, if there are several, as many at once as this process has threads.

    Raises UserError for a number below 1, and for several runs at once on a GPU or in processes of torchrun.
    """
    if parallel_runs == "auto":
        alone = device.type != "cpu" or distributed.is_requested()
        at_once = 1 if alone else torch.get_num_threads()
        beside = [spec for spec in specs if spec.training.steps and _is_small(spec)]
    else:
        at_once, beside = parallel_runs, list(specs)
        if at_once < 1:
            raise UserError(f"--parallel-runs {at_once}: give a number of runs, or auto.")
        if at_once > 1 and (device.type != "cpu" or distributed.is_requested()):
            raise UserError(
                f"--parallel-runs {at_once} is for processes of one CPU thread each: give --device cpu, or "
                "leave it out."
            )
    if at_once == 1 or len(beside) < 2:
        return Division((), tuple(specs), 1)
    chosen = set(beside)
    rest = tuple(spec for spec in specs if spec not in chosen)
    return Division(tuple(beside), rest, at_once)


def _is_small(spec: RunSpec) -> bool:
    """By the backbone alone; a backward costs two forwards."""
    data = datasets.get(spec.data).shape
    forward = resolve.architecture(spec.backbone).flops(data.size, data.channels)  # of one image
    return 3 * forward * spec.training.batch_size < SMALL


def start_server(specs: Iterable[RunSpec]) -> None:
    """Start the server that processes of these runs are forked from; it imports while the plan is made.

    It is not reached by Ctrl-C, and its processes have one thread each.
    """
    data = {f"bench.data.{datasets.get(spec.data).name}" for spec in specs}  # where a module opens them
    threads, interrupt = os.environ.get("OMP_NUM_THREADS"), signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        # torch.optim imports torch._dynamo when the first optimiser is built: a second in each process.
        modules = (__name__, "bench.launch.runner", "torch._dynamo", *sorted(data))
        _context.set_forkserver_preload(list(modules))
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, interrupt)
        del os.environ["OMP_NUM_THREADS"]
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads


class _Worker(NamedTuple):
    """A process at work on a run."""

    spec: RunSpec
    process: BaseProcess
    output: Connection  # what it prints; at its end when the process has ended


class SideBySide:
    """Some runs, and the processes that work on them."""

    def __init__(
        self,
        specs: Sequence[RunSpec],
        root: Path,
        parallelism: Parallelism,
        evaluate: Literal["here", "separate"],
        track: Sequence[str] = (),
    ) -> None:
        self.specs, self.root = specs, root
        self._settings = (parallelism, evaluate, tuple(track))
        self.failed: dict[str, str] = {}  # id of a run -> what was wrong
        self._steps = {spec.run_id: self._look(spec).step for spec in specs}
        self._said: dict[str, RunSpec] = {}  # line -> the run that printed it first
        self._finished = 0

    def run(self, at_once: int) -> dict[str, str]:
        """Carry the runs out, `at_once` at a time, in order; returns those that failed, id -> what was wrong.

        A signal ends all of them at their next step, saved, and raises Stopped; a second Ctrl-C kills them.
        """
        waiting = deque(spec for spec in self.specs if not self._look(spec).done)
        self._finished = len(self.specs) - len(waiting)
        total, done = sum(spec.training.steps for spec in self.specs), sum(self._steps.values())
        workers: list[_Worker] = []
        told = False
        with noted() as asked, progress.progress_bar(total, done, self._title(), "step") as bar:
            self._bar = bar
            try:
                while waiting or workers:
                    if asked() and not told:
                        waiting.clear()
                        for worker in workers:
                            worker.process.terminate()
                        told = True
                    while waiting and len(workers) < at_once:
                        workers.append(self._start(waiting.popleft()))
                    workers = self._attend(workers, stopping=told)
            finally:
                for worker in workers:
                    worker.process.kill()
            if request := asked():
                raise Stopped(request)
        return self.failed

    def _start(self, spec: RunSpec) -> _Worker:
        output, theirs = _context.Pipe(duplex=False)
        arguments = (theirs, spec, self.root, *self._settings)
        process = _context.Process(target=_work, args=arguments, name=spec.readable_id)
        process.start()
        theirs.close()
        return _Worker(spec, process, output)

    def _attend(self, workers: list[_Worker], *, stopping: bool) -> list[_Worker]:
        """Show what the processes print and how far they are; returns those that go on."""
        with selectors.DefaultSelector() as selector:
            for worker in workers:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            ready = [key.data for key, _ in selector.select(POLL)]
        ended = [worker for worker in ready if not self._read(worker)]
        for worker in ended:
            worker.process.join()
            worker.output.close()
            self._conclude(worker.spec, stopping)
        for worker in workers:
            self._advance(worker.spec)
        return [worker for worker in workers if worker not in ended]

    def _read(self, worker: _Worker) -> bool:
        """Show what the process has printed, unless another did before; False at its end."""
        printed = os.read(worker.output.fileno(), 1 << 16)
        for line in printed.decode(errors="replace").splitlines():
            if line.strip() and self._said.setdefault(line, worker.spec) is worker.spec:
                self._bar.write(f"{worker.spec.readable_id}: {line}", file=sys.stderr)
        return bool(printed)

    def _conclude(self, spec: RunSpec, stopping: bool) -> None:
        seen = self._look(spec)
        if seen.done:
            self._finished += 1
            self._bar.write(f"{spec.run_id}: finished, {seen.metric}", file=sys.stderr)
        elif not stopping:
            self.failed[spec.run_id] = seen.message or seen.state
            self._bar.write(f"{spec.run_id}: {seen.state}", file=sys.stderr)
        self._bar.set_description(self._title())

    def _advance(self, spec: RunSpec) -> None:
        now = self._look(spec).step
        if now > self._steps[spec.run_id]:
            self._bar.update(now - self._steps[spec.run_id])
            self._steps[spec.run_id] = now

    def _look(self, spec: RunSpec) -> watch.RunState:
        return watch.poll_run(self.root / spec.run_id, {})

    def _title(self) -> str:
        return f"{self._finished} of {len(self.specs)} runs"


def _work(
    output: Connection,
    spec: RunSpec,
    root: Path,
    parallelism: Parallelism,
    evaluate: Literal["here", "separate"],
    track: tuple[str, ...],
) -> None:
    """One run, in a process of its own: what it prints goes to `output`."""
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    output.close()
    from bench.launch.runner import carry_out  # the server has imported it

    progress.hide()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to hear; it sends SIGTERM
    threading.Thread(target=_end_with_parent, daemon=True).start()
    device, signals = machine.select_device("cpu"), {int(signal.SIGTERM): STOP}

    def carry() -> None:
        with suppress(Stopped):  # for the parent to say, once
            carry_out(spec, root, device, parallelism, evaluate, track, signals)

    sys.exit(exit_code(carry))


def _end_with_parent() -> None:
    """A parent that was killed can send no signal."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
