"""From names to objects: run specifications, and the methods, backbones and processes that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import backbones
import methods
from bench.config.spec import Protocol, RunSpec, Training
from bench.core import grammar
from bench.core.errors import UserError, unknown
from bench.core.files import sha256
from bench.data import datasets

if TYPE_CHECKING:
    from bench.diffusion.objectives import Process
    from methods.base import Method


def architecture(text: str) -> backbones.Architecture:
    """`"sit-xl/2[qk_norm=true]"` -> its architecture. Raises UserError for an unknown name or option."""
    name, options = grammar.split(text)
    for key, value in options.items():
        if value not in ("true", "false"):
            raise UserError(f"option {key}={value} of {text} must be true or false.")
    try:
        return backbones.architecture(name, **{key: value == "true" for key, value in options.items()})
    except (ValueError, TypeError) as error:
        raise UserError(f"backbone {text}: {error}") from None


def method(text: str) -> Method:
    """`"repa[weight=1.0]"`, or a path of a Python file with options -> a configured method, not yet built.

    Raises UserError for an unknown name, a file that is not a method, an unknown or ill-typed option.
    """
    name, options = grammar.split(text)
    if not name.endswith(".py") and methods.shown(name) not in methods.names():
        raise unknown("method", name, methods.names())
    try:
        found = methods.load(name)
    except ValueError as error:
        raise UserError(f"{error}.") from None
    return grammar.configure(found, options, f"method {name}")


def method_source(text: str) -> str:
    """8 hex digits of a method file outside the `methods` folder, so that editing it makes another run."""
    name, _ = grammar.split(text)
    if not name.endswith(".py"):
        return ""
    try:
        return sha256(Path(name))[:8]
    except OSError as error:
        raise UserError(f"there is no method file {name} that can be read: {error.strerror}.") from None


def process(text: str) -> Process:
    """`"flow[path=linear]"` or `"ddpm"` -> the diffusion process. Raises UserError like `method`."""
    from bench.diffusion.objectives import DDPM, FlowMatching

    kinds = {"flow": FlowMatching, "ddpm": DDPM}
    name, options = grammar.split(text)
    if name not in kinds:
        raise unknown("process", name, kinds)
    return grammar.configure(kinds[name], options, f"process {name}")


def run_spec(
    method: str,
    backbone: str,
    data: str,
    seed: int,
    *,
    native_precision: str = "fp32",
    process: str | None = None,
    training: dict[str, Any] | None = None,
    protocol: dict[str, Any] | None = None,
    **extra: Any,
) -> RunSpec:
    """A full spec: the data set's preset, its values for this backbone's size, then the given overrides.

    `native_precision` is the machine's, taken where neither preset nor overrides name one.

    Raises UserError where a name is unknown or a value is of another type or outside its range.
    """
    built = architecture(backbone)
    dataset = datasets.get(data)
    chosen = dataset.preset
    settings = {"precision": native_precision} | chosen["training"]
    settings |= settings.pop("sizes", {}).get(built.size, {})
    settings |= training or {}
    judged = {"data": dataset.identity} | chosen["protocol"]
    if dataset.reference_file:
        judged["reference"] = f"file {dataset.reference_identity}"
    try:
        return RunSpec(
            method=method,
            backbone=built.name,
            data=data,
            seed=seed,
            process=process or ("flow" if built.family == "sit" else "ddpm"),
            teacher=chosen["teacher"],
            reward_net=chosen["reward_net"],
            training=Training(**settings),
            protocol=Protocol(**judged | (protocol or {})),
            **extra,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the run"
        raise UserError(f"{where}={first['input']!r} cannot be used: {first['msg']}.") from None
