"""The networks that are trained: DiT (arXiv 2212.09748), SiT (arXiv 2401.08740), and those of your own.

`sit-xl/2` is family SiT, size XL, patch 2. A file dropped into this folder is found by its name. This module
is the register: it knows names and sizes, and imports no torch until an architecture is asked for.
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
DEFAULT = "sit-ti"  # where no backbone is named
Release = Literal["sit", "repa", "dit"]  # whose code wrote an official checkpoint

_FOLDER = Path(__file__).parent
_PARTS = (
    "__init__",
    "attention",
    "base",
    "blocks",
    "checkpoints",
    "cost",
    "dit",
    "extras",
    "official",
    "sit",
    "transformer",
    "weights",
)


def names() -> tuple[str, ...]:
    """All backbones, without patch; imports nothing."""
    return (*(f"{family}-{size}" for family in FAMILIES for size in SIZES), *dropped_in())


def dropped_in() -> tuple[str, ...]:
    """The backbones of files that were added to this folder."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem not in _PARTS))


def family(name: str) -> str:
    """The group of a backbone's name, `"sit-xl/2[rope=true]"` -> `"sit"`; a file is a family of its own."""
    base = name.partition("[")[0]
    first = base.partition("-")[0]
    return first if first in FAMILIES else Path(base).stem


def process_of(family: str) -> str:
    """What the networks of a family are trained on by default: "ddpm" for DiT, else "flow"."""
    return "ddpm" if family == "dit" else "flow"


def by_family(name: str) -> tuple[int, str]:
    """Sorting key that groups names by family, those of the papers first."""
    group = family(name)
    return (FAMILIES.index(group), group) if group in FAMILIES else (len(FAMILIES), group)


def architecture(name: str, **options: bool) -> TransformerArchitecture:
    """`architecture("sit-xl/4", qk_norm=True)`; the patch is 2 if none is given.

    Raises ValueError for an unknown name, patch or option, with the known ones.
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
    """The architecture of a file that was added to this folder, by its name.

    Raises ValueError if there is no such file, or it does not define exactly one.
    """
    from backbones.base import Architecture

    if name not in dropped_in():
        raise ValueError(f"no backbone '{name}'; there are {', '.join(names())}")
    module = importlib.import_module(f"backbones.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Architecture) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ValueError(
            f"'{name}' must define one subclass of backbones.base.Architecture, it defines {len(found)}"
        )
    found[0].source, found[0].family = name, name
    return found[0]


def build(
    architecture: Architecture,
    *,
    input_size: int,
    channels: int,
    num_classes: int,
    extras: tuple[Extra, ...] = (),
) -> Backbone:
    """A freshly initialised network for images [channels, input_size, input_size] and extra state.

    Raises ValueError if it cannot take such images or extras.
    """
    network = architecture.build(input_size=input_size, channels=channels, num_classes=num_classes)
    if extras:
        network.attach_extras(extras)
    return network
