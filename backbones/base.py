"""Interface of backbones, the networks that are trained.

A backbone is two classes in one file. Its `Architecture` holds options, sizes and cost, without weights;
`Architecture.build` returns the `Backbone`, the network itself. The file lies in this folder and is found by
its name, or anywhere and is given by its path, `my_backbone.py[width=128]`.

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
    """Output of a backbone."""

    prediction: Tensor  # [B, C, H, W]: velocity (flow) or noise (DDPM)
    variance: Tensor | None  # [B, C, H, W], raw, about -1..1; None: fixed by the process
    hidden: dict[int, Tensor]  # depth -> tokens after that block, [B, N, D], if requested
    # DiT and SiT only, if requested; for image tokens.
    attention: Mapping[int, Tensor] = {}  # depth -> logits [B, heads, N, N], scaled, before softmax
    keys_values: Mapping[int, tuple[Tensor, Tensor]] = {}  # depth -> [B, heads, N, D / heads] each
    extras: Mapping[str, Tensor] = {}  # name of an extra -> its prediction
    extra_hidden: Mapping[int, Tensor] = {}  # depth -> extra tokens after that block, [B, E, D]


@dataclass_transform(frozen_default=True)
@dataclass(frozen=True)
class Architecture:
    """Definition of a network, except for the size, channels and classes of its images.

    Subclasses declare options as annotated fields with defaults, and may give the fields of this class other
    defaults. Equal architectures build equal networks.
    """

    process: ClassVar[Literal["flow", "ddpm"]] = "flow"  # default diffusion process
    family: ClassVar[str] = ""  # groups backbones in tables and plots; set on loading
    source: ClassVar[str] = ""  # name in this folder, or path as typed; set on loading

    size: str = ""  # key of `[training.sizes]` in presets of data sets
    depth: int = 0  # number of blocks; methods may request the hidden state after each
    width: int = 0  # channels D of every hidden state
    heads: int = 1  # attention heads per block; 1 without attention
    patch: int = 1  # rows and columns of the image per token

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    @property
    def name(self) -> str:
        """The source with all options that differ from their defaults, as typed on the command line."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        options = ",".join(f"{key}={str(chosen[key]).lower()}" for key in sorted(chosen))
        return f"{self.source}[{options}]" if options else self.source

    def grid(self, input_size: int) -> tuple[int, int]:
        """Rows and columns of tokens in a hidden state; N = rows * columns."""
        return (input_size // self.patch, input_size // self.patch)

    @abstractmethod
    def build(self, *, input_size: int, channels: int, num_classes: int) -> Backbone:
        """A newly initialised network for images [channels, input_size, input_size].

        Raises:
            ValueError: the network does not support such images.
        """

    def parameters(self, input_size: int, channels: int, num_classes: int) -> int:
        """Number of parameters; by default counted on a network built without memory."""
        from backbones.cost import counted_parameters

        return counted_parameters(self, input_size, channels, num_classes)

    def flops(self, input_size: int, channels: int) -> int:
        """FLOPs of a forward pass for one image; by default counted in a run without data."""
        from backbones.cost import counted_flops

        return counted_flops(self, input_size, channels)


class Backbone(nn.Module):
    """A network that predicts velocity or noise from a noisy image, a time and a class label."""

    # Hidden states are taken after each block; FSDP2 shards them one by one.
    blocks: nn.ModuleList
    extras: tuple[Extra, ...] = ()  # attached extra parts of the state

    def __init__(
        self, architecture: Architecture, *, input_size: int, channels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.input_size, self.channels, self.num_classes = input_size, channels, num_classes

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in a hidden state."""
        return self.architecture.grid(self.input_size)

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, label: Tensor, hidden_depths: tuple[int, ...] = ()) -> Output:
        """Predict velocity or noise. Sample i of the output depends on sample i of the input only.

        Further arguments, with the names of those of a SiT, are optional: a method that requires one of them
        is refused on a backbone that lacks it.

        Args:
            x_t: [B, C, H, W], noisy images.
            t: [B] in [0, 1], 0 is data and 1 is noise.
            label: [B] int64; num_classes is the null class.
            hidden_depths: return the tokens [B, N, D] after these blocks, counted from 1.
        """

    def attach_extras(self, extras: tuple[Extra, ...]) -> None:
        """Add extra parts to the state. `forward` then takes their noised values by name, as `extras`.

        Raises:
            ValueError: the backbone does not support extras.
        """
        raise ValueError(f"{self.architecture.name} takes no extra state: use a SiT, such as sit-xl/2")

    @classmethod
    def takes(cls, argument: str) -> bool:
        """Whether `forward` has an argument of this name."""
        return argument in inspect.signature(cls.forward).parameters
