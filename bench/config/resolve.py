"""From names to objects: run specifications, and the methods, backbones and processes that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import backbones
import methods
from bench.config.spec import InitialWeights, Protocol, RunSpec, Training
from bench.core import grammar
from bench.core.errors import UserError, invalid, unknown
from bench.core.files import sha256
from bench.data import datasets

if TYPE_CHECKING:
    from backbones.base import Architecture
    from bench.diffusion.objectives import Process
    from methods.base import Method


def architecture(text: str) -> Architecture:
    """`"sit-xl/2[qk_norm=true]"`, or a path of a Python file with options -> its architecture.

    Raises UserError for an unknown name or option, and for a file that is no backbone.
    """
    name, options = grammar.split(text)
    try:
        if name.endswith(".py") or name in backbones.dropped_in():
            return grammar.configure(backbones.load(name), options, f"backbone {name}")
        for key, value in options.items():
            if value not in ("true", "false"):
                raise UserError(f"option {key}={value} of {text} must be true or false.")
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


def process(text: str) -> Process:
    """`"flow[path=linear]"` or `"ddpm"` -> the diffusion process. Raises UserError like `method`."""
    from bench.diffusion.objectives import DDPM, FlowMatching

    kinds = {"flow": FlowMatching, "ddpm": DDPM}
    name, options = grammar.split(text)
    if name not in kinds:
        raise unknown("process", name, kinds)
    return grammar.configure(kinds[name], options, f"process {name}")


def method_source(text: str) -> str:
    """8 hex digits of a method file outside the `methods` folder, so that editing it makes another run."""
    name, _ = grammar.split(text)
    if not name.endswith(".py"):
        return ""
    try:
        return sha256(Path(name).expanduser())[:8]
    except OSError as error:
        raise UserError(f"there is no method file {name} that can be read: {error.strerror}.") from None


def _names(method_text: str, process_text: str) -> dict[str, Any]:
    """The fields of a spec that say what its method and process are."""
    found = method(method_text)
    return {
        "method": method_text,
        "resolved_method": grammar.resolved(Path(grammar.split(method_text)[0]).name, found),
        "method_version": found.version,
        "method_source": method_source(method_text),
        "process": process_text,
        "resolved_process": grammar.resolved(grammar.split(process_text)[0], process(process_text)),
    }


def _protocol(settings: dict[str, Any]) -> Protocol:
    """Nets that are named twice count once; samplers are looked up."""
    from bench.diffusion import samplers

    nets = settings["feature_nets"]
    found = Protocol(**settings | {"feature_nets": tuple(dict.fromkeys(nets))})
    both = (samplers.resolved(found.sampler_flow), samplers.resolved(found.sampler_ddpm))
    return found.model_copy(update={"resolved_samplers": both})


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
    weights: InitialWeights | None = None,
) -> RunSpec:
    """A full spec: the data set's preset, its values for this backbone's size, then the given overrides.

    `native_precision` is the machine's, taken if neither preset nor overrides name one.

    Raises UserError if a name is unknown or a value is of another type or outside its range.
    """
    built = architecture(backbone)
    process = process or built.process
    dataset = datasets.get(data)
    chosen = dataset.preset
    settings = {"precision": native_precision} | chosen["training"]
    settings |= settings.pop("sizes", {}).get(built.size, {})
    scored = {"data": dataset.identity} | chosen["protocol"]
    if dataset.reference_file:
        scored["reference"] = f"file {dataset.reference_identity}"
    try:
        return RunSpec(
            **_names(method, process),
            backbone=built.name,
            data=data,
            seed=seed,
            teacher=chosen["teacher"],
            reward_net=chosen["reward_net"],
            training=Training(**settings | (training or {})),
            protocol=_protocol(scored | (protocol or {})),
            weights=weights,
        )
    except ValidationError as error:
        raise invalid(error, "the run") from None
