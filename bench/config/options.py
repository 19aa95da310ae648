"""Options that define runs, for the command line and the plan."""

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
    """What is compared. Options are in brackets, lists span a grid: --method "repa[weight=[0.5,1.0]]"."""

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
    """Weights: a file of this project (.safetensors) or of an official SiT, REPA or DiT release (.pt), the
    folder of a published or a diffusers model, or either on the hub, hf:ORG/REPO[/FILE]."""

    init_from: Annotated[Path | None, option("start training from these weights", "FILE")] = None
    evaluate_only: Annotated[
        Path | None, option("sample and score these weights without training", "FILE")
    ] = None
    family: Annotated[Release | None, option("code base that wrote the file", "{sit,repa,dit,diffusers}")] = (
        None
    )


_TRAINING = options_of(
    Training,
    precision=Annotated[Literal["auto", "fp32", "bf16"] | None, option(metavar="{auto,fp32,bf16}")],
    process=Annotated[
        str | None, option("diffusion process: flow[path=linear,...] (default for sit) or ddpm (dit)", "NAME")
    ],
)
# Determined by the plan, not options.
FOUND = ("identity", "data", "reference", "resolved_samplers", "resolved_metrics", "checksums")
_PROTOCOL = options_of(Protocol, without=FOUND, guidance_interval=Interval)


class TrainingOptions(_TRAINING):
    """Training. Defaults are those of the suite or of the preset of the data set."""


class ProtocolOptions(_PROTOCOL):
    """Sampling and scoring. Tables only compare runs of the same protocol."""


def given(options: Any) -> dict[str, Any]:
    """The options of a group that are neither None nor a flag that was left out."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None and value is not False}
