"""Architectures of DiT and SiT: sizes and options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backbones.base import Architecture

if TYPE_CHECKING:
    from backbones.dit import DiT
    from backbones.sit import SiT

OPTIONS = ("learned_variance", "qk_norm", "rms_norm", "rope", "swiglu")


class TransformerArchitecture(Architecture):
    """Common options of DiT and SiT; tokens are patches of the image.

    The last four options depart from the published networks, and are part of the name of the backbone.
    """

    # Output channels for the variance of DiT; official SiT files have them, too, unused.
    learned_variance: bool = False
    qk_norm: bool = False  # normalise queries and keys (arXiv 2302.05442)
    rms_norm: bool = False  # RMSNorm for LayerNorm
    rope: bool = False  # rotary embedding by row and column, in addition to the table (arXiv 2104.09864)
    swiglu: bool = False  # gated MLP of the same parameter count (arXiv 2002.05202)

    @property
    def name(self) -> str:
        """As typed, `sit-xl/2[qk_norm=true]`, with all options that differ from the default of the family."""
        usual = type(self)()
        changed = [option for option in OPTIONS if getattr(self, option) != getattr(usual, option)]
        departures = [f"{option}={str(getattr(self, option)).lower()}" for option in changed]
        name = f"{self.family}-{self.size}/{self.patch}"
        return f"{name}[{','.join(departures)}]" if departures else name

    def parameters(self, input_size: int, channels: int, num_classes: int) -> int:
        """Number of parameters including the fixed position table, as in the papers; in closed form."""
        from backbones import cost

        return cost.parameters(self, input_size, channels, num_classes)

    def flops(self, input_size: int, channels: int) -> int:
        """FLOPs of a forward pass for one image; in closed form."""
        from backbones import cost

        return cost.flops(self, input_size, channels)


class DiTArchitecture(TransformerArchitecture):
    """`dit-SIZE/PATCH`."""

    family = "dit"
    process = "ddpm"

    learned_variance: bool = True

    def build(self, *, input_size: int, channels: int, num_classes: int) -> DiT:
        """Initialised as the official network. Raises ValueError if the patch does not divide the image."""
        from backbones.dit import DiT  # torch takes seconds to import; plans do not need it

        return DiT(self, input_size=input_size, channels=channels, num_classes=num_classes)


class SiTArchitecture(TransformerArchitecture):
    """`sit-SIZE/PATCH`."""

    family = "sit"
    process = "flow"

    def build(self, *, input_size: int, channels: int, num_classes: int) -> SiT:
        """Initialised as the official network. Raises ValueError if the patch does not divide the image."""
        from backbones.sit import SiT

        return SiT(self, input_size=input_size, channels=channels, num_classes=num_classes)
