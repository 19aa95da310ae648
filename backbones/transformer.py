"""Sizes and options that DiT and SiT share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backbones.base import Architecture

if TYPE_CHECKING:
    from backbones.dit import DiT
    from backbones.sit import SiT

OPTIONS = ("learned_variance", "qk_norm", "rms_norm", "rope", "swiglu")


class TransformerArchitecture(Architecture):
    """A size of the DiT paper's table, or one of ours; tokens are patches of the image.

    The last four options are departures from the published networks; their names are part of the backbone's.
    """

    # A second set of output channels: DiT's variance. Official SiT files have them too, unused.
    learned_variance: bool = False
    qk_norm: bool = False  # normalise queries and keys (arXiv 2302.05442)
    rms_norm: bool = False  # RMSNorm for LayerNorm
    rope: bool = False  # rotary positions in addition to the table (arXiv 2104.09864), by row and column
    swiglu: bool = False  # gated MLP of the same parameter count (arXiv 2002.05202)

    @property
    def name(self) -> str:
        """As it is typed: `sit-xl/2[qk_norm=true]`, with the options that depart from the family's usual."""
        usual = type(self)()
        changed = [option for option in OPTIONS if getattr(self, option) != getattr(usual, option)]
        departures = [f"{option}={str(getattr(self, option)).lower()}" for option in changed]
        name = f"{self.family}-{self.size}/{self.patch}"
        return f"{name}[{','.join(departures)}]" if departures else name

    def parameters(self, input_size: int, channels: int, num_classes: int) -> int:
        """In closed form, the fixed position table included, as in the papers' tables."""
        from backbones import cost

        return cost.parameters(self, input_size, channels, num_classes)

    def flops(self, input_size: int, channels: int) -> int:
        """In closed form, for one forward pass of one image."""
        from backbones import cost

        return cost.flops(self, input_size, channels)


class DiTArchitecture(TransformerArchitecture):
    """`dit-SIZE/PATCH`."""

    family = "dit"
    process = "ddpm"

    learned_variance: bool = True

    def build(self, *, input_size: int, channels: int, num_classes: int) -> DiT:
        """Officially initialised. Raises ValueError if the patch does not divide the image."""
        from backbones.dit import DiT  # takes seconds to import, which a plan need not wait for

        return DiT(self, input_size=input_size, channels=channels, num_classes=num_classes)


class SiTArchitecture(TransformerArchitecture):
    """`sit-SIZE/PATCH`."""

    family = "sit"
    process = "flow"

    def build(self, *, input_size: int, channels: int, num_classes: int) -> SiT:
        """Officially initialised. Raises ValueError if the patch does not divide the image."""
        from backbones.sit import SiT

        return SiT(self, input_size=input_size, channels=channels, num_classes=num_classes)
