"""The reader of run folders; `formats.py` has what their files hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from bench.config.spec import RunSpec
from bench.core.errors import UserError
from bench.core.files import read_json, read_rows
from bench.runs.formats import Environment, EvaluationRow, ProbeRow, Record, Status, TrainingRow

FILES = ("spec.json", "env.json", "status.json", "eval.jsonl")  # any of them makes a folder that of a run
TAIL_BYTES = 1 << 16

R = TypeVar("R", bound=Record)


class RunRecord:
    """Reader of a run folder; files are read on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def spec_fields(self) -> dict[str, Any]:
        """The content of `spec.json`, of any version. Raises UserError if it cannot be read."""
        path = self.folder / "spec.json"
        try:
            fields = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{self.folder} is not the folder of a run: it has no spec.json.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {error}. Move {self.folder} away.") from None
        if not isinstance(fields, dict):
            raise UserError(f"{path} is damaged: it holds no JSON object. Move {self.folder} away.")
        return fields

    def spec(self) -> RunSpec:
        """The run's spec. Raises UserError if it cannot be read, or was written by another version."""
        try:
            return RunSpec.model_validate(self.spec_fields())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{self.folder} is a run of another version: {where} of its spec.json: {first['msg']}."
            ) from None

    def identity(self) -> int:
        """The definition of the hash in the folder's name, `spec.IDENTITY`; 1 if not recorded."""
        protocol = read_json(self.folder / "spec.json").get("protocol")
        return protocol.get("identity", 1) if isinstance(protocol, dict) else 1

    def status(self) -> Status:
        """Progress; its state is `not started` without the file, `damaged` if the file cannot be read."""
        path = self.folder / "status.json"
        if not path.is_file():
            return Status()
        fields = read_json(path)
        damaged = Status(state="damaged", message=f"{path} cannot be read")
        return (_validated(Status, fields) or damaged) if fields else damaged

    def steps(self) -> int:
        """Training steps of the run, by its status or else its spec; 0 if neither can be read."""
        training = read_json(self.folder / "spec.json").get("training")
        return self.status().steps or (training.get("steps", 0) if isinstance(training, dict) else 0)

    def environment(self) -> Environment:
        """Hardware and software; empty fields if the file is missing or damaged."""
        return _validated(Environment, read_json(self.folder / "env.json")) or Environment()

    def evaluations(self) -> list[EvaluationRow]:
        """One row per step and protocol, the last written; by step. Rows of other versions are left out."""
        last: dict[tuple[int, str], EvaluationRow] = {}
        for row in _rows(EvaluationRow, read_rows(self.folder / "eval.jsonl")):
            last[row.step, row.protocol] = row
        return [last[key] for key in sorted(last)]

    def training(self) -> list[TrainingRow]:
        """The logged steps, in the order written; a step that was repeated after a kill stands twice."""
        return list(_rows(TrainingRow, read_rows(self.folder / "train.jsonl")))

    def logs_anything(self) -> bool:
        """Whether the method logs values of its own, by the first training row; reads one line."""
        try:
            with open(self.folder / "train.jsonl", "rb") as file:
                row = _validated(TrainingRow, json.loads(file.readline()))
        except (OSError, ValueError, RecursionError):
            return False
        return row is not None and bool(row.logs)

    def last_training_row(self) -> TrainingRow | None:
        """The last row, read from the end of the file; None if there is none."""
        path = self.folder / "train.jsonl"
        try:
            with open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return None
        for line in reversed(lines):
            try:
                row = _validated(TrainingRow, json.loads(line))
            except (ValueError, RecursionError):  # cut off by the tail, or by a kill
                continue
            if row is not None:
                return row
        return None

    def probes(self) -> list[ProbeRow]:
        """The rows of `bench.probe`, if any."""
        return list(_rows(ProbeRow, read_rows(self.folder / "probe.jsonl")))

    def kept_steps(self) -> list[int]:
        """The steps whose separate evaluation is pending."""
        return sorted(int(path.name.removeprefix("step-")) for path in (self.folder / "kept").glob("step-*"))


def find_runs(root: Path) -> list[Path]:
    """The run folders directly in `root`, by name."""
    return sorted(path.parent for path in root.glob("*/spec.json"))


def _validated(record: type[R], content: Any) -> R | None:
    try:
        return record.model_validate(content)
    except ValidationError:
        return None


def _rows(record: type[R], rows: list[dict[str, Any]]) -> Iterator[R]:
    for fields in rows:
        row = _validated(record, fields)
        if row is not None:
            yield row
