"""Specification of a run: typed, printable, hashable data.

A `RunSpec` holds everything that determines the numbers of a run; its hash is part of the name of the run's
folder. Its `Protocol` determines how samples are drawn and scored. Every evaluation row carries the hash of
its protocol, and a table only contains rows with the same hash.

Names are stored twice: as typed, and resolved to every option and its value. Hashes are computed from the
resolved names, so a changed default changes the hash, and two spellings of the same thing share it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backbones import Release
from bench.core import grammar
from bench.core.errors import UserError
from bench.core.files import json_hash, sha256

IDENTITY = 2  # increased when the definition of hashes changes, to distinguish older runs
_RENAMED = {"sampler_sit": "sampler_flow", "sampler_dit": "sampler_ddpm"}  # since identity 1
# Fields that entered hashes of identity 1, by model, with names as typed.
_FIELDS_1 = {
    "Training": "steps batch_size learning_rate weight_decay gradient_clip ema_decay label_dropout precision "
    "evaluate_every checkpoint_every log_every",
    "Protocol": "data reference feature_nets samples labels sampler_sit sampler_dit guidance_scale "
    "guidance_interval guidance_channels rounding weights neighbours",
    "RunSpec": "method backbone data seed process teacher reward_net training protocol method_source weights",
}


# Fields that earlier versions did not have, and the values at which they are left out of hashes.
_ADDED = {
    "checksums": [],
    "resolved_metrics": [],
    "compile": False,
    "sampling_precision": "fp32",
    "sampling_compile": False,
}


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Training(_Data):
    """How a backbone is trained. Learning rate, batch size, clipping and EMA default to those of REPA."""

    steps: int = Field(400_000, ge=0, description="training steps; 0 only evaluates")
    batch_size: int = Field(256, gt=0, description="images per step")
    learning_rate: float = Field(1e-4, gt=0, description="learning rate of AdamW, constant")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    gradient_clip: float = Field(
        1.0, ge=0, description="largest global norm of the gradient; 0: no clipping (SiT, DiT)"
    )
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="decay of the averaged backbone per step")
    label_dropout: float = Field(
        0.1, ge=0, le=1, description="fraction of labels replaced by the null class, for guidance"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="of matrix products; losses are float32. By default that of the preset, else bf16 if the "
        "hardware supports it",
    )
    compile: bool = Field(
        False,
        description="compile blocks and projectors (torch.compile): faster steps, other last digits",
    )
    evaluate_every: int = Field(
        50_000, gt=0, description="steps between evaluations; the last step is always evaluated"
    )
    checkpoint_every: int = Field(10_000, gt=0, description="steps between checkpoints")
    log_every: int = Field(100, gt=0, description="steps between rows of train.jsonl")

    @property
    def evaluation_steps(self) -> list[int]:
        """The steps that are evaluated."""
        return [*range(self.evaluate_every, self.steps, self.evaluate_every), self.steps]


class Protocol(_Data):
    """How samples are drawn and scored. Rows are comparable if the hashes of their protocols agree."""

    identity: int = Field(IDENTITY, description="how the hash is computed")
    data: str = Field(description="identity of the data set")
    reference: str = Field(description="identity of the reference images or statistics")
    feature_nets: tuple[str, ...] = Field(
        min_length=1, description="feature networks of the metrics, independent of teachers"
    )
    samples: int = Field(50_000, gt=1, description="images sampled per evaluation")
    labels: Literal["balanced", "random"] = Field("random", description="how class labels are chosen")
    sampler_flow: str = Field(
        "repa-sde-250", description="sampler of flow models, e.g. heun[steps=10] or repa-sde-250"
    )
    sampler_ddpm: str = Field(
        "dit-ddpm-250", description="sampler of DDPM models, e.g. ddim[steps=25] or dit-ddpm-250"
    )
    resolved_samplers: tuple[str, ...] = Field((), description="both samplers, flow first, with all options")
    checksums: tuple[str, ...] = Field(
        (), description="of the weights of feature networks: `NET@SHA256`, 16 digits"
    )
    guidance_scale: float = Field(1.0, ge=0, description="classifier-free guidance; 1: none")
    guidance_interval: tuple[float, float] = Field(
        (0.0, 1.0), description="guide only for t in this interval; data t=0, noise t=1"
    )
    guidance_channels: int = Field(
        0, ge=0, description="guide the first N channels only (SiT, DiT: 3); 0: all (REPA)"
    )
    sampling_precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32", description="of matrix products while sampling: fp32, tf32 (GPUs) or bf16 (autocast)"
    )
    sampling_compile: bool = Field(
        False,
        description="compile blocks while sampling (torch.compile): faster, other last digits",
    )
    rounding: Literal["round", "truncate", "adm"] = Field(
        "truncate", description="to uint8: round, truncate (REPA) or adm (127.5 x + 128, truncated)"
    )
    weights: Literal["ema", "model"] = Field("ema", description="weights to sample from")
    neighbours: int = Field(3, gt=0, description="k of precision and recall")
    metrics: tuple[str, ...] = Field((), description="Python files of additional metrics")
    resolved_metrics: tuple[str, ...] = Field((), description="these, with their content and all options")

    @model_validator(mode="before")
    @classmethod
    def _reads_identity_1(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or not _RENAMED.keys() & fields.keys():
            return fields
        return {"identity": 1} | renamed(fields)

    @model_validator(mode="after")
    def _fits_together(self) -> Protocol:
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"the guidance interval {low}:{high} must satisfy 0 <= low <= high <= 1")
        if self.samples <= self.neighbours:
            raise ValueError(
                f"precision and recall of {self.neighbours} neighbours need more than {self.samples} samples"
            )
        return self

    @property
    def hash(self) -> str:
        """8 hex digits; `protocol_hash` of it as JSON."""
        return protocol_hash(self.model_dump(mode="json"))


class InitialWeights(_Data):
    """Initial weights of a run, from a file."""

    path: str = Field(description="the file")
    family: Release | None = Field(description="code base that wrote an official file; null for our own")
    sha256: str = Field(description="its SHA-256, the first 16 hex digits")
    trained_against: tuple[str, ...] = Field(
        (), description="frozen networks that they were trained with, if the file says so"
    )

    @classmethod
    def of(cls, path: Path, family: Release | None, trained_against: tuple[str, ...] = ()) -> InitialWeights:
        """Raises UserError if the file cannot be read."""
        return cls(path=str(path), family=family, sha256=digest(path), trained_against=trained_against)


class RunSpec(_Data):
    """One training run and its evaluations."""

    method: str = Field(description="the method as typed: `name[option=value,...]`")
    resolved_method: str = Field("", description="name of its file and all options")
    method_version: int = Field(0, description="increased when the mathematics of the method change")
    method_source: str = Field("", description="hash of its source, for a method outside `methods/`")
    backbone: str = Field(description="the backbone as typed")
    resolved_backbone: str = Field("", description="its name and all options")
    backbone_source: str = Field("", description="hash of its source, for a backbone outside `backbones/`")
    data: str = Field(description="the data set as typed")
    seed: int = Field(description="seed of all random numbers; runs with the same seed are paired")
    process: str = Field(description="diffusion process: `flow[...]` or `ddpm`")
    resolved_process: str = Field("", description="its name and all options")
    teacher: str = Field(description='the encoder that "teacher" stands for')
    reward_net: str = Field(description='the reward network that "default" stands for')
    training: Training = Field(description="how the backbone is trained")
    protocol: Protocol = Field(description="how samples are drawn and scored")
    weights: InitialWeights | None = Field(None, description="weights to start from")

    @property
    def decisive(self) -> dict[str, Any]:
        """Everything that determines the numbers of the run, as JSON, without names as typed and paths."""
        content = self.model_dump(mode="json")
        if self.weights:  # their checksum says the rest
            del content["weights"]["trained_against"]
        content["protocol"] = _decisive_protocol(content["protocol"])
        if self.protocol.identity == 1:
            training = _of_identity_1("Training", content["training"])
            return _of_identity_1("RunSpec", content | {"training": training})
        content["training"] = _without_added(content["training"])
        if self.weights:
            content["weights"] = {"family": self.weights.family, "sha256": self.weights.sha256}
        return {key: value for key, value in content.items() if key not in ("method", "backbone", "process")}

    @property
    def hash(self) -> str:
        """8 hex digits: the hash of `decisive`."""
        return json_hash(self.decisive)

    @property
    def run_id(self) -> str:
        """Name of the run's folder: readable, ending in the hash."""
        return f"{self.readable_id}-{self.hash}"

    @property
    def readable_id(self) -> str:
        """The name of the folder without the hash."""
        parts = map(grammar.split, grammar.summands(self.method))
        method = "+".join(grammar.join(Path(name).stem, options) for name, options in parts)
        name, options = grammar.split(self.backbone)
        backbone = grammar.join(Path(name).stem if name.endswith(".py") else name, options)
        readable = f"{method}-{backbone}-seed{self.seed}"
        return re.sub(r"[^a-zA-Z0-9.]+", "-", readable)

    @property
    def sampler(self) -> str:
        """The sampler for the diffusion process of this run."""
        protocol = self.protocol
        return protocol.sampler_ddpm if self.process.startswith("ddpm") else protocol.sampler_flow


def renamed(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a protocol under their current names."""
    return {_RENAMED.get(key, key): value for key, value in protocol.items()}


def protocol_hash(protocol: Mapping[str, Any]) -> str:
    """The hash of a protocol as JSON, as recorded in rows; unknown fields are allowed."""
    return json_hash(_decisive_protocol(protocol))


def _decisive_protocol(protocol: Mapping[str, Any]) -> dict[str, Any]:
    if "identity" not in protocol:  # written before there were identities
        return dict(protocol)
    if protocol["identity"] == 1:
        earlier = {old: protocol[new] for old, new in _RENAMED.items()}
        return _of_identity_1("Protocol", dict(protocol) | earlier)
    as_typed = {*_RENAMED.values(), "metrics"}
    return _without_added({key: value for key, value in protocol.items() if key not in as_typed})


def _without_added(content: Mapping[str, Any]) -> dict[str, Any]:
    """Without the fields that earlier versions did not have, where they change nothing."""
    return {key: value for key, value in content.items() if key not in _ADDED or value != _ADDED[key]}


def _of_identity_1(model: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: content[key] for key in _FIELDS_1[model].split()}


@lru_cache
def digest(path: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a file. Raises UserError if it cannot be read."""
    try:
        return sha256(path)[:16]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
