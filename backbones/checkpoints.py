"""Weights from files: official DiT, SiT and REPA checkpoints (`.pt`) in, our own (`.safetensors`) in and out.

All that leaves this module follows the suite: t = 0 is data, t = 1 is noise. Official SiT runs the other way
and its velocity f points at the data, so that

    v(x, t) = -f(x, 1 - t).

This is put into the weights once, on reading. The sign goes into the last layer. The time features of 1 - t
are a linear map of those of t, which goes into the layer that reads them:

    cos w(1 - t) = cos w · cos wt + sin w · sin wt
    sin w(1 - t) = sin w · cos wt - cos w · sin wt
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import backbones
from backbones import SIZES, Architecture
from backbones.blocks import Transformer, sinusoids

OFFICIAL = {"sit": "SiT's official code", "repa": "REPA's code or a fork", "dit": "DiT's official code"}
HEADER = "alignment-bench"  # our entry in the header of a safetensors file
NAMED = 3  # names of each kind in a refusal
# Parameters that tell an official network's sizes, and their dimensions.
TELLING = {
    "x_embedder.proj.weight": 4,
    "pos_embed": 3,
    "y_embedder.embedding_table.weight": 2,
    "final_layer.linear.weight": 2,
}

State = dict[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """A network's weights and what they fit."""

    architecture: Architecture
    input_size: int
    channels: int
    num_classes: int  # without the null class
    state: State
    found: str  # what the file held, in words
    projectors: State = field(default_factory=dict)  # REPA's: "1.2.weight" is encoder 1, layer 2

    def build(self) -> Transformer:
        """The network with these weights."""
        sizes = {"input_size": self.input_size, "channels": self.channels, "num_classes": self.num_classes}
        network = backbones.build(self.architecture, **sizes)
        network.load_state_dict(self.state)
        return network


def weights(path: str | Path, family: str | None = None) -> Weights:
    """What a file holds: `.safetensors` is ours, `.pt` and `.pth` are official files of a `family`.

    Raises ValueError, one line, for a file that is missing, of another kind, or refused by its reader.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ValueError(
            f"{path} is of no known kind of weights: .safetensors (ours), .pt or .pth (official)."
        )
    return _read_ours(path) if path.suffix == ".safetensors" else read_official(path, family=family)


def save(path: str | Path, network: Transformer) -> None:
    """Write a network as safetensors, with what it takes to build it in the header; whole or not at all."""
    path = Path(path)
    description = {
        "architecture": asdict(network.architecture),
        "input_size": network.side * network.architecture.patch,
        "channels": network.channels,
        "num_classes": network.num_classes,
    }
    state = {key: value.detach().contiguous() for key, value in network.state_dict().items()}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(state, unfinished, metadata={HEADER: json.dumps(description)})
    unfinished.replace(path)


def load(path: str | Path) -> Transformer:
    """The network that `save` wrote. Raises ValueError for a damaged file and for another program's."""
    return _read_ours(Path(path)).build()


def _read_ours(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}.") from None
    try:
        sizes = json.loads(header[HEADER])
        architecture = Architecture(**sizes.pop("architecture"))
        expected = _expected_shapes(architecture, **sizes)
    except Exception:  # whatever a header may say that makes no network
        raise ValueError(f"{path} was not written by this suite: no network in its header.") from None
    _refuse_differences(path, architecture, expected, state)
    return Weights(architecture, **sizes, state=state, found=f"{architecture.name}, saved by this suite")


@torch.no_grad()
def read_official(path: str | Path, *, family: str | None = None) -> Weights:
    """Weights from SiT's, REPA's or DiT's code, made to follow the conventions of this suite.

    The parameters may lie bare in the file, or under "ema" (preferred) or "model" beside optimiser and
    arguments. Sizes are read off the shapes. The family ("sit", "repa", "dit") must be told, since all three
    give the same names and shapes; projectors alone tell REPA. A SiT's variance channels, which nothing
    reads, are dropped. Nothing in the file is executed.

    Raises ValueError where the file cannot be read, where its family is not known, and where its parameters
    are not exactly those of one network, naming the first differences.
    """
    path = Path(path)
    if family not in (None, *OFFICIAL):
        raise ValueError(f"unknown family '{family}' for {path}. Known: {', '.join(OFFICIAL)}.")
    content = _unpickled(path)
    origin, state = _parameters(path, content)
    projectors = {key: state.pop(key) for key in list(state) if key.startswith("projectors.")}
    if family is None and (projectors or any(key.startswith("decoder_blocks.") for key in state)):
        family = "repa"
    state = _renumbered(state)
    architecture, sizes = _read_off(path, "dit" if family == "dit" else "sit", state)
    _refuse_differences(path, architecture, _expected_shapes(architecture, **sizes), state)
    if family is None:
        known = ", ".join(f"'{family}' ({code})" for family, code in OFFICIAL.items())
        raise ValueError(f"{path} fits several families alike; say its family: {known}.")
    predicted = getattr(content.get("args"), "prediction", "velocity")
    if family == "sit" and predicted != "velocity":
        raise ValueError(f"{path} predicts the {predicted}: only a SiT that predicts velocity is read.")

    if family == "repa" and architecture.learned_variance:
        raise ValueError(
            f"{path} has variance channels, which REPA's networks do not: if SiT's own code wrote it, its "
            "time runs the other way; say 'sit'."
        )

    changes = [f"{len({key.split('.')[1] for key in projectors})} projectors set apart"] if projectors else []
    if architecture.family == "sit" and architecture.learned_variance:
        architecture = replace(architecture, learned_variance=False)
        state = _without_variance(state, architecture.patch, sizes["channels"])
        changes.append("unused variance channels dropped")
    if family == "sit":
        state = _turned(state)
        changes.append("time and velocity turned round, so that t = 1 is noise")
    image = "inputs {channels} x {input_size} x {input_size}, {num_classes} classes and null".format(**sizes)
    return Weights(
        architecture,
        **sizes,
        state=state,
        found="; ".join([f"{architecture.name} by {OFFICIAL[family]}, {origin}", image, *changes]),
        projectors={key.removeprefix("projectors."): value for key, value in projectors.items()},
    )


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        # Training scripts store their arguments beside the weights. Big files are mapped, not read: of model,
        # EMA and optimiser only one is looked at.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except Exception as error:  # damaged files fail in many ways
        reason = "it is damaged, or another kind of file"
        if foreign := re.search(r"GLOBAL (\S+)", str(error)):
            reason = f"it needs {foreign[1]}, and only weights are read: save the parameters alone"
        raise ValueError(f"{path} cannot be read as PyTorch weights: {reason}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} instead of parameters by name.")
    return content


