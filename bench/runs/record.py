"""Typed records of the files that a run writes, and the reader of run folders.

`docs/formats.md` is generated from the docstrings here: `python docs/tools/formats.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.config.spec import RunSpec
from bench.core.errors import UserError
from bench.core.files import read_json, read_rows

FILES = ("spec.json", "env.json", "status.json", "eval.jsonl")  # any of them makes a folder that of a run
TAIL_BYTES = 1 << 16


class _Record(BaseModel):
    """Unknown fields are ignored, since later versions may write more."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    def fields(self) -> dict[str, Any]:
        """As plain JSON values, without optional fields that are None."""
        return self.model_dump(mode="json", exclude_none=True)


R = TypeVar("R", bound=_Record)


class Status(_Record):
    """Progress of a run, rewritten at every checkpoint."""

    state: str = "not started"
    """`running`, `finished`, `failed` or `interrupted`; `not started` before the file exists, `damaged` if it
    cannot be read"""
    step: int = 0
    """training steps done"""
    steps: int = 0
    """training steps of the run"""
    message: str = ""
    """why the run failed"""
    updated: str = ""
    """when this was written, ISO 8601, UTC"""
    process: int | None = None
    """number of the process that wrote it"""

    @property
    def finished(self) -> bool:
        return self.state == "finished"


class Parameters(_Record):
    """Numbers of trained parameters."""

    backbone: int | None = None
    """of the backbone"""
    method: int | None = None
    """of the method, for example of its projector"""


class Environment(_Record):
    """Hardware and software of the last session of a run."""

    device: str = ""
    """`cpu` or `cuda`"""
    devices: int = 1
    """number of processes, each with one device"""
    hardware: str = ""
    """name of the device"""
    python: str = ""
    """version of Python"""
    platform: str = ""
    """operating system and architecture"""
    versions: dict[str, str] = {}
    """versions of the packages that numbers may depend on"""
    git: dict[str, Any] = {}
    """`revision` of the checkout and whether it was `dirty`; empty outside a checkout"""
    command: str = ""
    """command line"""
    created: str = ""
    """start of the session, ISO 8601, UTC"""
    parameters: Parameters = Parameters()
    """trained parameters"""
    records: int | None = None
    """number of images in the training set"""
    teachers: tuple[str, ...] | None = None
    """frozen encoders that training uses, by name"""


class TrainingRow(_Record):
    """A logged training step: the first, and one per `log_every` steps."""

    step: int
    """training steps done, from 1"""
    seconds: float | None = None
    """training time so far, over all sessions, without evaluations"""
    step_seconds: float | None = None
    """duration of this step"""
    images_per_second: float | None = None
    """batch size / duration of this step"""
    loss: float | None = None
    """sum of the weighted terms"""
    raw: dict[str, float] = {}
    """mean over the batch of each loss term, unweighted: `denoise` and those of the method"""
    weighted: dict[str, float] = {}
    """the same terms with their weights"""
    logs: dict[str, float] = {}
    """other values logged by the method"""
    grad_norm: float | None = None
    """global norm of the gradient before clipping"""


class EvaluationRow(_Record):
    """An evaluation at a step under a protocol; the last row for a step and protocol counts."""

    step: int
    """training steps done"""
    seconds: float
    """training time so far"""
    flops: int | float | None = None
    """FLOPs of training so far: backbone, teachers and reward networks, forward and backward"""
    samples: int | None = None
    """number of sampled images"""
    protocol: str
    """hash of the protocol; rows of different protocols cannot be compared"""
    guidance_scale: float | None = None
    """scale of classifier-free guidance; 1: none"""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """interval of times in which guidance acts; data t=0, noise t=1"""
    weights: str | None = None
    """weights that were sampled from: `ema` or `model`"""
    leaky: tuple[str, ...] = ()
    """feature networks that the run was trained against: their metrics are biased"""
    metrics: dict[str, float]
    """value of each metric, by `NAME[NET]`"""
    evaluation_seconds: float | None = None
    """duration of sampling and scoring"""


class ProbeRow(_Record):
    """Hidden states after one block at one noise level, compared with the features of an encoder."""

    step: int
    """training steps done"""
    t: float
    """noise level; data t=0, noise t=1"""
    depth: int
    """after this block, from 1"""
    cknna: float
    """mutual nearest-neighbour alignment of pooled states and pooled encoder features, k = 10"""
    cka: float
    """linear centred kernel alignment of the same"""
    linear_probe: float
    """accuracy of a linear classifier on pooled states, on images it was not fitted on"""
    token_cosine: float
    """cosine between encoder tokens and their prediction from tokens by a linear map, on held-out images"""
    local_vs_distant: float
    """mean cosine of neighbouring tokens minus that of distant ones"""
    effective_rank: float
    """exponential of the entropy of the normalised spectrum of pooled states"""


class Counters(_Record):
    """Progress of training at a checkpoint."""

    step: int = 0
    """training steps done"""
    seconds: float = 0.0
    """training time so far"""
    flops: int | float = 0
    """FLOPs of training so far"""
    extras: list[dict[str, Any]] = []
    """extra parts of the state: name, width, kind, weight, guided"""
    checksums: dict[str, int] = {}
    """CRC-32 of each `PART.safetensors` in the same folder"""


class TrackerState(_Record):
    """A run in one experiment tracker, by the tracker's name."""

    id: str
    """of the tracker's run, under which every session continues"""
    evaluated: tuple[int, ...] = ()
    """steps whose evaluation under the run's own protocol the tracker has"""
    others: tuple[tuple[int, str], ...] = ()
    """step and protocol of further evaluations that the tracker has"""
    trained: int | None = None
    """last training step that the tracker has; absent while a session runs, and after a kill"""


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
