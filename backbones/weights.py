"""Weights of a network read from a file, and the check that they are complete."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import backbones
from backbones.base import Architecture, Backbone
from backbones.extras import Extra

NAMED = 3  # names of each kind in an error message

State = dict[str, Tensor]
_FOREIGN = re.compile(r"GLOBAL (\S+)|globals: ([\w.]+)")


def foreign_content(error: Exception) -> str:
    """Why `torch.load(weights_only=True)` raised this, where a file holds more than weights; "" otherwise.

    The messages of torch and timm advise to unpickle the file, which would execute what it holds.
    """
    found = _FOREIGN.search(str(error))
    what = found and (found[1] or found[2])
    return f"it needs {what}, and only weights are read: save the parameters alone" if what else ""


@dataclass(frozen=True)
class Weights:
    """Weights of a network, and its architecture."""

    architecture: Architecture
    input_size: int
    channels: int
    num_classes: int  # without the null class
    state: State
    found: str  # description of the file
    process: str = ""  # that it was trained with, e.g. "flow[path=gvp]"; "": not recorded
    extras: tuple[Extra, ...] = ()  # additional parts of the state
    projectors: State = field(default_factory=State)  # of REPA; "1.2.weight" is encoder 1, layer 2

    def build(self) -> Backbone:
        """The network with these weights."""
        network = backbones.build(
            self.architecture,
            input_size=self.input_size,
            channels=self.channels,
            num_classes=self.num_classes,
            extras=self.extras,
        )
        network.load_state_dict(self.state)
        return network


def expected_shapes(architecture: Architecture, **sizes: Any) -> dict[str, torch.Size]:
    """Name -> shape of all parameters and buffers of a network; `sizes`: the arguments of `build`."""
    with torch.device("meta"):
        network = backbones.build(architecture, **sizes)
    return {key: value.shape for key, value in network.state_dict().items()}


def refuse_differences(
    path: Path, architecture: Architecture, expected: dict[str, torch.Size], state: State
) -> None:
    """Raises ValueError unless names and shapes in the file are exactly those of the network."""
    differences = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(shape)}"
            for key, shape in expected.items()
            if key in state and state[key].shape != shape
        ],
        "no floating-point numbers": [
            f"{key} {tensor.dtype}" for key, tensor in state.items() if not tensor.is_floating_point()
        ],
    }
    listed = [
        f"{kind}: {', '.join(keys[:NAMED])}{f' and {len(keys) - NAMED} more' if len(keys) > NAMED else ''}"
        for kind, keys in differences.items()
        if keys
    ]
    if listed:
        raise ValueError(f"{path} is not exactly a {architecture.name}; {'; '.join(listed)}.")
