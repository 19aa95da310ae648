"""Backbones, the networks that are trained: DiT (arXiv 2212.09748), SiT (arXiv 2401.08740) and custom ones.

`sit-xl/2` is family SiT, size XL, patch 2. A file added to this folder is found by its name. This module is
the registry of names and sizes; torch is imported only when an architecture is built.
"""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from backbones.base import Architecture, Backbone
    from backbones.extras import Extra
    from backbones.transformer import TransformerArchitecture

FAMILIES = ("sit", "dit")
# Size -> blocks, width, heads: table 1 of the DiT paper. The first three are ours: two laptop cores train
# `ti` on 8x8 images at tens of steps per second, and it is deep enough to have early and late blocks; the
# two smaller ones are for scaling curves on the same machine.
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
DEFAULT = "sit-ti"  # if no backbone is given
Release = Literal["sit", "repa", "dit", "diffusers"]  # code base that wrote an official checkpoint

_FOLDER = Path(__file__).parent
_PARTS = (
    "__init__",
    "arguments",
    "attention",
    "base",
    "blocks",
    "checkpoints",
    "cost",
    "dit",
    "extras",
    "layers",
    "official",
    "sit",
    "transformer",
    "weights",
)


def names() -> tuple[str, ...]:
    """The names of all backbones, without patch; imports nothing."""
    return (*(f"{family}-{size}" for family in FAMILIES for size in SIZES), *dropped_in())


def dropped_in() -> tuple[str, ...]:
    """The names of backbones in files that were added to this folder."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem not in _PARTS))


def family(name: str) -> str:
    """The family of a backbone, `"sit-xl/2[rope=true]"` -> `"sit"`; a file is its own family."""
    base = name.partition("[")[0]
    first = base.partition("-")[0]
    return first if first in FAMILIES else Path(base).stem


def process_of(family: str) -> str:
    """The default diffusion process of a family: "ddpm" for DiT, else "flow"."""
    return "ddpm" if family == "dit" else "flow"


def by_family(name: str) -> tuple[int, str]:
    """Sorting key of names: by family, DiT and SiT before custom ones."""
    group = family(name)
    return (FAMILIES.index(group), group) if group in FAMILIES else (len(FAMILIES), group)


def architecture(name: str, **options: bool) -> TransformerArchitecture:
    """The architecture of a DiT or SiT, for example `architecture("sit-xl/4", qk_norm=True)`.

    Args:
        name: `FAMILY-SIZE/PATCH`; the default patch is 2.
        options: names in `backbones.transformer.OPTIONS`.

    Raises:
        ValueError: unknown name, patch or option; the message lists the known ones.
    """
    from backbones.transformer import OPTIONS, DiTArchitecture, SiTArchitecture

    base, slash, patch = name.partition("/")
    kind, _, size = base.partition("-")
    if kind not in FAMILIES or size not in SIZES:
        near = get_close_matches(base, names(), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"unknown backbone '{base}'.{hint} Known: {', '.join(names())}.")
    if slash and patch not in map(str, PATCHES):
        raise ValueError(f"unknown patch '/{patch}' of '{name}'. Known: {', '.join(map(str, PATCHES))}.")
    for option in options:
        if option not in OPTIONS:
            raise ValueError(f"unknown option '{option}' of '{name}'. Known: {', '.join(OPTIONS)}.")
    made = {"sit": SiTArchitecture, "dit": DiTArchitecture}[kind]
    depth, width, heads = SIZES[size]
    sizes = {"depth": depth, "width": width, "heads": heads, "patch": int(patch or DEFAULT_PATCH)}
    return made(**sizes, size=size, **options)


def load(name: str) -> type[Architecture]:
    """The architecture class of a file that was added to this folder, by its name.

    Raises:
        ValueError: there is no such file.
    """
    from backbones.base import Architecture

    if name not in dropped_in():
        raise ValueError(f"no backbone '{name}'; there are {', '.join(names())}")
    module = importlib.import_module(f"backbones.{name}")
    own = (value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__)
    found = next(value for value in own if isinstance(value, type) and issubclass(value, Architecture))
    found.source, found.family = name, name
    return found


def build(
    architecture: Architecture,
    *,
    input_size: int,
    channels: int,
    num_classes: int,
    extras: tuple[Extra, ...] = (),
) -> Backbone:
    """A newly initialised network for images [channels, input_size, input_size].

    Args:
        architecture: options and sizes of the network.
        input_size: rows and columns of the image or latent.
        channels: channels of the image or latent.
        num_classes: number of classes, without the null class.
        extras: additional parts of the state.

    Raises:
        ValueError: the network does not support such images or extras.
    """
    network = architecture.build(input_size=input_size, channels=channels, num_classes=num_classes)
    if extras:
        network.attach_extras(extras)
    return network
