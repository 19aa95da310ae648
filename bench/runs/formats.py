"""Formats of the files that a run writes: a record per JSON object.

`docs/formats.md` is generated from the docstrings here: `python docs/tools/formats.py`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Unknown fields are ignored, since later versions may write more."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    def fields(self) -> dict[str, Any]:
        """As plain JSON values, without optional fields that are None."""
        return self.model_dump(mode="json", exclude_none=True)


class Status(Record):
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


class Parameters(Record):
    """Numbers of trained parameters."""

    backbone: int | None = None
    """of the backbone"""
    method: int | None = None
    """of the method, for example of its projector"""


class Environment(Record):
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


class TrainingRow(Record):
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


class EvaluationRow(Record):
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


class ProbeRow(Record):
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


class Counters(Record):
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


class TrackerState(Record):
    """A run in one experiment tracker, by the tracker's name."""

    id: str
    """of the tracker's run, under which every session continues"""
    evaluated: tuple[int, ...] = ()
    """steps whose evaluation under the run's own protocol the tracker has"""
    others: tuple[tuple[int, str], ...] = ()
    """step and protocol of further evaluations that the tracker has"""
    trained: int | None = None
    """last training step that the tracker has; absent while a session runs, and after a kill"""
