"""The contract of a backbone: the network that is trained, as data, training, sampling and methods see it.

A backbone is two classes in one file. Its `Architecture` is what a name stands for: options, sizes and cost,
without a single weight. `Architecture.build` makes the `Backbone`, the network itself. Such a file lies in
this folder and is found by its name, or anywhere and is named by its path, `my_backbone.py[width=128]`.

Time runs from data t = 0 to noise t = 1. Depth is 1-based: "after block d".
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, NamedTuple, dataclass_transform

from torch import Tensor, nn

from backbones.extras import Extra


class Output(NamedTuple):
    """What a backbone returns."""

    prediction: Tensor  # [B, C, H, W]: velocity (flow) or noise (DDPM)
    variance: Tensor | None  # [B, C, H, W], raw, about -1..1; None: the process takes a fixed one
    hidden: dict[int, Tensor]  # depth -> tokens after that block, [B, N, D], as asked for
    # Of a SiT or DiT, as asked for; image tokens alone.
    attention: Mapping[int, Tensor] = {}  # depth -> logits [B, heads, N, N], scaled, before softmax
    keys_values: Mapping[int, tuple[Tensor, Tensor]] = {}  # depth -> [B, heads, N, D / heads] each
    extras: Mapping[str, Tensor] = {}  # name -> prediction of that part of the state
    extra_hidden: Mapping[int, Tensor] = {}  # depth -> extra tokens after that block, [B, E, D]


@dataclass_transform(frozen_default=True)
@dataclass(frozen=True)
class Architecture:
    """All that decides a network, except the size, channels and classes of its images.

    Subclasses declare options as annotated fields with defaults, among them the fields of this class. Equal
    architectures are equal networks.
    """

    process: ClassVar[Literal["flow", "ddpm"]] = "flow"  # trained on this, unless another is asked for
    family: ClassVar[str] = ""  # groups sizes of one design in tables and plots; set on loading
    source: ClassVar[str] = ""  # name in this folder, or path as it was typed; set on loading

    size: str = ""  # key of `[training.sizes]` in the presets of data sets
    depth: int = 0  # blocks; methods may ask for the hidden state after each
    width: int = 0  # channels D of every hidden state
    heads: int = 1  # of a block's attention; 1 without attention
    patch: int = 1  # rows and columns of the image in one token of a hidden state

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    @property
    def name(self) -> str:
        """As it is typed: its source with the options that differ from their defaults."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        options = ",".join(f"{key}={str(chosen[key]).lower()}" for key in sorted(chosen))
        return f"{self.source}[{options}]" if options else self.source

    def grid(self, input_size: int) -> tuple[int, int]:
        """Rows and columns of tokens of a hidden state; N = rows * columns."""
        return (input_size // self.patch, input_size // self.patch)

    @abstractmethod
    def build(self, *, input_size: int, channels: int, num_classes: int) -> Backbone:
        """A freshly initialised network for images [channels, input_size, input_size].

        Raises ValueError if it cannot take such images.
        """

    def parameters(self, input_size: int, channels: int, num_classes: int) -> int:
        """Number of parameters; by default those of a network built without memory."""
        from backbones.cost import counted_parameters

        return counted_parameters(self, input_size, channels, num_classes)

    def flops(self, input_size: int, channels: int) -> int:
        """FLOPs of one forward pass for one image; by default those counted while it runs without data."""
        from backbones.cost import counted_flops

        return counted_flops(self, input_size, channels)


class Backbone(nn.Module):
    """A network that predicts velocity or noise from a noisy image, its time and its class."""

    # The parts that are sharded one by one (FSDP2) and after which hidden states are taken.
    blocks: nn.ModuleList
    extras: tuple[Extra, ...] = ()  # attached parts of the state

    def __init__(
        self, architecture: Architecture, *, input_size: int, channels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.input_size, self.channels, self.num_classes = input_size, channels, num_classes

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of a hidden state."""
        return self.architecture.grid(self.input_size)

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, label: Tensor, hidden_depths: tuple[int, ...] = ()) -> Output:
        """Predict from x_t [B, C, H, W] at t [B] in [0, 1], 1 = noise, for label [B] (null: num_classes).

        `hidden_depths` asks for the tokens [B, N, D] after these blocks, counted from 1. Sample i of the
        output depends on sample i of the input only. Further arguments of the same names as a SiT's are
        optional: a method that asks for one of them is refused on a backbone that does not take it.
        """

    def attach_extras(self, extras: tuple[Extra, ...]) -> None:
        """Give the state further parts, of which `forward` then takes the values, `extras`, by name.

        Raises ValueError for a backbone that has no place for them.
        """
        raise ValueError(f"{self.architecture.name} takes no extra state: use a SiT, such as sit-xl/2")

    @classmethod
    def takes(cls, argument: str) -> bool:
        """Whether `forward` has an argument of this name."""
        return argument in inspect.signature(cls.forward).parameters
