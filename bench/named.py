"""From names to things: what a spec's method, backbone and process strings stand for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import backbones
import methods
from bench import grammar
from bench.errors import UserError, unknown

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
    if not name.endswith(".py") and name not in methods.names():
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
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()[:8]
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
