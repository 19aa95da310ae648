"""Resolution of names: run specifications, methods, backbones and processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import backbones
import methods
from bench.config.spec import InitialWeights, Protocol, RunSpec, Training
from bench.core import grammar, plugin
from bench.core.errors import UserError, invalid, unknown
from bench.data import datasets

if TYPE_CHECKING:
    from backbones.base import Architecture
    from bench.diffusion.objectives import Process
    from methods.base import Method


def architecture(text: str) -> Architecture:
    """The architecture of a name, `sit-xl/2[qk_norm=true]`, or of a Python file with options.

    Raises:
        UserError: for an unknown name or option, and for a file that defines no backbone.
    """
    name, options = grammar.split(text)
    try:
        if plugin.is_file(name) or name in backbones.dropped_in():
            return grammar.configure(_architecture_class(name), options, f"backbone {name}")
        for key, value in options.items():
            if value not in ("true", "false"):
                raise UserError(f"option {key}={value} of {text} must be true or false.")
        return backbones.architecture(name, **{key: value == "true" for key, value in options.items()})
    except (ValueError, TypeError) as error:
        raise UserError(f"backbone {text}: {error}") from None


def _architecture_class(name: str) -> type[Architecture]:
    """The class of a backbone file, in `backbones/` or anywhere."""
    from backbones.base import Architecture

    found = plugin.load(name if plugin.is_file(name) else f"backbones.{name}", Architecture, "backbone")
    found.source, found.family = name, backbones.family(name)
    return found


def method_class(name: str) -> type[Method]:
    """The class of a method of `methods/`, or of the path of a Python file.

    Raises:
        UserError: for an unknown name, and for a file that defines no method.
    """
    from methods.base import Method

    if plugin.is_file(name):
        return plugin.load(name, Method, "method")
    if methods.shown(name) not in methods.names():
        raise unknown("method", name, methods.names())
    return plugin.load(f"methods.{name.replace('-', '_')}", Method, "method")


def method(text: str) -> Method:
    """The method of a name, `repa[weight=1.0]`, of a Python file with options, or of several joined by "+".

    It is configured, but not yet built.

    Raises:
        UserError: an unknown name, a file that defines no method, an unknown option or one of another type,
            or methods that cannot be combined.
    """
    from methods.composition import compose

    parts: dict[str, Method] = {}
    for summand in grammar.summands(text):
        name, found = _single_method(summand)
        if name in parts:
            raise UserError(f"{text} has {name} twice: combine different methods.")
        parts[name] = found
    try:
        return compose(parts)
    except ValueError as error:
        raise UserError(f"{text}: {error}.") from None


def _single_method(text: str) -> tuple[str, Method]:
    """(its name, or that of its file; the method)."""
    name, options = grammar.split(text)
    shown = methods.shown(Path(name).name)
    return shown, grammar.configure(method_class(name), options, f"method {name}")


def process(text: str) -> Process:
    """The diffusion process of a name, `flow[path=linear]` or `ddpm`. Raises UserError as `method`."""
    from bench.diffusion.objectives import DDPM, FlowMatching

    kinds = {"flow": FlowMatching, "ddpm": DDPM}
    name, options = grammar.split(text)
    if name not in kinds:
        raise unknown("process", name, kinds)
    return grammar.configure(kinds[name], options, f"process {name}")


def method_source(text: str) -> str:
    """8 hex digits for each file in a method's name: Python files, and weights that an option names.

    Files of `methods/` are not included; they have a `version` instead. Absent weights have none; the plan
    refuses them.
    """
    sources = [plugin.source(Path(name).expanduser()) for name in _files(text)]
    return "".join([*sources, *_weights(text)])


def _weights(text: str) -> Iterator[str]:
    from bench.nets import weights

    for summand in grammar.summands(text):
        name, options = grammar.split(summand)
        for value in options.values():
            if "weights" in value:
                yield from _weights(value)
        if "weights" in options:
            with suppress(UserError):
                yield weights.digest(weights.find(name, options["weights"]))[:8]


def _files(text: str) -> Iterator[str]:
    for summand in grammar.summands(text):
        name, options = grammar.split(summand)
        if plugin.is_file(name):
            yield name
        for value in options.values():
            if ".py" in value.lower():
                yield from _files(value)


def backbone_source(text: str) -> str:
    """8 hex digits of the file of a backbone that is not part of the package; "" for others."""
    name, _ = grammar.split(text)
    if name in backbones.dropped_in():
        return plugin.source(Path(backbones.__file__).parent / f"{name}.py")
    return plugin.source(Path(name).expanduser()) if plugin.is_file(name) else ""


def _names(method_text: str, backbone: Architecture, process_text: str) -> dict[str, Any]:
    """The fields of a spec that describe its method, backbone and process."""
    method(method_text)  # refuses methods that cannot be combined
    parts = [_single_method(summand) for summand in grammar.summands(method_text)]
    return {
        "backbone": backbone.name,
        "resolved_backbone": grammar.resolved(backbone.family, backbone),
        "backbone_source": backbone_source(backbone.name),
        "method": method_text,
        "resolved_method": "+".join(grammar.resolved(name, found) for name, found in parts),
        # Three digits for each of several methods.
        "method_version": 1 + sum((found.version - 1) * 1000**i for i, (_, found) in enumerate(parts)),
        "method_source": method_source(method_text),
        "process": process_text,
        "resolved_process": grammar.resolved(grammar.split(process_text)[0], process(process_text)),
    }


def _protocol(settings: dict[str, Any]) -> Protocol:
    """The protocol of these settings, with names resolved and duplicate networks removed."""
    nets = settings["feature_nets"]
    found = Protocol.model_validate(settings | {"feature_nets": tuple(dict.fromkeys(nets))})
    return with_checksums(found.model_copy(update=_resolved(found)))


def _resolved(protocol: Protocol) -> dict[str, tuple[str, ...]]:
    from bench.diffusion import samplers
    from bench.metrics import custom

    custom.load(protocol.metrics)  # refuses names that are taken
    return {
        "resolved_samplers": (
            samplers.resolved(protocol.sampler_flow),
            samplers.resolved(protocol.sampler_ddpm),
        ),
        "resolved_metrics": tuple(
            plugin.identity(text, custom.CustomMetric, "metric") for text in protocol.metrics
        ),
    }


def refuse_changed_files(protocol: Protocol) -> None:
    """Raises UserError if a Python file of the protocol, a sampler or metric, is not as it was recorded."""
    files = [*filter(plugin.is_file, (protocol.sampler_flow, protocol.sampler_ddpm)), *protocol.metrics]
    if files and protocol.model_copy(update=_resolved(protocol)) != protocol:
        raise UserError(f"{' or '.join(files)} was changed since the run was started: restore it.")


def with_checksums(protocol: Protocol) -> Protocol:
    """The protocol with the checksums of those feature networks whose weights are available.

    Raises:
        UserError: for an unknown network.
    """
    from bench.nets import metric_nets

    found = metric_nets.checksums(protocol.feature_nets)
    return protocol.model_copy(update={"checksums": tuple(f"{net}@{found[net]}" for net in found)})


def run_spec(
    method: str,
    backbone: str,
    data: str,
    seed: int,
    *,
    native_precision: str = "fp32",
    process: str | None = None,
    teacher: str | None = None,
    training: dict[str, Any] | None = None,
    protocol: dict[str, Any] | None = None,
    weights: InitialWeights | None = None,
) -> RunSpec:
    """A complete specification: the preset of the data set with its values for this backbone, and overrides.

    Args:
        method: name with options, as all names.
        backbone: name.
        data: name.
        seed: seed of all random numbers.
        native_precision: precision if neither the preset nor `training` gives one.
        process: name; None: the default of the backbone.
        teacher: encoder; None: the one recommended for the data set.
        training: fields of `Training` that override the preset.
        protocol: fields of `Protocol` that override the preset.
        weights: initial weights.

    Raises:
        UserError: an unknown name, or a value of another type or out of range.
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
            **_names(method, built, process),
            data=data,
            seed=seed,
            teacher=teacher or chosen["teacher"],
            reward_net=chosen["reward_net"],
            training=Training(**settings | (training or {})),
            protocol=_protocol(scored | (protocol or {})),
            weights=weights,
        )
    except ValidationError as error:
        raise invalid(error, "the run") from None
