"""Options that say what runs are: shared by the command line and by the plan made of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import backbones
import methods
from backbones import Release
from bench.config import suites
from bench.config.spec import Protocol, Training
from bench.core.cli import Interval, option, options_of
from bench.data import datasets


@dataclass(frozen=True)
class Comparison:
    """What is compared. Options stand in brackets, lists make a grid: --method "repa[weight=[0.5,1.0]]"."""

    method: Annotated[
        tuple[str, ...], option(f"methods: {', '.join(methods.names())}; or Python files", "NAME...")
    ] = ()
    backbone: Annotated[
        tuple[str, ...], option(f"backbones: {', '.join(backbones.names())}; /PATCH, default /2", "NAME...")
    ] = ()
    seed: Annotated[tuple[int, ...], option("seeds; runs of one seed are paired", "N...")] = ()
    data: Annotated[str | None, option(f"data set: {', '.join(datasets.names())}", "NAME")] = None
    suite: Annotated[
        str | None,
        option(f"suite: {', '.join(suites.names())}; or a TOML file; other options override it", "NAME"),
    ] = None
    scale: Annotated[
        Literal["quick", "full"] | None,
        option("of a suite: quick, on the embedded data (default), or full, for a cluster", "{quick,full}"),
    ] = None


@dataclass(frozen=True)
class WeightsOptions:
    """Weights from a file: this project's (.safetensors) or an official SiT, REPA or DiT release (.pt)."""

    init_from: Annotated[Path | None, option("train from these weights", "FILE")] = None
    evaluate_only: Annotated[Path | None, option("sample and score these weights, train nothing", "FILE")] = (
        None
    )
    family: Annotated[Release | None, option("whose code wrote the .pt file", "{sit,repa,dit}")] = None


_TRAINING = options_of(
    Training,
    precision=Annotated[Literal["auto", "fp32", "bf16"] | None, option(metavar="{auto,fp32,bf16}")],
    process=Annotated[
        str | None, option("diffusion process: flow[path=linear,...] (default for sit) or ddpm (dit)", "NAME")
    ],
)
# Found out by the plan, not chosen.
_FOUND = ("identity", "data", "reference", "resolved_samplers", "resolved_metrics", "checksums")
_PROTOCOL = options_of(Protocol, without=_FOUND, guidance_interval=Interval)


class TrainingOptions(_TRAINING):
    """How backbones are trained. By default as the suite or the data set's preset says."""


class ProtocolOptions(_PROTOCOL):
    """How samples are made and scored. Tables only compare runs of one protocol."""


def given(options: Any) -> dict[str, Any]:
    """The options of a group that are not None."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None}
