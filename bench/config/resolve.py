"""From names to objects: run specifications, and the methods, backbones and processes that they name."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import backbones
import methods
from bench.config.spec import InitialWeights, Protocol, RunSpec, Training
from bench.core import grammar
from bench.core.errors import UserError, invalid, unknown
from bench.core.files import json_hash, sha256
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
    """`"repa[weight=1.0]"`, a path of a Python file with options, or several joined by "+" -> a configured
    method, not yet built.

    Raises UserError for an unknown name, a file that is not a method, an unknown or ill-typed option, and
    methods that cannot be combined.
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
    """Its name as shown, or the name of its file; and the method."""
    name, options = grammar.split(text)
    if not methods.is_file(name) and methods.shown(name) not in methods.names():
        raise unknown("method", name, methods.names())
    try:
        found = methods.load(name)
    except ValueError as error:
        raise UserError(f"{error}.") from None
    shown = methods.shown(Path(name).name)
    return shown, grammar.configure(found, options, f"method {name}")


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
    names = [grammar.split(summand)[0] for summand in grammar.summands(text)]
    return "".join(_source(Path(name).expanduser()) for name in names if methods.is_file(name))


def backbone_source(text: str) -> str:
    """8 hex digits of the file of a backbone that does not come with the package."""
    name, _ = grammar.split(text)
    if name in backbones.dropped_in():
        return _source(Path(backbones.__file__).parent / f"{name}.py")
    return _source(Path(name).expanduser()) if name.endswith(".py") else ""


def _source(path: Path) -> str:
    """8 hex digits of a Python file and of those in its folder that it imports, directly or not."""
    files: dict[Path, str] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        try:
            files[file] = sha256(file)
            tree = ast.parse(file.read_bytes())
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}.") from None
        except (SyntaxError, ValueError) as error:
            raise UserError(f"{file} is no Python: {error}.") from None
        for top in _imported(tree) - {"bench", "methods", "backbones"}:
            neighbours = [path.parent / f"{top}.py", *(path.parent / top).glob("**/*.py")]
            waiting += [other for other in neighbours if other.is_file() and other not in files]
    if len(files) == 1:
        return files[path][:8]
    return json_hash({str(file.relative_to(path.parent)): digest for file, digest in files.items()})


def _imported(tree: ast.Module) -> set[str]:
    """The top-level modules and packages that a file imports."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return {name.partition(".")[0] for name in names}


def _names(method_text: str, backbone: Architecture, process_text: str) -> dict[str, Any]:
    """The fields of a spec that say what its method, backbone and process are."""
    method(method_text)  # refuses what cannot be combined
    parts = [_single_method(summand) for summand in grammar.summands(method_text)]
    return {
        "backbone": backbone.name,
        "resolved_backbone": grammar.resolved(backbone.family, backbone),
        "backbone_source": backbone_source(backbone.name),
        "method": method_text,
        "resolved_method": "+".join(grammar.resolved(name, found) for name, found in parts),
        # Of several methods each has three digits of its own.
        "method_version": 1 + sum((found.version - 1) * 1000**i for i, (_, found) in enumerate(parts)),
        "method_source": method_source(method_text),
        "process": process_text,
        "resolved_process": grammar.resolved(grammar.split(process_text)[0], process(process_text)),
    }


def _protocol(settings: dict[str, Any]) -> Protocol:
    """Nets that are named twice count once; samplers are looked up."""
    from bench.diffusion import samplers

    nets = settings["feature_nets"]
    found = Protocol.model_validate(settings | {"feature_nets": tuple(dict.fromkeys(nets))})
    both = (samplers.resolved(found.sampler_flow), samplers.resolved(found.sampler_ddpm))
    return with_checksums(found.model_copy(update={"resolved_samplers": both}))


def with_checksums(protocol: Protocol) -> Protocol:
    """The protocol with the checksums of its feature networks, of those whose weights are known by now.

    Raises UserError for an unknown network.
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
            **_names(method, built, process),
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
