"""A run's rows in experiment trackers, TensorBoard and Weights & Biases. The run folder stays the record.

Every row is sent with its step. After a kill, training repeats the steps since the last checkpoint and writes
their rows again, with equal losses; the session after a kill therefore sends only steps beyond those on disk.
After an orderly end it sends whatever the tracker lacks, such as the rows of a session without it. A tracker
that fails is dropped with one warning.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.config.spec import RunSpec
from bench.core.errors import UserError
from bench.core.files import read_json, write_json
from bench.runs import sample_grid
from bench.runs.formats import EvaluationRow, TrackerState, TrainingRow
from bench.runs.lock import RunLock
from bench.runs.record import RunRecord

FILE = "trackers.json"  # of a run folder: name -> TrackerState
LATE = 300.0  # seconds that an evaluation waits for another process to close the trackers
WAIT = 30.0  # seconds for the W&B server to answer at the start; four times that at the end


def usable(names: Sequence[str]) -> tuple[str, ...]:
    """The trackers asked for, each once. Raises UserError for a missing package, or `none` with others."""
    chosen = tuple(dict.fromkeys(names))
    if "none" in chosen and len(chosen) > 1:
        raise UserError("--track none goes with no other tracker: leave one of them out.")
    chosen = tuple(name for name in chosen if name != "none")
    for name in chosen:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--track {name} needs a package that is not installed: pip install 'alignment-bench[{name}]'"
            )
    return chosen


class Tracker(Protocol):
    """What a tracker does."""

    def log(self, step: int, values: Mapping[str, float], images: Path | None) -> None:
        """Take the values of a step, in any order of steps, and perhaps a PNG."""

    def close(self, failed: bool) -> None:
        """Send what is left."""


class Trackers:
    """The trackers of one run, in one session of its first process."""

    def __init__(self, names: Sequence[str], run: RunRecord, spec: RunSpec) -> None:
        """Open them, and send the rows on disk that they lack. No fault of a tracker raises."""
        self.run = run
        self.open: dict[str, _Copy] = {}
        for name in names:
            self._try(name, lambda name=name: self._start(name, spec))

    def training(self, row: TrainingRow) -> None:
        """Send a row that was just written."""
        for name, copy in list(self.open.items()):
            self._try(name, lambda copy=copy: copy.training(row))

    def evaluations(self) -> None:
        """Send the rows of evaluations that were written since."""
        for name, copy in list(self.open.items()):
            self._try(name, lambda copy=copy: copy.evaluations())

    def close(self, failed: bool = False) -> None:
        """Send what is left, and end this session."""
        self.evaluations()
        for name, copy in list(self.open.items()):
            self._try(name, lambda copy=copy: copy.close(failed))
        self.open.clear()

    def _start(self, name: str, spec: RunSpec) -> None:
        copy = self.open[name] = _Copy(name, self.run, spec)
        copy.catch_up()

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a foreign library or its server comes up with
            self.open.pop(name, None)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"{name} gets no more rows of {self.run.folder.name}: {reason}. The run goes on, and its "
                "folder has every row.",
                stacklevel=2,
            )


def send_late(run: RunRecord, spec: RunSpec) -> None:
    """Send the evaluations of a finished run that another process than training has made to its trackers.

    Of a run that goes on, training sends them. While another process sends, this one waits for it.
    """
    names = [name for name in read_json(run.folder / FILE) if importlib.util.find_spec(name)]
    if not names or not run.status().finished:
        return
    lock, deadline = RunLock(run.folder), time.monotonic() + LATE
    while True:
        try:
            lock.acquire()
            break
        except UserError as error:
            if time.monotonic() > deadline:
                warnings.warn(f"{', '.join(names)} got no rows: {error}", stacklevel=2)
                return
            time.sleep(0.5)
    try:
        Trackers(names, run, spec).close()
    finally:
        lock.release()


class _Copy:
    """A run in one tracker, and which of its rows are there."""

    def __init__(self, name: str, run: RunRecord, spec: RunSpec) -> None:
        self.name, self.run = name, run
        self.protocol = spec.protocol.hash
        found = read_json(run.folder / FILE).get(name) or {"id": secrets.token_hex(4), "trained": 0}
        self.state = TrackerState.model_validate(found)
        on_disk = max((row.step for row in run.training()), default=0)
        self.trained = on_disk if self.state.trained is None else self.state.trained
        self.tracker: Tracker = _KINDS[name](run.folder, spec, self.state.id)
        self._save(trained=None)

    def catch_up(self) -> None:
        """Send the rows on disk that are not there yet."""
        for row in sorted(self.run.training(), key=lambda row: row.step):
            self.training(row)
        self.evaluations()

    def training(self, row: TrainingRow) -> None:
        if row.step > self.trained:
            self.trained = row.step
            self.tracker.log(row.step, _values(row), None)

    def evaluations(self) -> None:
        for row in self.run.evaluations():
            if row.protocol != self.protocol:
                if (row.step, row.protocol) not in self.state.others:
                    self._save(others=(*self.state.others, (row.step, row.protocol)))
                    self.tracker.log(row.step, _metrics(row, f"metrics-{row.protocol}"), None)
            elif row.step not in self.state.evaluated:
                grid = self.run.folder / "samples" / sample_grid.name(row.step)
                self._save(evaluated=(*self.state.evaluated, row.step))
                self.tracker.log(row.step, _metrics(row, "metrics"), grid if grid.is_file() else None)

    def close(self, failed: bool) -> None:
        self.tracker.close(failed)
        self._save(trained=self.trained)

    def _save(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)
        path = self.run.folder / FILE
        write_json(path, read_json(path) | {self.name: self.state.fields()})


def _values(row: TrainingRow) -> dict[str, float]:
    single = ("loss", "grad_norm", "images_per_second", "step_seconds", "seconds")
    values = {f"train/{name}": getattr(row, name) for name in single}
    for group in ("raw", "weighted", "logs"):
        values |= {f"{group}/{name}": value for name, value in getattr(row, group).items()}
    return {name: value for name, value in values.items() if value is not None}


def _metrics(row: EvaluationRow, group: str) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in row.metrics.items()}


class _TensorBoard:
    """Event files in RUN/tensorboard; `tensorboard --logdir results` finds them."""

    def __init__(self, folder: Path, spec: RunSpec, identity: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = folder / "tensorboard"
        described = place.is_dir()
        self.writer = SummaryWriter(str(place))
        if not described:
            self.writer.add_text("spec", f"```json\n{spec.model_dump_json(indent=2)}\n```", 0)

    def log(self, step: int, values: Mapping[str, float], images: Path | None) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        if images is not None:
            from PIL import Image

            with Image.open(images) as grid:
                self.writer.add_image("samples", np.asarray(grid.convert("RGB")), step, dataformats="HWC")
        self.writer.flush()  # a kill loses no row that the folder has

    def close(self, failed: bool) -> None:
        self.writer.close()


class _WeightsAndBiases:
    """A run of the project $WANDB_PROJECT, by default `alignment-bench`, in the group of its suite.

    Without a login or a server it is kept in RUN/wandb, from where `wandb sync` sends it later.
    """

    def __init__(self, folder: Path, spec: RunSpec, identity: str) -> None:
        import wandb

        def start(mode: Any) -> Any:
            return wandb.init(
                project=os.environ.get("WANDB_PROJECT", "alignment-bench"),
                group=os.environ.get("WANDB_RUN_GROUP", folder.parent.name),
                id=identity,
                name=spec.run_id,
                config=spec.model_dump(mode="json"),
                dir=str(folder),
                resume="allow",
                mode=mode,
                settings=wandb.Settings(console="off", init_timeout=WAIT, finish_timeout=4 * WAIT),
            )

        self._image = wandb.Image
        if os.environ.get("WANDB_MODE"):
            self.run = start(None)
        else:
            try:  # never ask for a key: nobody may be there to answer
                reason = "" if wandb.login(prompt=False) else "there is no login"
                self.run = start("online" if not reason else "offline")
            except Exception as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                self.run = start("offline")
            if reason:
                warnings.warn(
                    f"W&B is offline ({reason}): rows are kept in {folder / 'wandb'}, for `wandb sync`.",
                    stacklevel=2,
                )
        # An axis of our own: W&B's refuses rows of earlier steps, such as late evaluations.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float], images: Path | None) -> None:
        shown = {} if images is None else {"samples": self._image(str(images))}
        self.run.log({"step": step, **values, **shown})

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


_KINDS: dict[str, Callable[[Path, RunSpec, str], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
}
