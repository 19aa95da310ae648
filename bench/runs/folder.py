"""A run folder, opened for writing; safe against a kill at any moment.

    ROOT/RUN_ID/
        spec.json  env.json  status.json     whole files, each written under a temporary name and renamed
        train.jsonl  eval.jsonl               rows, appended; of a repeated step the last counts
        checkpoints/step-00000500/            a folder that is renamed into place when it is complete
        kept/step-00000500/                   the same, of weights that wait for a separate evaluation
        samples/step-00000500.png  log.txt
        owner.json                            the process that works on the run (lock.py)
        trackers.json  tensorboard/  wandb/   with --track: its rows once more (trackers.py)

What the files hold is documented in record.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config.spec import IDENTITY, RunSpec
from bench.core.errors import UserError
from bench.core.files import append_row, replacing, write_json
from bench.runs import checkpoint
from bench.runs.formats import Counters, Environment, EvaluationRow, Status, TrainingRow
from bench.runs.lock import RunLock
from bench.runs.record import RunRecord, find_runs

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS = 2  # that are kept: the latest two, in case one is damaged


def older_runs(root: Path, specs: Sequence[RunSpec]) -> str:
    """A line with folders in `root` of the same runs under an older identity; empty if there are none.

    Reports and evaluations read them, but no run is continued in them.
    """
    names = {spec.readable_id for spec in specs}
    alike = [folder for folder in find_runs(root) if folder.name.rpartition("-")[0] in names]
    older = [folder.name for folder in alike if RunRecord(folder).identity() < IDENTITY]
    if not older:
        return ""
    made = f"{older[0]} was" if len(older) == 1 else f"{len(older)} runs ({', '.join(older)}) were"
    return f"in {root} {made} made under an older identity; kept as before, and run anew under today's."


def adopt(root: Path, spec: RunSpec) -> Path | None:
    """Copy a run that is finished in a sibling folder of `root`, that of another suite.

    Returns the folder that it was copied from, as `log.txt` says too; None if `root` has the run already,
    or no sibling has finished it. Weights are linked instead of copied if the disk can. Raises UserError
    if `root` cannot be written.
    """
    if (root / spec.run_id).exists():
        return None
    for source in sorted(path.parent for path in root.parent.glob(f"*/{spec.run_id}/status.json")):
        if RunRecord(source).status().finished:
            try:
                _copy(source, root / spec.run_id)
            except OSError as error:
                raise UserError(f"cannot copy {source} to {root}: {error.strerror or error}.") from None
            return source
    return None


def _copy(source: Path, target: Path) -> None:
    """Copy a run folder atomically."""

    def link_weights(old: str, new: str) -> None:
        if old.endswith(".safetensors"):  # never modified
            with suppress(OSError):  # file system without links
                return os.link(old, new)
        shutil.copy2(old, new)

    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as copy:
        shutil.copytree(source, copy, copy_function=link_weights)
        with open(copy / "log.txt", "a") as log:
            log.write(f"{_now()} copied from {source}\n")


class RunFolder:
    """The folder of a run, opened for writing."""

    def __init__(self, root: Path, spec: RunSpec) -> None:
        """Create or reopen the folder `root/spec.run_id`.

        Raises:
            UserError: if it cannot be written, or holds a run of another spec.
        """
        self.spec = spec
        self.folder = root / spec.run_id
        self.record = RunRecord(self.folder)
        self.samples = self.folder / "samples"
        self.checkpoints = self.folder / "checkpoints"
        self.kept = self.folder / "kept"
        try:
            self.samples.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            path = self.folder / "spec.json"
            if path.is_file():
                self._refuse_another_spec(path)
            else:
                write_json(path, spec.model_dump(mode="json"))
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror or error}.") from None

    def lock(self) -> RunLock:
        """Lock the folder and remove unfinished files of a killed owner.

        Raises UserError, naming the owner, if another process works on this run.
        """
        lock = RunLock(self.folder)
        lock.acquire()
        for folder in (self.checkpoints, self.kept):
            for unfinished in folder.glob(".*"):
                shutil.rmtree(unfinished, ignore_errors=True)
        for unfinished in (*self.folder.glob(".*"), *self.samples.glob(".*")):
            if not unfinished.name.startswith(".owner."):  # of a process that asks for the lock just now
                unfinished.unlink(missing_ok=True)
        return lock

    def _refuse_another_spec(self, path: Path) -> None:
        ours, theirs = self.spec.decisive, self.record.spec().decisive
        if ours != theirs:
            different = [key for key in ours if ours[key] != theirs.get(key)]
            raise UserError(
                f"{path.parent} holds a run of another spec (it differs in {', '.join(different)}): "
                "choose another --results, or move it away."
            )

    @property
    def finished(self) -> bool:
        return self.record.status().finished

    def set_status(self, state: str, step: int, message: str = "") -> None:
        """Write the state (running, finished, failed or interrupted) and the number of steps."""
        steps, now = self.spec.training.steps, _now()
        status = Status(
            state=state, step=step, steps=steps, message=message, updated=now, process=os.getpid()
        )
        write_json(self.folder / "status.json", status.fields())
        if message or state != "running":
            with open(self.folder / "log.txt", "a") as log:
                log.write(f"{now} step {step} {state} {message}\n")

    def set_environment(self, environment: Environment) -> None:
        """Write `env.json`."""
        write_json(self.folder / "env.json", environment.fields())

    def append(self, row: TrainingRow | EvaluationRow, part: str = "") -> None:
        """Append a row to its file; with `part`, to NAME.PART.jsonl, for a process other than the owner."""
        name = "train" if isinstance(row, TrainingRow) else "eval"
        append_row(self.folder / f"{name}{'.' * bool(part)}{part}.jsonl", row.fields())

    def evaluated(self, step: int) -> bool:
        """Whether the evaluation of this step under the run's own protocol is recorded."""
        own = self.spec.protocol.hash
        return any((row.step, row.protocol) == (step, own) for row in self.record.evaluations())

    def save_checkpoint(self, parts: Mapping[str, Mapping[str, Tensor]], counters: Counters) -> None:
        """Save `parts` (file name -> tensors) and `counters` as one unit; then drop older ones.

        Raises UserError, with the previous checkpoint untouched, if the disk is full.
        """
        checkpoint.save(self.checkpoints, parts, counters)
        for old in checkpoint.complete(self.checkpoints)[:-CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)

    def load_checkpoint(self) -> tuple[dict[str, dict[str, Tensor]], Counters] | None:
        """Parts and counters of the latest checkpoint; None before the first.

        Raises:
            UserError: if it is damaged, naming the file and the step that is left without it.
        """
        complete = checkpoint.complete(self.checkpoints)
        return checkpoint.load(complete[-1]) if complete else None

    def keep(self, parts: Mapping[str, Mapping[str, Tensor]], counters: Counters) -> None:
        """Save the weights of a step for its separate evaluation. Raises as `save_checkpoint`."""
        checkpoint.save(self.kept, parts, counters)

    def forget(self, step: int) -> None:
        """Remove the saved weights of a step."""
        shutil.rmtree(self.kept / checkpoint.name(step), ignore_errors=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
