"""The networks that are trained: DiT (arXiv 2212.09748) and SiT (arXiv 2401.08740), by name.

`sit-xl/2` is family SiT, size XL, patch 2. This module is the register: it knows sizes, not tensors, and
imports no torch until a network is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backbones.blocks import Transformer

FAMILIES = ("sit", "dit")
# Size -> blocks, width, heads: table 1 of the DiT paper. The first three are ours: `ti` is small enough that
# a laptop's two cores train it on 8x8 images at tens of steps a second, deep enough to have an early and a
# late half; the two below it are for scaling curves on the same machine.
SIZES = {
    "pico": (2, 32, 2),
    "nano": (3, 64, 4),
    "ti": (4, 96, 4),
    "s": (12, 384, 6),
    "b": (12, 768, 12),
    "l": (24, 1024, 16),
    "xl": (28, 1152, 16),
}
PATCHES = (1, 2, 4, 8)
DEFAULT_PATCH = 2
OPTIONS = ("learned_variance", "qk_norm", "rms_norm", "rope", "swiglu")


@dataclass(frozen=True)
class Architecture:
    """All that decides a network's shape, beside the size of its images.

    The last four are departures from the published networks; their names are part of the backbone's id.
    """

    family: str  # "sit": predicts the velocity of flow matching; "dit": the noise of DDPM
    size: str
    patch: int  # pixels a side of a token
    depth: int  # blocks
    width: int
    heads: int
    # A second set of output channels: DiT's variance. Official SiT files have them too, unused.
    learned_variance: bool = False
    qk_norm: bool = False  # normalise queries and keys (arXiv 2302.05442)
    rms_norm: bool = False  # RMSNorm for LayerNorm
    rope: bool = False  # rotary positions beside the table (arXiv 2104.09864), by row and column
    swiglu: bool = False  # gated MLP of the same parameter count (arXiv 2002.05202)

    @property
    def name(self) -> str:
        """As it is typed: `sit-xl/2[qk_norm=true]`, with the options that depart from the family's usual."""
        usual = {"learned_variance": self.family == "dit"}
        chosen = {option: getattr(self, option) for option in OPTIONS}
        departures = [f"{o}={str(on).lower()}" for o, on in chosen.items() if on != usual.get(o, False)]
        name = f"{self.family}-{self.size}/{self.patch}"
        return f"{name}[{','.join(departures)}]" if departures else name


def names() -> tuple[str, ...]:
    """All backbones, without patch."""
    return tuple(f"{family}-{size}" for family in FAMILIES for size in SIZES)


def architecture(name: str, **options: bool) -> Architecture:
    """`architecture("sit-xl/4", qk_norm=True)`; the patch is 2 where none is given.

    Raises ValueError for an unknown name, patch or option, with the known ones.
    """
    base, slash, patch = name.partition("/")
    if base not in names():
        near = get_close_matches(base, names(), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"unknown backbone '{base}'.{hint} Known: {', '.join(names())}.")
    if slash and patch not in map(str, PATCHES):
        raise ValueError(f"unknown patch '/{patch}' of '{name}'. Known: {', '.join(map(str, PATCHES))}.")
    for option in options:
        if option not in OPTIONS:
            raise ValueError(f"unknown option '{option}' of '{name}'. Known: {', '.join(OPTIONS)}.")
    family, size = base.split("-")
    chosen = {"learned_variance": family == "dit"} | options
    return Architecture(family, size, int(patch or DEFAULT_PATCH), *SIZES[size], **chosen)


def build(architecture: Architecture, *, input_size: int, channels: int, num_classes: int) -> Transformer:
    """A freshly initialised network for images [channels, input_size, input_size].

    Raises ValueError where the patch does not divide the image.
    """
    from backbones.dit import DiT
    from backbones.sit import SiT

    network = {"sit": SiT, "dit": DiT}[architecture.family]
    return network(architecture, input_size=input_size, channels=channels, num_classes=num_classes)