def _parameters(path: Path, content: dict[str, Any]) -> tuple[str, State]:
    """(where in the file, parameters without the prefixes of data-parallel and compiled networks)."""
    kinds = {"ema": "its EMA", "model": "its model without EMA"}
    place = next((place for place in kinds if isinstance(content.get(place), Mapping)), None)
    state = content[place] if place else content
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no parameters, neither bare nor under 'ema' or 'model'.")
    origin = kinds[place] if place else "its bare parameters"
    return origin, {re.sub(r"^(module\.|_orig_mod\.)+", "", str(key)): state[key] for key in state}


def _depth(state: State) -> int:
    return 1 + max((int(key.split(".")[1]) for key in state if re.match(r"blocks\.\d+\.", key)), default=-1)


def _renumbered(state: State) -> State:
    """REPA's first files count the blocks after the aligned one anew, as `decoder_blocks`."""
    aligned = _depth(state)

    def number(match: re.Match[str]) -> str:
        return f"blocks.{aligned + int(match[1])}."

    return {re.sub(r"^decoder_blocks\.(\d+)\.", number, key): value for key, value in state.items()}


def _read_off(path: Path, family: str, state: State) -> tuple[Architecture, dict[str, int]]:
    """The architecture that the shapes speak of, and the arguments that `backbones.build` takes beside it."""
    lacking = [key for key, rank in TELLING.items() if key not in state or state[key].ndim != rank]
    if lacking:
        held = ", ".join(list(state)[:NAMED])
        raise ValueError(f"{path} is no DiT or SiT: it lacks {', '.join(lacking)} and has {held}, ...")
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    depth, side = _depth(state), math.isqrt(state["pos_embed"].shape[1])
    size = next((size for size, shape in SIZES.items() if shape[:2] == (depth, width)), None)
    if size is None:
        known = ", ".join(f"{size} {depth} of {width}" for size, (depth, width, _) in SIZES.items())
        raise ValueError(f"{path} has {depth} blocks of width {width}, which is no known size: {known}.")
    architecture = backbones.architecture(
        f"{family}-{size}/{patch}",
        learned_variance=state["final_layer.linear.weight"].shape[0] == 2 * channels * patch**2,
        qk_norm=any(".attn.q_norm." in key for key in state),
    )
    rows = state["y_embedder.embedding_table.weight"].shape[0]
    return architecture, {"input_size": side * patch, "channels": channels, "num_classes": rows - 1}


def _expected_shapes(architecture: Architecture, **sizes: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = backbones.build(architecture, **sizes)
    return {key: value.shape for key, value in network.state_dict().items()}


def _refuse_differences(
    path: Path, architecture: Architecture, expected: dict[str, torch.Size], state: State
) -> None:
    """Raises ValueError unless the file has the network's names and shapes, all of them and no others."""
    differences = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(shape)}"
            for key, shape in expected.items()
            if key in state and state[key].shape != shape
        ],
    }
    listed = [
        f"{kind}: {', '.join(keys[:NAMED])}{f' and {len(keys) - NAMED} more' if len(keys) > NAMED else ''}"
        for kind, keys in differences.items()
        if keys
    ]
    if listed:
        raise ValueError(f"{path} is not exactly a {architecture.name}; {'; '.join(listed)}.")


def _without_variance(state: State, patch: int, channels: int) -> State:
    """Half the outputs: for each pixel of a patch first `channels` of velocity, then as many of variance."""
    last = {key: value for key, value in state.items() if key.startswith("final_layer.linear.")}
    return state | {
        key: value.unflatten(0, (patch**2, 2, channels))[:, 0].flatten(0, 1) for key, value in last.items()
    }


def _turned(state: State) -> State:
    """v(x, t) = -f(x, 1 - t) in the weights, see above; in float64, rounded once."""
    cos, sin = sinusoids(torch.ones(1, dtype=torch.float64)).chunk(2, dim=1)
    first = state["t_embedder.mlp.0.weight"]
    of_cos, of_sin = first.double().chunk(2, dim=1)
    turned = torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], dim=1)
    last = {key: -value for key, value in state.items() if key.startswith("final_layer.linear.")}
    return state | {"t_embedder.mlp.0.weight": turned.to(first.dtype)} | last
