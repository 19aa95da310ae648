"""A run's folder: rows, checkpoints and status on disk, safe against a kill at any moment.

    <root>/<run id>/
        spec.json  env.json  status.json     whole files, each written under a temporary name and renamed
        train.jsonl  eval.jsonl               append-only rows; of a repeated step the last counts
        checkpoints/step-00000500/            a folder that is renamed into place when it is complete
        kept/step-00000500/                   the same, of weights that wait for a separate evaluation
        samples/step-00000500.png  log.txt

Weights are safetensors: no pickle, nothing is executed on reading.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config.spec import RunSpec
from bench.core.errors import UserError
from bench.core.files import read_json, read_rows, replacing, write_json
from bench.runs.lock import RunLock

if TYPE_CHECKING:
    from torch import Tensor

KEPT_CHECKPOINTS = 2  # the latest, and the one before in case the disk damages it
_FINISHED, _RUNNING = "finished", "running"


def find_runs(root: Path) -> list[Path]:
    """The run folders directly in `root`, by name."""
    return sorted(path.parent for path in root.glob("*/spec.json"))


def adopt(root: Path, spec: RunSpec) -> Path | None:
    """Copy a run that a sibling of `root`, another suite's folder, has finished, instead of running it again.

    Returns the folder that it was copied from, as `log.txt` says too; None where `root` has the run already,
    or no sibling has it finished. Weights are not copied but linked where the disk can. Raises UserError
    where `root` cannot be written.
    """
    if (root / spec.run_id).exists():
        return None
    for status in sorted(root.parent.glob(f"*/{spec.run_id}/status.json")):
        source = status.parent
        if read_json(status).get("state") == _FINISHED:
            try:
                _copy(source, root / spec.run_id)
            except OSError as error:
                raise UserError(f"cannot copy {source} to {root}: {error.strerror or error}.") from None
            return source
    return None


def _copy(source: Path, target: Path) -> None:
    """Copy a run's folder, atomically."""

    def link_weights(old: str, new: str) -> None:
        if old.endswith(".safetensors"):  # never changed once they are written
            try:
                return os.link(old, new)
            except OSError:  # a disk without links
                pass
        shutil.copy2(old, new)

    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as copy:
        shutil.copytree(source, copy, copy_function=link_weights)
        with open(copy / "log.txt", "a") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} copied from {source}\n")


class RunFolder:
    """One run's folder, opened for writing."""

    def __init__(self, root: Path, spec: RunSpec) -> None:
        """Create or reopen the folder `root/spec.run_id`.

        Raises UserError where it cannot be written, or holds a run of another spec.
        """
        self.spec = spec
        self.folder = root / spec.run_id
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
        """Lock the folder; what a killed owner left unfinished is removed.

        Raises UserError, naming the owner, where another process works on this run.
        """
        lock = RunLock(self.folder)
        lock.acquire()
        for unfinished in (*self.checkpoints.glob(".*"), *self.kept.glob(".*")):
            shutil.rmtree(unfinished, ignore_errors=True)
        return lock

    def _refuse_another_spec(self, path: Path) -> None:
        try:
            found = RunSpec.model_validate_json(path.read_text())
        except ValueError:
            raise UserError(f"{path} is not a run of this version: move {path.parent} away.") from None
        if found != self.spec:
            ours, theirs = self.spec.model_dump(), found.model_dump()
            different = [key for key in ours if ours[key] != theirs[key]]
            raise UserError(
                f"{path.parent} holds a run of another spec (it differs in {', '.join(different)}): "
                "choose another --output, or move it away."
            )

    @property
    def status(self) -> dict[str, Any]:
        """The last status written; empty before the first."""
        return read_json(self.folder / "status.json")

    @property
    def finished(self) -> bool:
        return self.status.get("state") == _FINISHED

    def set_status(self, state: str, step: int, message: str = "") -> None:
        """Write running, finished, failed or interrupted, and the steps done."""
        steps, now = self.spec.training.steps, datetime.now(UTC).isoformat(timespec="seconds")
        content = {"state": state, "step": step, "steps": steps, "message": message, "updated": now}
        write_json(self.folder / "status.json", content | {"process": os.getpid()})
        if message or state != _RUNNING:
            with open(self.folder / "log.txt", "a") as log:
                log.write(f"{now} step {step} {state} {message}\n")

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append a row to `train`, `eval` or, of a process beside the owner, a part of them, `eval.PART`.

        A torn last line of an earlier kill is closed first.
        """
        path = self.folder / f"{name}.jsonl"
        with open(path, "ab+", buffering=0) as file:  # unbuffered: one write a row
            torn = b""
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                torn = b"" if file.read(1) == b"\n" else b"\n"
            file.write(torn + json.dumps(row).encode() + b"\n")

    def evaluated(self, step: int) -> bool:
        """Whether the row of this step's evaluation is on disk."""
        return any(row.get("step") == step for row in read_rows(self.folder / "eval.jsonl"))

    def save_checkpoint(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], counters: dict) -> None:
        """Save `parts` (file name -> tensors) and `counters` as one unit; then drop older ones.

        Raises UserError, with the previous checkpoint untouched, where the disk is full.
        """
        self._save(self.checkpoints, step, parts, counters)
        for old in self._complete()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)

    def keep(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], counters: dict) -> None:
        """Save what an evaluation of this step needs, until that is done. Raises as `save_checkpoint`."""
        self._save(self.kept, step, parts, counters)

    def kept_steps(self) -> list[int]:
        """The steps whose evaluation has not been made yet."""
        return sorted(int(path.name[5:]) for path in self.kept.glob("step-*"))

    def forget(self, step: int) -> None:
        """Drop what was kept of a step."""
        shutil.rmtree(self.kept / _name(step), ignore_errors=True)

    @staticmethod
    def _save(
        folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], counters: Mapping[str, Any]
    ) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            folder.mkdir(exist_ok=True)
            with replacing(folder / _name(step)) as unfinished:
                unfinished.mkdir()
                checksums = {}
                for part, tensors in parts.items():
                    path = unfinished / f"{part}.safetensors"
                    save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, path)
                    checksums[part] = _checksum(path)
                write_json(unfinished / "state.json", {"step": step, "checksums": checksums, **counters})
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the checkpoint at step {step} could not be written to {folder} ({error}): make "
                "room and run the same command again; it continues from the last checkpoint."
            ) from None

    def load_checkpoint(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """The latest checkpoint's parts and counters, or None before the first.

        Raises UserError where it is damaged, naming the file and the step that is left without it.
        """
        from safetensors.torch import load_file

        complete = self._complete()
        if not complete:
            return None
        latest = complete[-1]
        part = "state"
        try:
            counters = json.loads((latest / "state.json").read_text())
            parts = {}
            for part, checksum in counters["checksums"].items():
                path = latest / f"{part}.safetensors"
                if _checksum(path) != checksum:
                    raise ValueError("its checksum differs")
                parts[part] = load_file(path)
        except Exception as error:
            before = f"step {int(complete[-2].name[5:])}" if len(complete) > 1 else "the start"
            raise UserError(
                f"the checkpoint {latest} is damaged ({part}: {error}): "
                f"delete that folder to continue from {before}."
            ) from None
        return parts, counters

    def _complete(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-*"))


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            checksum = zlib.crc32(block, checksum)
    return checksum
