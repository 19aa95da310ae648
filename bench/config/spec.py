"""What a run is: typed, printable, hashable data.

A `RunSpec` says everything that decides a run's numbers, and its hash names the run's folder. The part of
it that decides how samples are made and judged is the `Protocol`; every evaluation row carries its hash,
and only rows of one hash may share a table.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.core import grammar
from bench.core.errors import UserError
from bench.core.files import json_hash, sha256
from methods.base import joined


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def hash(self) -> str:
        """8 hex digits of the SHA-256 of the canonical JSON."""
        return json_hash(self.model_dump(mode="json"))


class Training(_Data):
    """How a backbone is trained. Defaults are those of REPA, SiT and DiT on ImageNet-256."""

    steps: int = Field(400_000, ge=0)  # 0 evaluates the weights of `InitialWeights` as they are
    batch_size: int = Field(256, gt=0)
    learning_rate: float = Field(1e-4, gt=0)  # AdamW, constant
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float = Field(1.0, gt=0)  # of the global norm
    ema_decay: float = Field(0.9999, ge=0, lt=1)  # per step; over the backbone
    label_dropout: float = Field(0.1, ge=0, le=1)  # share of labels replaced by the null class
    precision: Literal["fp32", "bf16"] = "fp32"  # of the backbone's matrix products; losses are float32
    evaluate_every: int = Field(50_000, gt=0)  # steps; the last step is always evaluated
    checkpoint_every: int = Field(10_000, gt=0)  # steps
    log_every: int = Field(100, gt=0)  # steps

    @property
    def evaluation_steps(self) -> list[int]:
        """The steps that are evaluated."""
        return [*range(self.evaluate_every, self.steps, self.evaluate_every), self.steps]


class Protocol(_Data):
    """How samples are made and judged. Two rows are comparable where their protocols' hashes agree."""

    data: str
    reference: str  # what samples are compared with
    feature_nets: tuple[str, ...]  # metric nets; never a teacher's
    samples: int = Field(50_000, gt=1)
    labels: Literal["balanced", "random"] = "random"
    sampler_sit: str = "repa-sde-250"
    sampler_dit: str = "dit-ddpm-250"
    guidance_scale: float = Field(1.0, ge=0)
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # of t, inclusive
    guidance_channels: int = Field(0, ge=0)  # the first n channels are guided; 0: all
    rounding: Literal["round", "truncate", "adm"] = "truncate"  # to uint8
    weights: Literal["ema", "model"] = "ema"
    neighbours: int = Field(3, gt=0)  # k of precision and recall

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> Protocol:
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"the guidance interval {low}:{high} must satisfy 0 <= low <= high <= 1")
        return self


class InitialWeights(_Data):
    """Weights of a file that a run starts from, instead of a fresh initialisation."""

    path: str
    family: Literal["sit", "repa", "dit"] | None  # whose code wrote an official file; None for our own
    sha256: str  # the first 16 hex digits

    @classmethod
    def of(cls, path: Path, family: Literal["sit", "repa", "dit"] | None) -> InitialWeights:
        """Raises UserError where the file cannot be read."""
        return cls(path=str(path), family=family, sha256=digest(path))


class RunSpec(_Data):
    """One training run and its evaluations."""

    method: str  # in the naming grammar, as are backbone and process
    backbone: str
    data: str
    seed: int
    process: str  # "flow[...]" or "ddpm"
    teacher: str  # the encoder that "teacher" stands for
    reward_net: str
    training: Training
    protocol: Protocol
    method_source: str = ""  # hash of the file, for a method outside `methods/`
    weights: InitialWeights | None = None

    @property
    def run_id(self) -> str:
        """Folder name: readable, ending in the hash."""
        name, options = grammar.split(self.method)
        readable = f"{grammar.join(Path(name).stem, options)}-{self.backbone}-seed{self.seed}"
        return f"{re.sub(r'[^a-zA-Z0-9.]+', '-', readable)}-{self.hash}"

    @property
    def sampler(self) -> str:
        """The protocol's sampler for this backbone's process."""
        protocol = self.protocol
        return protocol.sampler_dit if self.process.startswith("ddpm") else protocol.sampler_sit

    @property
    def leaky(self) -> tuple[str, ...]:
        """Metric nets that also teach or reward: their numbers cannot be trusted for this run."""
        named_in_method = grammar.split(self.method)[1].values()
        used = {
            grammar.split(net)[0]
            for value in (self.teacher, self.reward_net, *named_in_method)
            for net in joined(value)
        }
        return tuple(net for net in self.protocol.feature_nets if net in used)


@lru_cache
def digest(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256. Raises UserError where it cannot be read."""
    try:
        return sha256(path)[:16]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
