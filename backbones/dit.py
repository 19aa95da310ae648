"""DiT (arXiv 2212.09748): the transformer that predicts the noise of DDPM, and its variance."""

from torch import Tensor

from backbones.blocks import Transformer

TIMESTEPS = 1000


class DiT(Transformer):
    """Predicts noise and raw variance, [B, C, H, W] each. DDPM timestep k = 0..999 is t = (k + 1) / 1000."""

    def network_time(self, t: Tensor) -> Tensor:
        """The integer timestep k."""
        return (TIMESTEPS * t).round() - 1
